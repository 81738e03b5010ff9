from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.leaderboard import published
from tests.commands import Bench, in_folder
from tests.leaderboard import small_board
from tests.leaderboard.frozen_board import cell, run

COMMITTED = Path(__file__).parents[2] / "leaderboards" / "published"


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    run(tmp_path / "run", cell("dpo", lift=0.3), cell("dpo", 1, lift=0.3))
    return in_folder(tmp_path, monkeypatch, capsys)


def test_a_board_from_its_first_line_to_its_tables(bench: Bench, tmp_path: Path) -> None:
    code, out, _ = bench(
        *("leaderboard", "freeze", "run", "leaderboards/small", "--title", "A board"),
        *("--min-train-seeds", "2"),
    )
    assert (code, out.split(": ")[0]) == (0, "frozen leaderboards/small/board.yaml")
    code, out, _ = bench("leaderboard", "add", "run", "small")
    assert code == 0
    assert out.count("added leaderboards/small/") == 5
    code, out, _ = bench("leaderboard", "add", "run", "small")
    assert "the board held 3 of these results already\n" in out
    code, out, _ = bench("leaderboard", "show", "small")
    assert out.startswith("A board\n")
    assert "dpo" in out
    shutil.copytree(COMMITTED, tmp_path / "leaderboards" / "published")
    code, out, _ = bench("leaderboard", "build")
    assert out == "built leaderboards/published\nbuilt leaderboards/small\n"
    code, out, _ = bench("leaderboard", "check")
    assert code == 0
    code, out, _ = bench("leaderboard", "compare", "small", "--published")
    tables = len(published.load(COMMITTED).tables)
    assert sum(line.startswith("small against") for line in out.splitlines()) == tables
    code, out, _ = bench("leaderboard", "show", "published")
    assert out == (COMMITTED / "README.md").read_text()


def test_what_is_marked_as_a_deviation_is_said(bench: Bench, tmp_path: Path) -> None:
    bench("leaderboard", "freeze", "run", "board")
    small_board.save(
        tmp_path / "other",
        [cell(m, evaluation=small_board.sampled(steps=50)) for m in ("base", "dpo")],
    )
    code, _, err = bench("leaderboard", "add", "other", "board")
    assert code == 1
    assert err.startswith("error: other/results/base--seed0-")
    code, out, _ = bench("leaderboard", "add", "other", "board", "--as-deviation")
    assert code == 0
    assert out.count("  not as frozen: evaluation.sampling.steps (50 against 20)\n") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("freeze", "run", "--methods", "dpo"), "methods: only of a recipe"),
        (("freeze", "run", "--set", "training.steps=3"), "training.steps: only of a recipe"),
        (("freeze", "--recipe", "shapes", "run", "board"), "--recipe: takes the place of a run"),
        (("freeze", "run", "board", "--title", " " * 300), "board.yaml: title: string should"),
        (("show", "smal"), "unknown board 'smal'"),
        (("add", "gone", "run"), "run: has no board.yaml"),
        (("compare", "run"), "run: has one section"),
    ],
)
def test_mistakes_are_one_sentence(bench: Bench, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = bench("leaderboard", *arguments)
    assert code == 1
    assert err.count("\n") == 1
    assert message in err
