"""The Human Preference Data sets, HPDv2 and HPDv3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from bench import (
    BenchError,
    PreferencePair,
    PreferenceSet,
    option,
)
from bench.lib.reading import exists, expanded
from bench_plugins.preference_sets.mapping import Columns, pairs_of, path_of, paths_hash
from bench_plugins.preference_sets.records import JsonRecords, Record, joined_hash, require

_V3 = ("prompt", "path1", "path2")
_PATHS = ("image_path", "file_path")
_FLAT = Columns(prompt="prompt", image_0="image 0", image_1="image 1", label="human_preference")
_FLAT_NAMES = _FLAT.names


@dataclass(frozen=True, kw_only=True)
class HPD(PreferenceSet):
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

    @property
    def source(self) -> str:
        """The file."""
        return self.path

    def fingerprint(self) -> str:
        """A hash of the file and of the images' names and sizes."""
        paths = (
            path_of(record[side])
            for _, record in self._items(None)
            for side in (self._columns.image_0, self._columns.image_1)
        )
        return joined_hash([self._records.fingerprint(), paths_hash(paths, self._root)])

    def count(self) -> int:
        """Entries of the list."""
        require(self._records, self._needed)
        return self._records.count()

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        """The pairs in the order of the list."""
        return pairs_of(self._items(rows), self._columns, self._root, self.source)

    @cached_property
    def _records(self) -> JsonRecords:
        path = expanded(self.path)
        if not exists(path):
            raise BenchError(f"{self.path}: there is no such file")
        records = JsonRecords(path=path)
        if "rank" in records.columns:
            raise BenchError(
                f"{self.path}: ranks many images a prompt, as HPDv2's test.json does; only pairs "
                f"can be read, such as HPDv2's train.json"
            )
        return records

    @property
    def _is_v3(self) -> bool:
        return "path1" in self._records.columns

    @property
    def _needed(self) -> list[str]:
        if self._is_v3:
            return list(_V3)
        paths = next((name for name in _PATHS if name in self._records.columns), _PATHS[0])
        return ["prompt", paths, "human_preference"]

    @property
    def _columns(self) -> Columns:
        if not self._is_v3:
            return _FLAT
        model_0, model_1 = (n if n in self._records.columns else None for n in ("model1", "model2"))
        return Columns(
            prompt="prompt",
            image_0="path1",
            image_1="path2",
            label=None,
            model_0=model_0,
            model_1=model_1,
        )

    @property
    def _root(self) -> Path:
        if self.images:
            return expanded(self.images)
        file = self._records.path
        beside = file.with_suffix("")
        return beside if beside.is_dir() else file.parent

    def _items(self, rows: Iterable[int] | None) -> Iterator[tuple[int, Record]]:
        require(self._records, self._needed)
        if self._is_v3:
            return self._records.read(self._columns.names, rows)
        items = self._records.read(self._needed, rows)
        return ((row, self._flat(row, list(record.values()))) for row, record in items)

    def _flat(self, row: int, values: list[Any]) -> Record:
        """An entry of HPDv2 with a column for each image, and a share as label."""
        prompt, paths, votes = values
        counts = votes if isinstance(votes, list) and all(map(_is_count, votes)) else []
        if not isinstance(paths, list) or len(paths) != 2 or len(counts) != 2:
            raise BenchError(
                f"{self.path}: row {row}: expected two images and a number for each in "
                f"{self._needed[1]} and human_preference"
            )
        total = sum(counts)
        share = counts[0] / total if total else 0.5
        return dict(zip(_FLAT_NAMES, (prompt, *paths, share), strict=True))


def _is_count(value: object) -> bool:
    """Whether it is a number of votes; NaN, infinity and truth are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
