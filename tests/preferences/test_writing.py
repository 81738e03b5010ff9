"""The suite's own Parquet: what goes in comes out, and the same goes in gives the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench_plugins.preference_sets import PairsTable, PickAPic

from bench.api.kinds import PreferenceImage, PreferencePair
from bench.lib.errors import BenchError
from bench.preferences import writing
from bench.preferences.writing import PROVENANCE, PairWriter, convert
from tests import toy
from tests.toy import jpeg, write_pairs


def _pairs(count: int) -> list[PreferencePair]:
    rng = np.random.default_rng(1)
    return [
        toy.pair(
            row=i,
            caption=f"a “picture” {i}",
            image_0=jpeg(rng, 8),
            image_1=jpeg(rng, 8),
            human=[1.0, 0.0, 0.5, 0.25][i % 4],
            model_0="a",
            model_1="" if i % 2 else "b",
        )
        for i in range(count)
    ]


def _write(path: Path, pairs: list[PreferencePair]) -> Path:
    with PairWriter(path, {"made_by": "a test"}) as writer:
        for pair in pairs:
            writer.add(pair)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pairs = _pairs(150)
    path = _write(tmp_path / "deep" / "p.parquet", pairs)
    assert list(PickAPic(path=str(path)).read()) == pairs
    assert pq.read_metadata(path).num_row_groups == 3
    assert json.loads(pq.read_schema(path).metadata[PROVENANCE.encode()]) == {"made_by": "a test"}
    columns = pq.read_table(path, columns=["label_0", "label_1", "are_different", "has_label"])
    assert columns["label_1"].to_pylist() == [1 - v for v in columns["label_0"].to_pylist()]
    assert set(columns["has_label"].to_pylist()) == set(columns["are_different"].to_pylist())


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (_write(tmp_path / name, _pairs(70)) for name in ("a.parquet", "b.parquet"))
    assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_large_images_make_small_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = (PreferenceImage(data=bytes(600)), PreferenceImage(data=bytes(400)))
    pairs = [replace(pair, images=images) for pair in _pairs(10)]
    monkeypatch.setattr(writing, "ROW_GROUP_BYTES", 4000)
    path = _write(tmp_path / "p.parquet", pairs)
    groups = pq.read_metadata(path)
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4, 4, 2]
    assert list(PickAPic(path=str(path)).read()) == pairs


def test_an_unfinished_file_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.parquet", _pairs(3))
    before = path.read_bytes()
    broken = replace(_pairs(1)[0], human="not a number")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _write(path, [*_pairs(100), broken])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_seeds_and_scores_are_written_read_and_converted(tmp_path: Path) -> None:
    pairs = [
        replace(
            pair,
            images=(
                replace(pair.images[0], seed=2 * i, scores={"x": i / 2, "y[a=1]": 3.0}),
                # Nobody knows how the other one was drawn, and "y" has not seen it.
                replace(pair.images[1], scores={"x": -1.0}),
            ),
        )
        for i, pair in enumerate(_pairs(3))
    ]
    path, again = tmp_path / "p.parquet", tmp_path / "again.parquet"
    with PairWriter(path, {}, ["x", "y[a=1]"], seeds=True) as writer:
        for pair in pairs:
            writer.add(pair)
    assert list(PickAPic(path=str(path)).read()) == pairs
    assert pq.read_table(path)["reward_0.x"].to_pylist() == [0, 0.5, 1]
    convert(PickAPic(path=str(path)), again, {})
    assert again.read_bytes() == path.read_bytes()
    assert pq.read_schema(_write(tmp_path / "plain.parquet", pairs)).names[-1] == "has_label"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BenchError, match=r"p\.parquet: cannot be written \("),
        PairWriter(tmp_path / "file" / "p.parquet", {}),
    ):
        pass


def test_converting_copies_images_byte_by_byte(tmp_path: Path) -> None:
    source = PickAPic(path=str(write_pairs(tmp_path / "p.parquet", count=9, broken=[4])))
    advanced: list[int] = []
    done = convert(source, tmp_path / "o.parquet", {}, advanced.append)
    assert (done.written, list(done.left_out), sum(advanced)) == (9, [], 9)
    assert list(PickAPic(path=str(tmp_path / "o.parquet")).read()) == list(source.read())


def test_pairs_without_an_image_are_left_out_and_named(tmp_path: Path) -> None:
    for i in (0, 1, 3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(np.random.default_rng(i), 8))
    (tmp_path / "p.csv").write_text(
        "prompt,chosen,rejected\na,0.jpg,1.jpg\nb,2.jpg,3.jpg\nc,3.jpg,0.jpg\n"
    )
    done = convert(PairsTable(path=str(tmp_path / "p.csv")), tmp_path / "o.parquet", {})
    assert done.written == 2
    assert [(b.row, b.reason) for b in done.left_out] == [
        (1, f"chosen: there is no file {tmp_path / '2.jpg'}")
    ]
    captions = [pair.caption for pair in PickAPic(path=str(tmp_path / "o.parquet")).read()]
    assert captions == ["a", "c"]


def test_an_empty_set_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(BenchError, match="holds no pair with two images"):
        convert(PairsTable(path=str(tmp_path / "p.csv")), tmp_path / "o.parquet", {})
    assert not (tmp_path / "o.parquet").exists()
