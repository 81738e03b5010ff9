"""Pick-a-Pic v2 and everything else in its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from bench import option
from bench.files import hub, tables
from bench_plugins.preference_sets.mapping import Columns, ImageColumns, TableOfPairs
from bench_plugins.preference_sets.records import is_tabular, open_table, provenance
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
class PickAPic(TableOfPairs):
    """Pick-a-Pic v2's schema: Parquet file or shards, a `datasets` folder, or the Hub.

    Columns read: caption, jpg_0, jpg_1 (encoded images), label_0 (share of people who prefer
    image 0; 0.5 is a tie), and if there model_0, model_1, and seed_0, seed_1, reward_0.SCORER,
    reward_1.SCORER of the suite's own files. The image URL columns of the original are dead and
    never used. `has_label` and `are_different` are not read: Diffusion-DPO and its followers train
    on whatever has label_0 0 or 1, and PickScore's code filters by `has_label` outside the
    training split only.

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

    def published_count(self) -> int | None:
        """Of the original on the Hub, what its card said."""
        here = self.path != ORIGINAL or hub.local(self.path) is not None
        return None if here else PUBLISHED.get(self.split or "train")

    def labelled_by(self) -> tuple[str, ...]:
        """The scorers that made the labels, as the provenance of the suite's own files says."""
        return tuple(map(str, provenance(self._table).get("scorers") or ()))

    @cached_property
    def _table(self) -> tables.Table:
        return open_table(self.path, self.split, self.revision)

    @cached_property
    def _opened(self) -> tuple[tables.Table, Columns]:
        tables.require(self._table, _NEEDED, _HINT)
        present = self._table.columns
        images = (_image_columns(present, 0), _image_columns(present, 1))
        return self._table, Columns(prompt="caption", images=images, label="label_0")


def _image_columns(present: Sequence[str], side: int) -> ImageColumns:
    """Those of image 0 or 1; beside the original's those of the suite's own files."""
    model, seed, score = f"model_{side}", f"seed_{side}", f"reward_{side}."
    return ImageColumns(
        image=f"jpg_{side}",
        model=model if model in present else None,
        seed=seed if seed in present else None,
        scores={name.removeprefix(score): name for name in present if name.startswith(score)},
    )
