"""Images to score: their names and prompts in memory, their bytes where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lib import images, tables
from bench.lib.errors import BenchError
from bench.lib.prefetch import ahead
from bench.lib.reading import MOST_IMAGE, read_bytes
from bench.scoring.chunks import CHUNK

if TYPE_CHECKING:
    from PIL.Image import Image

_READ_AHEAD, _THREADS = 32, 8
"""Files are read this many ahead: on a network disk most of the time is waiting."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """N images, each with the prompt that it shows."""

    source: Path
    """Where they come from, for messages."""
    names: Sequence[str]
    """What each is called: its path inside the source, or its row."""
    prompts: Sequence[str]
    groups: Sequence[Mapping[str, str]]
    """Of each prompt, e.g. {"category": "Animals"}."""
    files: Sequence[Path]
    """One an image; or a single Parquet file with all of them."""
    column: str | None = None
    """Where the images are in the Parquet file."""
    by_style: bool = False
    """Whether they lie as HPSv2's benchmark has them: a folder a style, an image a prompt."""

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    @property
    def group_names(self) -> list[str]:
        """The groups that any prompt is in."""
        return list(dict.fromkeys(name for groups in self.groups for name in groups))

    def state(self) -> list[list[str | int]]:
        """What changes when a file is written to or replaced: its path, size, time and inode."""
        stats = ((os.path.abspath(path), _stat(path)) for path in self.files)
        return [[path, s.st_size, s.st_mtime_ns, s.st_ino] for path, s in stats]

    def encoded(self, positions: Sequence[int]) -> Iterator[bytes]:
        """The images at ascending positions as they are stored; b"" for one that is not there.

        Raises:
            BenchError: a file cannot be read.
        """
        if self.column is not None:
            table = tables.ArrowTable(files=(self.files[0],), source=str(self.source))
            rows = table.read([self.column], positions)
            return (_bytes(row.cells[self.column]) for row in rows)
        return ahead(_read, [self.files[i] for i in positions], _READ_AHEAD, _THREADS)

    def decoded(self, positions: Sequence[int]) -> Iterator[Image]:
        """The images at ascending positions, decoded beside the one who uses them.

        Raises:
            BenchError: an image cannot be read or decoded; names it.
        """

        def decode(item: tuple[int, bytes]) -> Image:
            position, data = item
            try:
                return images.decode(data)
            except ValueError as error:
                raise BenchError(f"{self.source}: {self.names[position]}: {error}") from error

        return ahead(decode, zip(positions, self.encoded(positions), strict=True), CHUNK)


def listed(names: Sequence[str]) -> str:
    """The first few names, for messages."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder into one sentence."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise BenchError(f"{name}: cannot be read ({error.strerror})") from error


def _stat(path: Path) -> os.stat_result:
    with reading(path):
        return path.stat()


def _read(path: Path) -> bytes:
    return read_bytes(path, MOST_IMAGE)


def _bytes(cell: object) -> bytes:
    """From bytes, or from the {"bytes", "path"} of `datasets`."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else b""
