"""Pick-a-Pic v2 and everything else in its schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from bench import PreferencePair, PreferenceSet, option
from bench.lib import hub
from bench_plugins.preference_sets.mapping import Columns, pairs_of
from bench_plugins.preference_sets.records import (
    ParquetRecords,
    Records,
    is_tabular,
    open_records,
    require,
)
from bench_plugins.preference_sets.table import is_table

_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0")
ORIGINAL = "yuvalkirstain/pickapic_v2"
PUBLISHED: Mapping[str, int] = {
    "train": 959_040,
    "validation": 20_596,
    "test": 20_716,
    "validation_unique": 500,
    "test_unique": 500,
}
"""Rows of the original by split, as its card said."""
_HINT = "; the preference set 'table' reads columns of other names"


@dataclass(frozen=True, kw_only=True)
class PickAPic(PreferenceSet):
    """Pick-a-Pic v2's schema: Parquet file or shards, a `datasets` folder, or the Hub.

    Columns read: caption, jpg_0, jpg_1 (encoded images), label_0 (share of people who prefer
    image 0; 0.5 is a tie), and model_0, model_1 if there. The image URL columns of the original
    are dead and never used. `has_label` and `are_different` are not read: Diffusion-DPO and its
    followers train on whatever has label_0 0 or 1, and PickScore's code filters by `has_label`
    outside the training split only.

    The original, yuvalkirstain/pickapic_v2, is gone from the Hub (yuvalkirstain/PickScore
    issue 36); it had 959,040 training pairs in 645 shards of 500 MB.
    """

    name: ClassVar[str] = "pickapic"
    path: str = option(doc="a .parquet file, a folder, or a Hub id", affects_results=False)
    split: str = option("", "of a set that has several; none: train", affects_results=False)
    revision: str = option("main", "commit, branch or tag of a Hub id", affects_results=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Parquet and `datasets` folders, but for those with the columns of `table`."""
        return is_tabular(path) and not is_table(path)

    @property
    def source(self) -> str:
        """The file, folder or Hub id."""
        return self._records.source

    def fingerprint(self) -> str:
        """A hash of the content, or the Hub commit."""
        return self._records.fingerprint()

    def count(self) -> int:
        """Rows by metadata."""
        require(self._records, _NEEDED, _HINT)
        return self._records.count()

    def published_count(self) -> int | None:
        """Of the original on the Hub, what its card said."""
        here = self.path != ORIGINAL or hub.local(self.path) is not None
        return None if here else PUBLISHED.get(self.split or "train")

    def labelled_by(self) -> tuple[str, ...]:
        """The scorers that made the labels, as the provenance of the suite's own files says."""
        records = self._records
        named = records.provenance().get("scorers") if isinstance(records, ParquetRecords) else ()
        return tuple(map(str, named or ()))

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        """The pairs in the order of the rows."""
        records = self._records
        require(records, _NEEDED, _HINT)
        model_0, model_1 = (n if n in records.columns else None for n in ("model_0", "model_1"))
        columns = Columns(
            prompt="caption",
            image_0="jpg_0",
            image_1="jpg_1",
            label="label_0",
            model_0=model_0,
            model_1=model_1,
        )
        return pairs_of(records.read(columns.names, rows), columns, records.root, records.source)

    @cached_property
    def _records(self) -> Records:
        return open_records(self.path, self.split, self.revision)
