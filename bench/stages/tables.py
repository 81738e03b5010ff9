"""Columns of numbers that stages leave, as Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.lib.files import write_atomic


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Leave columns of one length; the same values give the same bytes."""
    import pandas as pd

    write_atomic(path, pd.DataFrame(dict(columns)).to_parquet(index=False))


def read_columns(path: Path, *names: str) -> list[np.ndarray]:
    """Columns that `write_columns` left, as float64."""
    import pandas as pd

    frame = pd.read_parquet(path)
    return [frame[name].to_numpy(dtype=np.float64) for name in names]
