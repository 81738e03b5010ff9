"""Preference pairs in tables with columns of any name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from bench import BenchError, option
from bench.files import expanded, tables
from bench_plugins.preference_sets.mapping import Columns, ImageColumns, TableOfPairs
from bench_plugins.preference_sets.records import is_tabular, open_table, peek_columns

_CHOSEN = ("chosen", "rejected")
_LABELLED = ("image_0", "image_1", "label")
_TEXTS = (".csv", ".tsv", ".jsonl")
_HINT = "; name yours with prompt=, chosen=, rejected= (or image_0=, image_1=, label=)"


def is_table(path: Path) -> bool:
    """Whether a file or folder has this plugin's own column names, or is text."""
    if path.suffix.lower() in _TEXTS:
        return True
    columns = peek_columns(path) if is_tabular(path) else frozenset()
    return any(columns.issuperset(names) for names in (_CHOSEN, _LABELLED))


@dataclass(frozen=True, kw_only=True)
class PairsTable(TableOfPairs):
    """Columns of any name: Parquet, `datasets` folder, CSV, TSV, JSON lines, or the Hub.

    Either a chosen and a rejected image, or two images and a label (1 image 0, 0 image 1, 0.5 a
    tie; shares in between are read too). Images are bytes, {"bytes", "path"} structs as
    `datasets` has them, or paths. A .csv has quotes as usual, a .tsv has none.
    """

    name: ClassVar[str] = "table"
    path: str = option(doc="a file, a folder, or a Hub id", affects_results=False)
    prompt: str = option("prompt", "column of the prompts")
    chosen: str | None = option(None, "column of the preferred image; none: 'chosen'")
    rejected: str | None = option(None, "column of the other image; none: 'rejected'")
    image_0: str | None = option(None, "column of image 0, with a label; none: 'image_0'")
    image_1: str | None = option(None, "column of image 1, with a label; none: 'image_1'")
    label: str | None = option(None, "column of the share preferring image 0; none: 'label'")
    model_0: str | None = option(None, "column of the model of image 0, or of the chosen one")
    model_1: str | None = option(None, "column of the model of image 1, or of the rejected one")
    images: str | None = option(
        None, "folder of image paths; none: that of the file", affects_results=False
    )
    split: str = option("", "of a set that has several; none: train", affects_results=False)
    revision: str = option("main", "commit, branch or tag of a Hub id", affects_results=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """.csv, .tsv and .jsonl files, and tables with the column names of this plugin."""
        return is_table(path)

    @cached_property
    def _table(self) -> tables.Table:
        return open_table(self.path, self.split, self.revision)

    @property
    def _root(self) -> Path | None:
        return expanded(self.images) if self.images else super()._root

    @cached_property
    def _opened(self) -> tuple[tables.Table, Columns]:
        """The table and its columns: the explicit names, else the usual ones."""
        chosen, labelled = (self.chosen, self.rejected), (self.image_0, self.image_1, self.label)
        if any(chosen) and any(labelled):
            raise BenchError(
                f"{self.source}: give either chosen and rejected, or image_0, image_1 and label"
            )
        there = set(self._table.columns)
        usual = not there.issuperset(_CHOSEN) and there.issuperset(_LABELLED)
        label = None
        if any(labelled) or (usual and not any(chosen)):
            image_0, image_1, label = map(_first, labelled, _LABELLED)
        else:
            image_0, image_1 = map(_first, chosen, _CHOSEN)
        columns = Columns(
            prompt=self.prompt,
            images=(
                ImageColumns(image=image_0, model=self.model_0),
                ImageColumns(image=image_1, model=self.model_1),
            ),
            label=label,
        )
        tables.require(self._table, columns.names, _HINT)
        return self._table, columns


def _first(given: str | None, usual: str) -> str:
    return given or usual
