from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench_plugins.preference_sets import PickAPic

from bench import BenchError
from tests.toy import write_pairs


def test_rows_come_in_order(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=6)
    pairs = PickAPic(path=str(path)).load()
    assert PickAPic(path=str(path)).count() == 6
    assert pairs.captions == tuple(f"picture {i % 5}" for i in range(6))
    np.testing.assert_array_equal(pairs.human, [0, 1, 0, 1, 0.5, 1])
    frame = pd.read_parquet(path)
    assert pairs.images_1[3] == frame["jpg_1"][3]


def test_the_fingerprint_is_of_content_not_of_place(tmp_path: Path) -> None:
    one = write_pairs(tmp_path / "a.parquet")
    two = write_pairs(tmp_path / "b.parquet")
    other = write_pairs(tmp_path / "c.parquet", count=11)
    prints = [PickAPic(path=str(p)).fingerprint() for p in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label_0", 1.5, "row 2: label_0 is 1.5"),
        ("label_0", np.nan, "row 2: label_0 is nan"),
        ("caption", None, "row 2: caption is null"),
        ("jpg_0", None, "row 2: jpg_0 is null"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, column: str, value: object, message: str) -> None:
    path = write_pairs(tmp_path / "p.parquet", count=4)
    frame = pd.read_parquet(path)
    frame[column] = [value if i == 2 else v for i, v in enumerate(frame[column])]
    frame.to_parquet(path)
    with pytest.raises(BenchError, match=message) as caught:
        PickAPic(path=str(path)).load()
    assert str(path) in str(caught.value)


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"caption": ["a"], "jpg_0": [b""]}).to_parquet(path)
    with pytest.raises(BenchError, match=r"column 'jpg_1' is missing; it has caption, jpg_0"):
        PickAPic(path=str(path)).load()
    for wrong in (tmp_path / "gone.parquet", tmp_path):
        with pytest.raises(BenchError, match=r"cannot be read|not a"):
            PickAPic(path=str(wrong)).fingerprint()
    path.write_text("not parquet")
    with pytest.raises(BenchError, match="not a Parquet file"):
        PickAPic(path=str(path)).count()
