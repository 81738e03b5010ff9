"""Writing pairs in the suite's own form: Parquet in Pick-a-Pic v2's schema, as a stream.

Of the original's columns those are written that training or filters read: caption, jpg_0, jpg_1,
label_0, label_1, model_0, model_1, are_different and has_label. Beside them stands what is known of
the images' making and worth: seed_0, seed_1 and each scorer's raw reward_0.SCORER, reward_1.SCORER.
Row groups are small, so that any part of a file of any size is read in little memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.api.contracts import read_pairs
from bench.api.kinds import PreferencePair, PreferenceSet
from bench.lib.errors import BenchError
from bench.preferences.inspecting import BrokenRow

ROW_GROUP, ROW_GROUP_BYTES = 64, 1 << 25
"""Pairs, and bytes of images, that are held in memory before they are written."""
PROVENANCE = "provenance"
"""Key of the Parquet schema's metadata that says how the pairs were made (JSON)."""


class PairWriter:
    """A Parquet file that grows pair by pair and appears under its name when it is whole.

    The same pairs and provenance give the same bytes. Use it as a context manager: what an
    exception leaves unfinished is removed.
    """

    def __init__(
        self,
        path: Path,
        provenance: Mapping[str, Any],
        scorers: Iterable[str] = (),
        *,
        seeds: bool = False,
    ) -> None:
        """Nothing is written before the block is entered.

        Args:
            path: the .parquet file; replaced if it is there.
            provenance: how the pairs were made, as JSON data.
            scorers: whose scores of the images are written.
            seeds: whether the seeds of the images are written.
        """
        self.path, self.count = path, 0
        self._scorers, self._seeds = tuple(scorers), seeds
        self._provenance = json.dumps(provenance, sort_keys=True)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            BenchError: it cannot be written there.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [
            ("caption", pa.string()),
            ("jpg_0", pa.binary()),
            ("jpg_1", pa.binary()),
            ("label_0", pa.float64()),
            ("label_1", pa.float64()),
            ("model_0", pa.string()),
            ("model_1", pa.string()),
            ("are_different", pa.bool_()),
            ("has_label", pa.bool_()),
            *((f"seed_{side}", pa.int64()) for side in (0, 1) if self._seeds),
            *((f"reward_{side}.{n}", pa.float64()) for n in self._scorers for side in (0, 1)),
        ]
        self._schema = pa.schema(fields, metadata={PROVENANCE: self._provenance})
        with self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # No codec: images do not shrink, and a codec's output differs between versions.
            self._writer = pq.ParquetWriter(
                self._temporary,
                self._schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
            )
        return self

    def add(self, pair: PreferencePair) -> None:
        """Append a pair; its position in the file is the number of pairs before it, not its row."""
        first, second = pair.images
        cells: dict[str, Any] = {
            "caption": pair.caption,
            "label_0": pair.human,
            "label_1": 1 - pair.human,
            "are_different": first.data != second.data,
            "has_label": True,
        }
        for side, image in enumerate(pair.images):
            cells |= {f"jpg_{side}": image.data, f"model_{side}": image.model}
            cells |= {f"seed_{side}": image.seed}
            cells |= {f"reward_{side}.{name}": score for name, score in image.scores.items()}
        self._waiting.append(cells)
        self.count += 1
        self._bytes += len(first.data) + len(second.data)
        if len(self._waiting) == ROW_GROUP or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        with self._clear_errors():
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting.clear()
        self._bytes = 0

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())
            raise BenchError(f"{self.path}: cannot be written ({reason})") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or remove it after an exception."""
        try:
            if kind is None and self._waiting:
                self._flush()
            with self._clear_errors():
                self._writer.close()
                if kind is None:
                    os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What became of a preference set."""

    written: int
    left_out: Sequence[BrokenRow]
    """Pairs that lack an image."""


def convert(
    pairs: PreferenceSet,
    path: Path,
    provenance: Mapping[str, Any],
    advance: Callable[[int], None] = lambda done: None,
) -> Converted:
    """Write a preference set as the suite's own Parquet.

    Images are copied as they are, byte by byte, and not decoded. A pair that lacks an image is
    left out. Seeds and scores are written if the first pair has them.

    Args:
        pairs: any preference set.
        path: the .parquet file to write.
        provenance: where the pairs come from, as JSON data.
        advance: called with the number of pairs done.

    Raises:
        BenchError: no pair is left, or the file cannot be written.
    """
    left_out = []
    stream = read_pairs(pairs)
    first = next(stream, None)
    images = first.images if first else ()
    scorers = dict.fromkeys(name for image in images for name in image.scores)
    seeds = any(image.seed is not None for image in images)
    with PairWriter(path, provenance, scorers, seeds=seeds) as writer:
        for pair in chain([first] if first else [], stream):
            if pair.problem:
                left_out.append(BrokenRow(row=pair.row, reason=pair.problem))
            else:
                writer.add(pair)
            advance(1)
        if not writer.count:
            raise BenchError(f"{pairs.source}: holds no pair with two images")
    return Converted(written=writer.count, left_out=left_out)
