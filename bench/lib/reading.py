"""Reading files that people made: regular ones of bounded size, with one sentence if they are not.

A pipe would block, a device never ends, and a file may have any name, size and content.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from bench.lib.errors import BenchError
from bench.lib.wording import quoted

MOST_TEXT = 1 << 30
"""Bytes of a file of texts that are held in memory."""
MOST_IMAGE = 1 << 28
"""Bytes of an encoded image."""
BLOCK, LONGEST = 1 << 20, 1 << 24
"""Bytes that are read at a time, and characters of the longest line or entry of a table."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of one half of a character outside the basic plane."""


def exists(path: Path) -> bool:
    """Whether something is there; no name is too long or too strange to ask."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def expanded(text: str) -> Path:
    """The path of a text, with "~" as the user's folder.

    Raises:
        BenchError: it names the folder of a user whom nobody knows.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise BenchError(
            f"{quoted(text)}: there is no such user's folder; set HOME or write it out"
        ) from error


def require_regular(path: Path) -> None:
    """Refuse what is no regular file.

    Raises:
        BenchError: nothing is there, or a folder, a pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: cannot be read ({_reason(error)})") from error
    if not stat.S_ISREG(mode):
        raise BenchError(f"{path} is {_kind(mode)}, not a file")


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or a socket; files, folders and names of nothing pass.

    Raises:
        BenchError: it is one of them, which would block or never end.
    """
    if exists(path) and not (path.is_file() or path.is_dir()):
        raise BenchError(
            f"{path} is {_kind(path.stat().st_mode)}; give a file or a folder, since what is read "
            f"is read more than once"
        )


def read_bytes(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes.

    Raises:
        BenchError: it is none, is larger, or cannot be read.
    """
    return b"".join(_blocks(path, most))


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """All of what `text_blocks` gives."""
    return "".join(text_blocks(path, most))


def text_blocks(path: Path, most: int | None = MOST_TEXT) -> Iterator[str]:
    r"""A regular UTF-8 file part by part, without a byte order mark, its line ends as "\n".

    Args:
        path: the file.
        most: bytes that it may have; None: any number.

    Raises:
        BenchError: as `read_bytes`, or it is not UTF-8 or no text; names the line.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    line = 1
    for number, data in enumerate(_blocks(path, most)):
        if number == 0 and data.startswith(_UTF16):
            raise BenchError(f"{path}: line 1: not UTF-8 but UTF-16; save the file as UTF-8")
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise BenchError(
                f"{path}: line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save "
                f"the file as UTF-8"
            ) from error
        if (null := text.find("\0")) >= 0:
            line += text.count("\n", 0, null)
            raise BenchError(
                f"{path}: line {line}: holds a NUL, so it is no text; save it as UTF-8"
            )
        line += text.count("\n")
        yield text


def text_lines(path: Path, most: int | None = MOST_TEXT) -> Iterator[str]:
    """The lines of what `text_blocks` gives, without their ends.

    Raises:
        BenchError: as `text_blocks`, or a line is longer than `LONGEST`.
    """
    rest, number = "", 0
    for block in text_blocks(path, most):
        # str.splitlines would also split at characters that may stand inside a text.
        *lines, rest = (rest + block).split("\n")
        number += len(lines)
        yield from lines
        if len(rest) > LONGEST:
            raise BenchError(
                f"{path}: line {number + 1}: has more than the {LONGEST:,} characters that are "
                f"read of one"
            )
    if rest:
        yield rest


def _blocks(path: Path, most: int | None) -> Iterator[bytes]:
    """The bytes of a regular file, `BLOCK` at a time; an empty block is the last."""
    require_regular(path)
    total = 0
    try:
        # A pipe that has taken the file's place since would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            while True:
                data = file.read(BLOCK)
                total += len(data)
                if most is not None and total > most:
                    raise BenchError(
                        f"{path}: has more than the {_size(most)} that are read of such a file"
                    )
                yield data
                if not data:
                    return
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: cannot be read ({_reason(error)})") from error


def decode_json(
    text: str, start: int = 0, decoder: json.JSONDecoder | None = None
) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends.

    Raises:
        json.JSONDecodeError: it is not JSON.
        ValueError: it is nested too deeply, or holds a key twice, half of a character, or a
            number of thousands of digits; says so.
    """
    try:
        value, end = (decoder or _DECODER).raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0]) from error
    if _HALF.search(text, start, end) and is_half(json.dumps(value, ensure_ascii=False)):
        raise ValueError(r"holds half of a character (such as \ud800 without its partner)")
    return value, end


def json_value(text: str, *, finite: bool = False) -> Any:
    """The one JSON value of a text.

    Args:
        text: all of it.
        finite: also refuse NaN and infinite numbers, which many writers put into JSON.

    Raises:
        json.JSONDecodeError, ValueError: as `decode_json`.
    """
    start = len(text) - len(text.lstrip(" \t\n\r"))
    decoder = _DECODER
    if finite:
        decoder = _FINITE if _may_overflow(text) else _NUMBERS
    value, end = decode_json(text, start, decoder)
    if text[end:].strip(" \t\n\r"):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def below(root: Path, name: str) -> Path:
    """The regular file that a table names, which must lie in or below a folder.

    Args:
        root: the folder.
        name: as the table has it; relative to the folder, or absolute.

    Returns:
        Its path without any link.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it lies elsewhere, by "..", an absolute path or a link, or is no regular file.
    """
    try:
        folder = _real(os.path.abspath(root))
        file = os.path.realpath(os.path.join(folder, name))
        if os.path.commonpath([folder, file]) != folder:
            raise ValueError(f"lies outside of {root}, below which images are read")
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read ({_reason(error)})") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"is {_kind(mode)}, not a file")
    return Path(file)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {quoted(twice)} is there twice")
    return members


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_NUMBERS = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)
_FINITE = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite
)
_LONG_EXPONENT = re.compile(r"[eE]\+?[0-9]{3,}(?=[\s,\]}]|\Z)")


def _may_overflow(text: str) -> bool:
    """Whether a number in JSON may be too large for a float; False is certain.

    What is above 1e308 has an exponent of three digits, or 200 digits before it, which fill one of
    the blocks that are looked at. Looking at each number takes far longer.
    """
    return bool(_LONG_EXPONENT.search(text)) or any(
        text[start : start + 100].isdigit() for start in range(0, len(text), 100)
    )


def is_half(text: str) -> bool:
    """Whether a text holds half of a character, a surrogate without its partner."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


@lru_cache(maxsize=64)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _size(number: int) -> str:
    return f"{number >> 20:,} MiB" if number >= 1 << 20 else f"{number >> 10:,} KiB"
