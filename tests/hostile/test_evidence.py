"""Boards, names and scores as nobody means them: what is printed of them stays true."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest

from bench.leaderboard.comparing import build
from bench.leaderboard.console import console_table
from bench.leaderboard.opening import open_folder
from bench.leaderboard.results import CellResult, PromptSetScores
from bench.outputs.image_finding import Question, find
from bench.report import writing
from bench.statistics import bradley_terry, model
from bench.statistics.effects import effect
from bench.statistics.model import design
from tests.commands import Bench, in_folder
from tests.leaderboard import frozen_board, small_board


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)


def of(method: str, lift: float, label: str) -> list[CellResult]:
    """Two trainings of a method."""
    return [frozen_board.cell(method, seed, lift=lift, label=label) for seed in (0, 1)]


def test_two_methods_of_one_label_are_told_apart_everywhere(tmp_path: Path, bench: Bench) -> None:
    better, worse = of("dpo[beta=1]", 5.0, "mine"), of("dpo[beta=2]", -5.0, "mine")
    folder = frozen_board.run(tmp_path / "run", *better, *worse)
    (section,) = build(folder).sections
    assert "dpo[beta=1] beats dpo[beta=2]" in section.answer
    assert "mine" not in section.answer
    code, shown, _ = bench("show", "run", "--head-to-head")
    assert code == 0
    assert "mine" not in shown
    assert shown.count("100.0%") == 1
    found = find(open_folder(str(folder)), Question())
    assert {image.method for image in found if not image.base} == {"dpo[beta=1]", "dpo[beta=2]"}


def test_a_label_that_is_the_spec_of_another_names_neither_wrongly(tmp_path: Path) -> None:
    liar, other = of("dpo[beta=1]", 5.0, "dpo[beta=2]"), of("dpo[beta=2]", -5.0, "dpo[beta=1]")
    (section,) = build(frozen_board.run(tmp_path, *liar, *other)).sections
    assert "dpo[beta=1] beats dpo[beta=2]" in section.answer


def test_a_name_that_is_cut_within_a_character_is_drawn(tmp_path: Path) -> None:
    cells = (*of("dpo[beta=1]", 0.3, "\N{SLIGHTLY SMILING FACE}" * 40), *of("sft", 0.0, "plain"))
    folder = frozen_board.run(tmp_path, *cells)
    made = writing.of_folder(folder, folder / "store", writing.Choice(images=False))
    page = made.files[writing.NAME].decode()
    assert "\N{SLIGHTLY SMILING FACE}" * 40 in page  # In text as it is, in charts by its number.
    assert "U+1F642" in page


@pytest.mark.parametrize("unit", [1e-320, 1e-200, 1.0, 1e200, 8e307])
def test_the_size_of_an_effect_has_no_unit(unit: float) -> None:
    rng = np.random.RandomState(0)
    # Whole numbers, so that the smallest numbers there are hold them exactly.
    ours, theirs = rng.randint(-2, 3, (2, 9, 1)) / 1.0, rng.randint(-2, 3, (9, 1)) / 1.0
    plan = design([f"prompt {i}" for i in range(9)], ["set"] * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = effect(ours * unit, theirs * unit, plan)
        wins = model.outcomes(ours[0] * unit, theirs * unit)
    plain = effect(ours, theirs, plan)
    assert found.mean
    assert plain.mean
    assert found.mean.estimate == pytest.approx(plain.mean.estimate, rel=1e-3)
    assert found.tie_share == plain.tie_share
    assert np.array_equal(wins, model.outcomes(ours[0], theirs))


@pytest.mark.parametrize("huge", [1.7e308, 5e-324])
def test_a_board_of_the_largest_and_smallest_scores_is_built(tmp_path: Path, huge: float) -> None:
    def spread(cell: CellResult) -> CellResult:
        def part(scored: PromptSetScores) -> PromptSetScores:
            signs = {
                name: tuple(huge if value > 0 else -huge for value in values)
                for name, values in scored.scores.items()
            }
            return dataclasses.replace(scored, scores=signs)

        return dataclasses.replace(cell, evaluations=tuple(map(part, cell.evaluations)))

    cells = [frozen_board.cell("base"), *of("dpo", 0.4, ""), *of("sft", -0.4, "")]
    small_board.save(tmp_path, [spread(cell) for cell in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = build(tmp_path)
    assert console_table(tables)
    (section,) = tables.sections
    assert "dpo beats" in section.answer


def test_an_option_of_names_that_names_nothing_is_refused(tmp_path: Path, bench: Bench) -> None:
    frozen_board.run(tmp_path / "run", *of("dpo", 0.3, ""))
    for command in (
        ("show", "run", "--method", ","),
        ("show", "run", "--scorer", ","),
        ("export", "run", "--scores", "--method", ","),
        ("images", "run", "--method", ","),
        ("compare", "run", "--scorers", ","),
    ):
        code, _, said = bench(*command)
        assert code == 1, command
        assert said.startswith(f"error: {command[-2]} ,: names nothing"), command


def test_an_export_is_no_result(tmp_path: Path, bench: Bench) -> None:
    frozen_board.run(tmp_path / "run", *of("dpo", 0.3, ""))
    code, _, said = bench("export", "run", "--json", "--out", "run/results/all.json")
    assert code == 1
    assert "run/results/all.json: only records may lie there" in said
    assert bench("show", "run")[0] == 0


def test_judges_that_share_no_pair_leave_strengths_without_errors() -> None:
    plan = design([f"prompt {i}" for i in range(20)], ["set"] * 20)
    for seed in range(30):
        rng = np.random.RandomState(seed)
        # [judges, train seeds, players, prompts, images]: each judge saw another method.
        scores = rng.normal(size=(2, 1, 3, 20, 1))
        scores[0, :, 1] += 1
        scores[1, :, 2] += 3
        scores[0, :, 2] = scores[1, :, 1] = np.nan
        compared = bradley_terry.count(scores, plan)
        fitted = bradley_terry.fit(compared.wins)
        assert fitted
        assert bradley_terry.standard_errors(fitted, compared, plan) is None
