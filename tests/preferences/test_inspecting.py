"""Every pair looked at once: exact counts, filters in order, resuming, sharing."""

from __future__ import annotations

import csv
import io
import os
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, features

from bench.api.kinds import PreferenceGroup, PreferenceImage, PreferencePair, PreferenceSet
from bench.lib.distributed import ALONE, World
from bench.lib.errors import BenchError
from bench.preferences import inspecting
from bench.preferences import pair_table as table
from bench.preferences.inspecting import SKIPPED, inspect, look, summary
from bench.recipe.recipe import PairFilters
from tests import toy
from tests.toy import jpeg

PICTURES = {size: jpeg(np.random.default_rng(size), size) for size in (8, 16, 24)}


@dataclass(frozen=True, kw_only=True)
class Listed(PreferenceSet):
    """Pairs from memory, which notes what was read."""

    name: ClassVar[str] = "listed"
    pairs: tuple[PreferenceGroup, ...]
    read_rows: list[int] = field(default_factory=list)
    claimed: int | None = None

    def count(self) -> int:
        return len(self.pairs) if self.claimed is None else self.claimed

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferenceGroup]:
        for row in range(len(self.pairs)) if rows is None else rows:
            if row < len(self.pairs):
                self.read_rows.append(row)
                yield self.pairs[row]


def _pair(row: int, **changes: Any) -> PreferencePair:
    values: dict[str, Any] = {
        "caption": f"caption {row % 4}",
        "image_0": PICTURES[16],
        "image_1": PICTURES[16],
        "human": [1.0, 0.0, 0.5][row % 3],
        "model_0": "a",
        "model_1": "a",
    }
    return toy.pair(row=row, **(values | changes))


def _listed(count: int, changes: dict[int, dict[str, Any]] | None = None) -> Listed:
    changes = changes or {}
    return Listed(pairs=tuple(_pair(i, **changes.get(i, {})) for i in range(count)))


def _inspect(
    pairs: PreferenceSet,
    folder: Path,
    *,
    share: float = 0.5,
    world: World = ALONE,
    **filters: Any,
) -> dict[str, int]:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    done: list[int] = []
    counts = inspect(
        pairs,
        PairFilters(**filters),
        max_broken_share=share,
        folder=folder / "out",
        work=folder / "work",
        world=world,
        advance=done.append,
    )
    # The main process, which has a share of every turn, is the one that shows progress.
    assert sum(done) >= pairs.count() - counts["unread"] or not world.is_main
    return counts


def _skipped(folder: Path) -> dict[int, str]:
    with (folder / "out" / SKIPPED).open(newline="") as file:
        return {int(line["row"]): line["reason"] for line in csv.DictReader(file)}


def test_without_filters_all_that_can_be_decoded_is_kept(tmp_path: Path) -> None:
    pairs = _listed(
        12,
        {
            3: {"image_1": b"not a picture"},
            7: {"image_0": PICTURES[16][:60]},
            8: {"image_0": b"", "problem": "chosen: there is no file x.jpg"},
        },
    )
    counts = _inspect(pairs, tmp_path)
    assert counts == {
        "pairs": 12,
        "broken": 3,
        # Rows 2, 5, 8, 11 are ties; row 8 is broken.
        "ties": 3,
        **{f"dropped_{name}": 0 for name in PairFilters.model_fields},
        "usable": 9,
        "unread": 0,
    }
    skipped = _skipped(tmp_path)
    assert skipped[3] == "image_1: cannot identify image file"
    assert skipped[7].startswith("image_0: ")
    assert skipped[8] == "chosen: there is no file x.jpg"
    usable = table.read(tmp_path / "out")
    assert usable.rows.tolist() == [0, 1, 2, 4, 5, 6, 9, 10, 11]
    assert usable.rows.dtype == np.int64
    assert usable.captions == tuple(f"caption {row % 4}" for row in usable.rows)
    np.testing.assert_array_equal(usable.human, [[1, 0, 0.5][row % 3] for row in usable.rows])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_every_way_that_a_decoder_fails_is_a_broken_pair() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "AVIF")
    whole = buffer.getvalue()
    # libavif's own errors are neither OSError nor ValueError.
    start = whole.index(b"mdat") + len(b"mdat")
    harmed = whole[:start] + bytes(len(whole) - start)
    assert look(_pair(0, image_0=whole)) == (((16, 16),) * 2, "")
    assert look(_pair(0, image_1=harmed))[1].startswith("image_1: Failed to decode")


def test_of_a_group_the_best_and_the_worst_image_are_the_pair(tmp_path: Path) -> None:
    """Only they are decoded: what stands between them may be broken."""
    ranked = [((1, 2, 3), 1.0), ((3, 2, 1), 0.0), ((2, 3, 1), 0.0), ((1, 1, 1), 0.5)]
    groups = []
    for row, (ranks, _) in enumerate(ranked):
        images = [PreferenceImage(data=PICTURES[16], model=f"rank {rank}") for rank in ranks]
        if row < 2:
            images[1] = PreferenceImage(data=b"not a picture")
        groups.append(
            PreferenceGroup(row=row, caption="a", images=tuple(images), human=ranks, source=b"s")
        )
    counts = _inspect(Listed(pairs=tuple(groups)), tmp_path)
    assert (counts["usable"], counts["ties"], counts["broken"]) == (4, 1, 0)
    usable = table.read(tmp_path / "out")
    assert usable.human.tolist() == [share for _, share in ranked]


def test_filters_apply_in_their_order_and_each_pair_counts_once(tmp_path: Path) -> None:
    pairs = _listed(
        24,
        {
            0: {"image_1": b"broken", "human": 0.5},
            1: {"model_1": "b"},
            2: {"model_0": "", "model_1": ""},  # a tie too, which is asked first
            3: {"image_0": PICTURES[8]},
            4: {"model_0": "", "model_1": ""},
            6: {"image_1": PICTURES[8], "model_1": "b"},  # same_model is asked first
            7: {"image_0": PICTURES[24]},
        },
    )
    counts = _inspect(
        pairs,
        tmp_path,
        ties="drop",
        same_model=True,
        min_resolution=16,
        per_prompt=2,
        max_pairs=5,
    )
    skipped = _skipped(tmp_path)
    expected = {0: "image_1: cannot identify image file"}
    expected |= dict.fromkeys(range(2, 24, 3), "filter ties")
    expected |= {1: "filter same_model", 4: "filter same_model", 6: "filter same_model"}
    expected |= {3: "filter min_resolution"}
    # Left: 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22; by row % 4 two each: 7, 9, 10, 12, 13, 15,
    # 16, 18; of these the first five.
    expected |= dict.fromkeys((19, 21, 22), "filter per_prompt")
    expected |= dict.fromkeys((15, 16, 18), "filter max_pairs")
    assert skipped == expected
    assert counts == {
        "pairs": 24,
        "broken": 1,
        "ties": 8,
        "dropped_ties": 8,
        "dropped_same_model": 3,
        "dropped_min_resolution": 1,
        "dropped_per_prompt": 3,
        "dropped_max_pairs": 3,
        "usable": 5,
        "unread": 0,
    }
    assert table.read(tmp_path / "out").rows.tolist() == [7, 9, 10, 12, 13]
    assert sum(counts.values()) == 2 * counts["pairs"] + counts["ties"]
    told = summary(counts, tmp_path / "out")
    assert told.startswith("19 of 24 pairs skipped, 8 by the filter ties, 3 by the filter same_mo")
    assert told.endswith("1 broken: row 0 (image_1: cannot identify image file)")


def test_nothing_skipped_needs_no_words(tmp_path: Path) -> None:
    assert summary(_inspect(_listed(3), tmp_path), tmp_path / "out") == ""


def test_more_broken_pairs_than_allowed_are_an_error(tmp_path: Path) -> None:
    pairs = _listed(10, {i: {"image_0": b"x"} for i in (1, 4, 5, 8)})
    _inspect(pairs, tmp_path / "allowed", share=0.4)
    with pytest.raises(BenchError, match=r"4 of 10 pairs.*39\.0%.*row 5 \(im.*; and 1 more"):
        _inspect(pairs, tmp_path / "refused", share=0.39)


@pytest.mark.parametrize(
    ("count", "filters", "reason"),
    [(0, {}, "the set is empty"), (2, {"min_resolution": 99}, "2 by the filter min_resolution")],
)
def test_nothing_left_is_an_error(
    tmp_path: Path, count: int, filters: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BenchError, match=rf"listed: no pair is left to train on \({reason}\)"):
        _inspect(_listed(count), tmp_path, **filters)


def test_a_set_that_ends_early_is_an_error(tmp_path: Path) -> None:
    pairs = Listed(pairs=_listed(5).pairs, claimed=7)
    with pytest.raises(BenchError, match="listed: row 5 was counted but is not there"):
        _inspect(pairs, tmp_path)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "CHUNK", 4)


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_inspection_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    pairs = _listed(30, {11: {"image_0": b"x"}})
    _inspect(pairs, tmp_path / "whole", ties="drop")
    partial = tmp_path / "partial"
    _inspect(_listed(30, {11: {"image_0": b"x"}}), partial, ties="drop")
    chunks = sorted((partial / "work").iterdir())
    chunks[2].unlink()
    chunks[5].write_bytes(chunks[5].read_bytes()[:-20])
    for path in (partial / "out").iterdir():
        path.unlink()
    again = _listed(30, {11: {"image_0": b"x"}})
    _inspect(again, partial, ties="drop")
    assert again.read_rows == [*range(8, 12), *range(20, 24)]
    assert _files(partial) == _files(tmp_path / "whole")


class _Together:
    """Two worlds in two threads, which meet where processes would."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def world(self, rank: int) -> World:
        together = self

        class Threaded(World):
            def gather(self, value: Any) -> list[Any]:
                together.values[self.rank] = value
                together.barrier.wait()
                gathered = list(together.values)
                together.barrier.wait()
                return gathered

        return Threaded(rank=rank, size=len(self.values))


@pytest.mark.usefixtures("small_chunks")
def test_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    pairs = _listed(30, {1: {"image_0": b"x"}})
    counts = _inspect(pairs, tmp_path, ties="drop", per_prompt=1, max_pairs=3)
    # People tied every third row, from 2 on, and captions repeat every four: 0, 3, 6 of 8 rows.
    assert table.read(tmp_path / "out").rows.tolist() == [0, 3, 6]
    assert counts["pairs"] == 8
    assert counts["unread"] == 22
    assert counts["dropped_per_prompt"] == 2
    # The decoder may be ahead, but not by the whole set.
    again = _listed(2000)
    _inspect(again, tmp_path / "long", max_pairs=3)
    assert len(again.read_rows) < 100


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("filters", [{"per_prompt": 3}, {"max_pairs": 9}], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_the_number_of_processes_changes_no_byte(
    tmp_path: Path, size: int, filters: dict[str, Any]
) -> None:
    changes = {11: {"image_0": b"x"}}
    alone = _inspect(_listed(30, changes), tmp_path / "alone", **filters)
    shared, sets = _Together(size), [_listed(30, changes) for _ in range(size)]
    results: list[Any] = [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = _inspect(
                sets[rank], tmp_path / "shared", world=shared.world(rank), **filters
            )
        except BaseException:
            traceback.print_exc()
            shared.barrier.abort()

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [alone] * size
    assert _files(tmp_path / "shared") == _files(tmp_path / "alone")
    if "max_pairs" not in filters:
        assert sorted(row for pairs in sets for row in pairs.read_rows) == list(range(30))
    assert all(len(pairs.read_rows) < 30 for pairs in sets)


def test_threads_share_the_cores_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert [inspecting.threads(n) for n in (1, 2, 4, 100)] == [8, 6, 3, 1]


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"pairs\.parquet: no readable table of pairs"):
        table.read(tmp_path)
