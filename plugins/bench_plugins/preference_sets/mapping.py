"""From the columns of a table to preference pairs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from bench import BenchError, PreferenceImage, PreferencePair, PreferenceSet
from bench.files import MOST_IMAGE, ahead, below, cut, quoted, read_bytes, tables
from bench_plugins.preference_sets.records import HubTable, fingerprint, joined_hash, root_of

_AHEAD, _THREADS = 32, 8
"""Image files are read this many pairs ahead: on a network disk most of the time is waiting."""


class NoImageError(Exception):
    """An image cannot be had; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ImageColumns:
    """Which columns hold what is known of one of the two images."""

    image: str
    model: str | None = None
    seed: str | None = None
    scores: Mapping[str, str] = field(default_factory=dict)
    """Scorer -> its column."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what."""

    prompt: str
    images: tuple[ImageColumns, ImageColumns]
    label: str | None
    """Share of people who prefer image 0; None: image 0 is always the preferred one."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        every = [self.prompt, *(side.image for side in self.images), self.label]
        for side in self.images:
            every += [side.model, side.seed, *side.scores.values()]
        return list(dict.fromkeys(name for name in every if name is not None))


@dataclass(frozen=True, kw_only=True)
class TableOfPairs(PreferenceSet):
    """A table with a row a pair: a format says where it is and what its columns hold."""

    @cached_property
    def _table(self) -> tables.Table:
        raise NotImplementedError

    @cached_property
    def _opened(self) -> tuple[tables.Table, Columns]:
        """The table, and what its columns hold, which are all there."""
        raise NotImplementedError

    @property
    def _root(self) -> Path | None:
        """The folder that image paths lie in or below; None: there is none."""
        return root_of(self._table)

    def _rows(self, rows: Iterable[int] | None) -> Iterator[tables.Row]:
        table, columns = self._opened
        return table.read(columns.names, rows)

    @property
    def source(self) -> str:
        """The file, folder or Hub id."""
        return self._table.source

    def fingerprint(self) -> str:
        """A hash of the content, with names and sizes of image files; or the Hub commit."""
        own = fingerprint(self._table)
        if isinstance(self._table, HubTable):
            return own
        sides = [side.image for side in self._opened[1].images]
        rows = self._rows(None)
        first = next(rows, None)
        if first is None or all(path_of(first.cells.get(side)) is None for side in sides):
            return own
        paths = (path_of(row.cells.get(side)) for row in chain([first], rows) for side in sides)
        return joined_hash([own, paths_hash(paths, self._root)])

    def count(self) -> int:
        """Rows by metadata, or the lines or entries of a text; the columns have to be there."""
        return self._opened[0].count()

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        """The pairs in the order of the rows."""
        return pairs_of(self._rows(rows), self._opened[1], self._root, self.source)


def pairs_of(
    rows: Iterable[tables.Row], columns: Columns, root: Path | None, source: str
) -> Iterator[PreferencePair]:
    """The pairs that rows hold.

    Args:
        rows: of a table.
        columns: which column holds what.
        root: the folder of image paths, which lie in or below it; None: there is none.
        source: for messages.

    Raises:
        BenchError: a caption or label is not what it should be; names the row. An image that
            cannot be had is no error: it is the image's `problem`.
    """

    def pair(row: tables.Row) -> PreferencePair:
        where = f"{source}: row {row.number}: "
        first, second = (_image(row.cells, side, root) for side in columns.images)
        label = columns.label
        return PreferencePair(
            row=row.number,
            caption=_caption(row.cells.get(columns.prompt), where + columns.prompt),
            images=(first, second),
            human=1.0 if label is None else _share(row.cells.get(label), where + label),
        )

    return ahead(pair, rows, _AHEAD, _THREADS)


def _image(cells: Mapping[str, Any], columns: ImageColumns, root: Path | None) -> PreferenceImage:
    data, problem = b"", ""
    try:
        data = image_bytes(cells.get(columns.image), root)
    except NoImageError as error:
        problem = f"{columns.image}: {error}"
    model, seed = (cells.get(name) if name else None for name in (columns.model, columns.seed))
    scores = {scorer: cells.get(name) for scorer, name in columns.scores.items()}
    return PreferenceImage(
        data=data,
        model=model if isinstance(model, str) else "",
        seed=seed if _is_seed(seed) else None,
        scores={scorer: float(x) for scorer, x in scores.items() if isinstance(x, int | float)},
        problem=problem,
    )


def _is_seed(value: Any) -> bool:
    """Whether it can be the seed of an image's noise; -1 is how others say that it was random."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def image_bytes(value: Any, root: Path | None) -> bytes:
    """An encoded image from a cell: bytes, a path, or the {"bytes", "path"} of `datasets`.

    Raises:
        NoImageError: the cell is empty, the file cannot be read or lies elsewhere.
    """
    path = path_of(value)
    if path:
        if root is None:
            raise NoImageError("a path, but a set of the Hub has no folder; give it with images=")
        try:
            return read_bytes(below(root, path), MOST_IMAGE)
        except FileNotFoundError as error:
            raise NoImageError(f"there is no file {root / path}") from error
        except ValueError as error:
            hint = "; name their folder with images=" if "outside" in str(error) else ""
            raise NoImageError(f"{cut(path)} {error}{hint}") from error
        except BenchError as error:
            raise NoImageError(str(error)) from error
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes) and data:
        return data
    if data is None or data in (b"", ""):
        raise NoImageError("there is no image")
    raise NoImageError(f"expected an encoded image or a path, found {type(value).__name__}")


def path_of(value: Any) -> str | None:
    """The path in a cell that holds no image of its own."""
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    return value if isinstance(value, str) and value else None


def paths_hash(paths: Iterable[str | None], root: Path | None) -> str:
    """A hash of the names and sizes of image files, missing ones included.

    Reading every image at every start would take hours, and a changed image nearly always has
    another size.
    """
    total, folder = hashlib.sha256(), str(root or "")
    for path in paths:
        try:
            # A Path for each of a million names would double the time.
            size = os.stat(os.path.join(folder, path)).st_size if path else -1
        except (OSError, ValueError):
            size = -1
        total.update(f"{path}\0{size}\n".encode())
    return total.hexdigest()


def _caption(value: Any, where: str) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else f"of type {type(value).__name__}, not a text"
        raise BenchError(f"{where} is {kind}")
    return value


def _share(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        shown = "null" if value is None else quoted(value)
        raise BenchError(f"{where} is {shown}, expected 0 to 1 (0.5 a tie)")
    return number
