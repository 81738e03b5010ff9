"""Errors of the system that stop a whole run: where nothing can be written, nothing can be kept."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import PluginError, StoreError

_FATAL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "a part of the path is not a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


@contextmanager
def clear_io_errors() -> Iterator[None]:
    """Turn "disk full", "read-only" and the like into one sentence with the remedy.

    Put it around the suite's own writing, where that happens inside a plugin's call too: the same
    errors in a plugin's own code are the plugin's.

    Raises:
        StoreError: instead of those errors.
    """
    try:
        yield
    except OSError as error:
        reason = _FATAL.get(error.errno or 0)
        if reason is None:
            raise
        raise StoreError(_cannot_write(str(error.filename or ""), reason)) from error
    except Exception as error:
        # Libraries written in Rust wrap the system's error in a class of their own.
        if is_full(error):
            raise StoreError(_cannot_write("", "the disk is full")) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error of any class, other than a plugin's, says that the disk is full."""
    full = ("No space left on device", "File too large")
    return not isinstance(error, PluginError) and any(text in str(error) for text in full)


def _cannot_write(name: str, reason: str) -> str:
    where = f" {name}" if name else ""
    return (
        f"cannot write{where}: {reason}; what had finished is kept, so make room or choose "
        f"another --store, then run the same command again"
    )
