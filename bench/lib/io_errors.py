"""Errors of the system in words: what cannot be written, and what cannot be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.lib.errors import BenchError, PluginError, StoreError

_WRITING = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EROFS: "the file system is read-only",
}
"""What only writing meets."""
_ANYWHERE = {
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the file server has lost it",
}
"""What reading meets as well."""


@contextmanager
def clear_io_errors(*written: Path) -> Iterator[None]:
    """Turn "disk full", "read-only" and the like into one sentence with the remedy.

    It also stands around the suite's own writing where that happens inside a plugin's call: the
    same errors in a plugin's own code are the plugin's.

    Args:
        written: the folders that this command writes to: its store and its output. An error that
            names a file elsewhere is one of reading what the user gave.

    Raises:
        StoreError: instead of those errors of writing.
        BenchError: instead of those of reading.
    """
    try:
        yield
    except OSError as error:
        clear = _in_words(error, written)
        if clear is None:
            raise
        raise clear from error
    except Exception as error:
        # Libraries written in Rust wrap the system's error in a class of their own.
        if is_full(error):
            raise _cannot_write("", "the disk is full") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error of any class, other than a plugin's, says that the disk is full."""
    full = ("No space left on device", "File too large")
    return not isinstance(error, PluginError) and any(text in str(error) for text in full)


def _in_words(error: OSError, written: Sequence[Path]) -> BenchError | None:
    number, name = error.errno or 0, _name(error)
    if number in _WRITING:
        return _cannot_write(name, _WRITING[number])
    if number not in _ANYWHERE:
        return None
    ours = not written or not name or any(_is_below(Path(name), folder) for folder in written)
    if ours:
        return _cannot_write(name, _ANYWHERE[number])
    return BenchError(f"cannot read {name}: {_ANYWHERE[number]}; what had finished is kept")


def _name(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _is_below(path: Path, folder: Path) -> bool:
    """Also where the folder cannot be made because of what lies above it."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _cannot_write(name: str, reason: str) -> StoreError:
    where = f" {name}" if name else ""
    return StoreError(
        f"cannot write{where}: {reason}; what had finished is kept, so make room or choose "
        f"another --store, then run the same command again"
    )
