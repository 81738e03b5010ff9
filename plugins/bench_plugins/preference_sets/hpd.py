"""The Human Preference Data sets, HPDv2 and HPDv3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from bench import BenchError, option
from bench.files import expanded, tables
from bench_plugins.preference_sets.mapping import Columns, ImageColumns, TableOfPairs

_V3 = ("prompt", "path1", "path2")
_PATHS = ("image_path", "file_path")
_FLAT = Columns(
    prompt="prompt",
    images=(ImageColumns(image="image 0"), ImageColumns(image="image 1")),
    label="human_preference",
)
"""Of entries of HPDv2 with a column for each image."""


@dataclass(frozen=True, kw_only=True)
class HPD(TableOfPairs):
    """HPDv2's train.json or HPDv3's train.json or test.json, with the folder of their images.

    HPDv2: prompt, image_path (file_path in its card) with two names, human_preference with a 1
    for the preferred one; two equal numbers are a tie. Its test.json ranks nine images a prompt
    and holds no pairs. HPDv3: prompt, path1 (always the preferred one), path2, model1, model2;
    its choice_dist and confidence are not read.

    Image names are relative to `images`. By default that is the folder beside the JSON file that
    has its name (train.json: train/, as HPDv2 is unpacked), if there is one, else the file's own
    folder. Sources: ymhao/HPDv2 and MizzenAI/HPDv3 on the Hub.
    """

    name: ClassVar[str] = "hpd"
    path: str = option(doc="the .json file", affects_results=False)
    images: str | None = option(
        None, "folder of the images; none: beside the file", affects_results=False
    )

    @classmethod
    def reads(cls, path: Path) -> bool:
        """JSON files."""
        return path.suffix.lower() == ".json"

    @cached_property
    def _table(self) -> tables.FileTable:
        table = tables.read(expanded(self.path), most=None)
        if "rank" in table.columns:
            raise BenchError(
                f"{self.path}: ranks many images a prompt, as HPDv2's test.json does; only pairs "
                f"can be read, such as HPDv2's train.json"
            )
        return table

    @property
    def _is_v3(self) -> bool:
        return "path1" in self._table.columns

    @property
    def _needed(self) -> list[str]:
        if self._is_v3:
            return list(_V3)
        paths = next((name for name in _PATHS if name in self._table.columns), _PATHS[0])
        return ["prompt", paths, "human_preference"]

    @cached_property
    def _opened(self) -> tuple[tables.Table, Columns]:
        table = self._table
        tables.require(table, self._needed)
        if not self._is_v3:
            return table, _FLAT
        model_0, model_1 = (n if n in table.columns else None for n in ("model1", "model2"))
        images = (
            ImageColumns(image="path1", model=model_0),
            ImageColumns(image="path2", model=model_1),
        )
        return table, Columns(prompt="prompt", images=images, label=None)

    @property
    def _root(self) -> Path:
        if self.images:
            return expanded(self.images)
        file = expanded(self.path)
        beside = file.with_suffix("")
        return beside if beside.is_dir() else file.parent

    def _rows(self, rows: Iterable[int] | None) -> Iterator[tables.Row]:
        if self._is_v3:
            return super()._rows(rows)
        table, _ = self._opened
        return map(self._flat, table.read(self._needed, rows))

    def _flat(self, row: tables.Row) -> tables.Row:
        """An entry of HPDv2 with a column for each image, and a share as label."""
        prompt, paths, votes = (row.cells.get(name) for name in self._needed)
        counts = votes if isinstance(votes, list) and all(map(_is_count, votes)) else []
        if not isinstance(paths, list) or len(paths) != 2 or len(counts) != 2:
            raise BenchError(
                f"{self.path}: row {row.number}: expected two images and a number for each in "
                f"{self._needed[1]} and human_preference"
            )
        total = sum(counts)
        share = counts[0] / total if total else 0.5
        cells = (prompt, *paths, share)
        return row._replace(cells=dict(zip(_FLAT.names, cells, strict=True)))


def _is_count(value: object) -> bool:
    """Whether it is a number of votes; NaN, infinity and truth are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
