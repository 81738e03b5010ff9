"""What a command may write to: never over what it reads, never over what it has not made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.lib.errors import BenchError


def sources(*plugins: Any) -> list[Path]:
    """The files and folders that plugins read, by the option `path` that readers have."""
    paths = (getattr(plugin, "path", None) for plugin in plugins)
    places = (Path(path).expanduser() for path in paths if path is not None)
    # A Hub id is no path that exists.
    return [path for path in places if path.exists()]


def apart(out: Path, read: Iterable[Path], flag: str = "--out ") -> None:
    """Raise `BenchError` if a file to be written is what is read, or lies in a folder that is.

    Args:
        out: the file to be written.
        read: files and folders that exist.
        flag: how messages call `out`.
    """
    place = out.resolve()
    for path in read:
        if path.is_dir() and place.is_relative_to(path.resolve()):
            raise BenchError(
                f"{flag}{out} lies in {path}, which is to be read; choose another folder"
            )
        if out.exists() and path.samefile(out):
            raise BenchError(f"{flag}{out} is what is to be read; choose another name")
