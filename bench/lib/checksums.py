"""Files that notice any damage to themselves: their bytes carry their own checksum.

A file of JSON data whose checksum is right, but which is written differently (a key twice, other
blanks), is damaged as well: only the very bytes that `seal` gives are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CHECKSUM = "checksum"
_LARGEST = 2**28
"""Bytes of JSON that are read at most; an artefact of a million files has fewer."""


def seal(data: Mapping[str, Any]) -> bytes:
    """JSON text of the data, for people to read, with the checksum of all of it.

    `data` holds JSON data with text as keys, and no member named "checksum".
    """
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return (json.dumps({**data, _CHECKSUM: digest}, indent=1, sort_keys=True) + "\n").encode()


def unseal(text: bytes) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: the text is not, byte for byte, what `seal` gives.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("no JSON object")
        data.pop(_CHECKSUM, None)
        same = seal(data) == text
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not same:
        raise ValueError("the checksum differs")
    return data


def read(path: Path) -> dict[str, Any]:
    """What a file of `seal`'s bytes holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, which might never end, or it is damaged.
    """
    return unseal(_read_regular(path))


def read_note(path: Path, name: str, kind: type[T]) -> T | None:
    """A member of what `seal` wrote, of what can be done without; None where it is no `kind`."""
    try:
        value = read(path).get(name)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, kind) else None


def add_checksum(data: bytes) -> bytes:
    """The data after its own checksum, for files that are not JSON."""
    return hashlib.sha256(data).digest() + data


def read_checked(path: Path) -> bytes:
    """The data of a file that `add_checksum` made.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or it is damaged.
    """
    content = _read_regular(path, largest=None)
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError("the checksum differs")
    return data


def _read_regular(path: Path, largest: int | None = _LARGEST) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("no regular file")
        if largest is not None and state.st_size > largest:
            raise ValueError("too large")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)
