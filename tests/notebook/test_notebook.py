"""`bench.run`, `bench.compare` and `bench.load`, and the page that shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import bench
from bench import Board, Comparison, RunResult
from bench.leaderboard.run_folder import MARK
from tests import toy
from tests.api_page import REPOSITORY
from tests.comparison.conftest import write_images
from tests.leaderboard import small_board

PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What is left in names once all of the page was typed, in a folder with what it names."""
    folder = tmp_path_factory.mktemp("notebook")
    recipe = toy.recipe(folder, seeds=[0, 1])
    (folder / "toy.yaml").write_text(recipe.to_yaml())
    write_images(folder / "images", [100] * 5)
    (folder / "leaderboards").symlink_to(REPOSITORY / "leaderboards")
    names: dict[str, Any] = {}
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.registry.registry.default_registry", toy.registry)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "docs/python.md", "exec"), names)
        yield {**names, "folder": folder}


def test_the_page_runs_as_it_stands(world: dict[str, Any]) -> None:
    assert isinstance(world["result"], RunResult)
    assert isinstance(world["board"], RunResult)
    assert isinstance(world["comparison"], Comparison)
    assert len(world["wide"]) == 4
    assert ">smpo</text>" in (world["folder"] / "rates.svg").read_text(encoding="utf-8")


def test_a_run_gives_frames_of_what_its_folder_holds(world: dict[str, Any]) -> None:
    result: RunResult = world["result"]
    assert (result.folder / MARK).exists()
    assert set(result.methods) == {"dpo", "sft"}
    rows = result.leaderboard.set_index("method")
    assert rows.loc["dpo", "train_seeds"] == 2
    assert rows.loc["dpo", "estimand"] == "method"
    assert rows.loc["dpo", "low"] <= rows.loc["dpo", "win_rate"] <= rows.loc["dpo", "high"]
    assert not result.failures
    assert len(result.checkpoints) == 4
    assert "steps: 1" in result.recipe
    written = pd.read_parquet(result.folder / "scores.parquet")
    assert sorted(result.scores["score"]) == sorted(written["score"])
    assert len(result.head_to_head) == 1


def test_the_same_call_does_nothing_again(
    world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.running.walk import Walk

    monkeypatch.setattr(Walk, "run", None)
    again = bench.run(["dpo", "sft"], "toy.yaml", seeds=[0, 1], limit=4, training={"steps": 1})
    pd.testing.assert_frame_equal(again.leaderboard, world["result"].leaderboard)


def test_a_comparison_has_every_pair_and_says_what_was_left_out(world: dict[str, Any]) -> None:
    comparison: Comparison = world["comparison"]
    assert comparison.base == "base"
    assert len(comparison.head_to_head) == 6
    assert any("left out" in note for note in comparison.notes)
    assert bench.load(comparison.folder).leaderboard.equals(comparison.leaderboard)


def test_a_board_is_shown_with_names_that_are_no_markup(tmp_path: Path) -> None:
    evil = small_board.cell("dpo", lift=0.3, label="<script>alert(1)</script>")
    board = bench.load(small_board.save(tmp_path, [small_board.cell("base"), evil]))
    assert type(board) is Board
    shown = board._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_failures_are_named(tmp_path: Path) -> None:
    board = bench.load(small_board.save(tmp_path, small_board.cells()))
    assert board.failures == ("ipo|x: train seed 0: loss is not finite at step 3",)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bench.BenchError, match="nowhere"):
        bench.load(tmp_path / "nowhere")
    with pytest.raises(bench.BenchError, match="unknown recipe key 'stepz'"):
        bench.run(recipe="shapes", stepz=3, out=tmp_path / "out")


def test_the_call_is_there_whichever_room_is_imported_first() -> None:
    code = (
        "import bench; from bench.running import planning; import bench.running.walk as walk; "
        "assert callable(bench.run) and planning and walk; "
        "from bench import run; assert callable(run)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
