"""Hashes, and files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NO_SYNC = frozenset((errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EROFS, errno.EACCES))
"""What says that a file system cannot be asked to write out a file or folder."""


def content_key(data: Mapping[str, Any]) -> str:
    """The key of JSON data: 20 hex digits of the sha256 of its canonical form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: its place; what is there is replaced.
        data: all of it.
        durable: wait until the bytes would outlive a loss of power.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        if durable:
            sync(temporary)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what then takes a file's place; it stays as it is if the block fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
