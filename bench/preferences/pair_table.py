"""Which pairs of a preference set a run uses, and what people said of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.lib.errors import BenchError
from bench.lib.files import write_atomic

FILE = "pairs.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTable:
    """The N usable pairs of a preference set, without their images."""

    rows: np.ndarray
    """int64 [N]: positions in the preference set, ascending."""
    captions: tuple[str, ...]
    human: np.ndarray
    """float64 [N]: share of people who prefer image 0; 0.5 is a tie."""


def write(table: PairTable, folder: Path) -> None:
    """Leave the table in `folder`; the same pairs give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "row": pa.array(table.rows, pa.int64()),
        "caption": pa.array(table.captions, pa.string()),
        "human": pa.array(table.human, pa.float64()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomic(folder / FILE, buffer.getvalue())


def read(folder: Path) -> PairTable:
    """The table that `write` left in `folder`.

    Raises:
        BenchError: there is none, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / FILE
    try:
        table = pq.ParquetFile(path).read(columns=["row", "caption", "human"])
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path}: no readable table of pairs ({reason})") from error
    return PairTable(
        rows=table["row"].to_numpy(),
        captions=tuple(table["caption"].to_pylist()),
        human=table["human"].to_numpy(),
    )
