"""Preference sets in their official file formats."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench import BenchError, PreferencePairs, PreferenceSet, hookimpl, option

if TYPE_CHECKING:
    from pyarrow import Table


@dataclass(frozen=True, kw_only=True)
class PickAPic(PreferenceSet):
    """A Parquet file in the schema of Pick-a-Pic v2.

    Columns read: caption, jpg_0, jpg_1 (encoded images), label_0 (share of people who prefer
    image 0; 0.5 is a tie). The image URL columns of the original are dead and never used.
    """

    name: ClassVar[str] = "pickapic"
    path: str = option(doc="the .parquet file", in_key=False)

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Parquet files."""
        return path.suffix == ".parquet"

    def fingerprint(self) -> str:
        """The sha256 of the file."""
        try:
            with Path(self.path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BenchError(f"{self.path}: cannot be read ({error.strerror})") from error

    def count(self) -> int:
        """Rows by the file's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows: int = pq.read_metadata(self.path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise BenchError(f"{self.path}: not a Parquet file ({_line(error)})") from error
        return rows

    def load(self) -> PreferencePairs:
        """All rows in file order."""
        table = self._read(["caption", "jpg_0", "jpg_1", "label_0"])
        human = table["label_0"].to_numpy().astype("float64")
        for row, label in enumerate(human.tolist()):
            if not 0 <= label <= 1:
                raise BenchError(
                    f"{self.path}: row {row}: label_0 is {label}, expected 0 to 1 (0.5 a tie)"
                )
        captions = table["caption"].to_pylist()
        columns = {name: table[name].to_pylist() for name in ("jpg_0", "jpg_1")}
        for name, values in {"caption": captions, **columns}.items():
            if None in values:
                raise BenchError(f"{self.path}: row {values.index(None)}: {name} is null")
        return PreferencePairs(
            captions=tuple(captions),
            images_0=tuple(columns["jpg_0"]),
            images_1=tuple(columns["jpg_1"]),
            human=human,
            source=self.path,
        )

    def _read(self, columns: list[str]) -> Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            present = pq.read_schema(self.path).names
            missing = [c for c in columns if c not in present]
            if missing:
                raise BenchError(
                    f"{self.path}: column {missing[0]!r} is missing; it has {', '.join(present)}"
                )
            return pq.read_table(self.path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise BenchError(
                f"{self.path}: not a readable Parquet file ({_line(error)})"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


@hookimpl
def bench_preference_sets() -> Sequence[type[PreferenceSet]]:
    """The formats above."""
    return (PickAPic,)
