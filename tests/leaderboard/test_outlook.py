from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.leaderboard import outlook
from bench.leaderboard.comparing import build
from bench.leaderboard.outlook import Costs, Outlook, Spent
from bench.lib.errors import BenchError
from bench.statistics.power import head_to_head, widest
from tests.leaderboard.small_board import cell, failure, save, steps

SHAPES = Path(__file__).parents[2] / "leaderboards" / "shapes"


@pytest.fixture(scope="module")
def shapes() -> Outlook:
    (found,) = outlook.of_board(SHAPES, widest())
    return found


def test_a_board_gives_its_own_study_and_spreads(shapes: Outlook) -> None:
    (section,) = build(SHAPES).sections
    trained = [row for row in section.rows if row.seeds]
    assert shapes.methods == len(trained)
    assert shapes.prompts == section.distinct_prompts
    assert shapes.seeds == min(len(row.seeds) for row in trained)
    assert shapes.basis == f"measured by {', '.join(section.ranked_by)}"
    # The rate's own standard error, were all methods alike, has these spreads.
    errors = [row.common.standard_error**2 for row in trained if row.common]
    spread, seeds = shapes.against_base, shapes.seeds
    by_prompt = (spread.prompt**2 + spread.residual**2 / seeds) / shapes.effective
    assert by_prompt + spread.seed**2 / seeds == pytest.approx(float(np.mean(errors)), rel=0.05)


def test_what_was_done_cost_what_the_board_says(shapes: Outlook) -> None:
    (section,) = build(SHAPES).sections
    nfe = seconds = 0.0
    for row in section.rows:
        assert row.cost
        times = 1 if row.base else len(row.seeds)
        nfe += times * (row.cost.train_nfe + row.cost.sample_nfe)
        seconds += times * (
            row.cost.label_seconds
            + row.cost.train_seconds
            + row.cost.sample_seconds
            + row.cost.score_seconds
        )
    (planned,) = [option for option in shapes.options() if option.planned]
    assert planned.spent
    assert planned.spent.nfe == pytest.approx(nfe, rel=1e-4)  # whole numbers on the board
    assert planned.spent.seconds == pytest.approx(seconds, rel=1e-6)


def test_more_prompts_and_seeds_cost_more(shapes: Outlook) -> None:
    costs = Costs(
        once=Spent(nfe=1, seconds=1),
        images=Spent(nfe=10, seconds=2),
        training=Spent(nfe=100, seconds=3),
        sampling=Spent(nfe=1000, seconds=4),
        rough=True,
    )
    assert costs.of(3, 2) == Spent(nfe=1 + 30 + 2 * (100 + 3000), seconds=1 + 6 + 2 * (3 + 12))


def test_one_train_seed_finds_nothing(shapes: Outlook) -> None:
    (one,) = [option for option in shapes.options() if option.train_seeds == 1]
    assert (one.against_base, one.two_methods) == (None, None)
    assert 0.02 < shapes.checkpoint < 0.06


def test_half_of_a_difference_is_found_by_the_cheapest_study(shapes: Outlook) -> None:
    (planned,) = [option for option in shapes.options() if option.planned]
    halved = shapes.halved()
    assert halved
    assert halved.cheapest
    assert halved.cheapest.prompts
    assert planned.against_base
    assert halved.difference == planned.against_base / 2
    assert halved.cheapest.against_base is not None
    assert halved.cheapest.against_base <= halved.difference + 1e-5
    # Neither a train seed nor a tenth of the prompts less would do.
    fewer = shapes.option(halved.cheapest.prompts / shapes.prompts, 2)
    assert fewer.against_base is None or fewer.against_base > halved.difference
    less = 0.9 * halved.cheapest.prompts / shapes.prompts
    again = shapes.option(less, halved.cheapest.train_seeds).against_base
    assert again is None or again > halved.difference
    assert halved.prompts_floor > halved.difference
    assert halved.by_prompts is None


def test_a_study_of_one_train_seed_is_halved_from_three(shapes: Outlook) -> None:
    once = dataclasses.replace(shapes, seeds=1)
    halved, expected = once.halved(), dataclasses.replace(shapes, seeds=3).halved()
    assert halved
    assert halved == expected
    assert halved.train_seeds == 3


def test_nothing_trained_gives_nothing_to_find(shapes: Outlook) -> None:
    given = dataclasses.replace(shapes, methods=0)
    assert given.halved() is None
    assert {option.against_base for option in given.options()} == {None}


def test_one_method_has_no_other(shapes: Outlook) -> None:
    alone = dataclasses.replace(shapes, methods=1)
    assert {option.two_methods for option in alone.options()} == {None}
    assert alone.option(1, 3).against_base is not None


def test_each_protocol_has_its_own(tmp_path: Path) -> None:
    board = save(
        tmp_path,
        [
            cell("base"),
            *(cell("dpo", lift=0.3, seed=seed) for seed in (0, 1)),
            *(cell("sft", lift=0.1, seed=seed) for seed in (0, 1, 2)),
            dataclasses.replace(cell("dpo", lift=0.5), training=steps(20)),
            failure("ipo"),
        ],
    )
    assumed = widest(seed_sd=0.013)
    few, many = sorted(outlook.of_board(board, assumed), key=lambda found: found.methods)
    assert (few.methods, few.seeds, many.methods, many.seeds) == (1, 1, 2, 2)
    # One training measures no spread.
    assert few.against_base == assumed
    assert few.two_methods == head_to_head(assumed)
    assert few.basis.startswith("no method has two train seeds; assumed: at worst 50 points")
    assert many.basis == "measured by colour, gold, shape"
    # 38 and 20 distinct prompts, of which two are worth two rows.
    assert many.prompts == 58
    assert many.effective == pytest.approx(1 / (36 / 80**2 + 2 * (2 / 80) ** 2 + 20 / 40**2))


def test_without_a_scorer_that_all_hold_out_nothing_is_measured(tmp_path: Path) -> None:
    board = save(
        tmp_path,
        [
            cell("base", scorers=("colour",)),
            *(cell("dpo", seed=s, scorers=("colour",), in_loop=("colour",)) for s in (0, 1)),
        ],
    )
    (found,) = outlook.of_board(board, widest())
    assert found.against_base == widest()
    assert found.basis.startswith("no scorer is held out for every method; assumed")


def test_a_board_without_trainings_is_refused(tmp_path: Path) -> None:
    board = save(tmp_path, [cell("base")])
    with pytest.raises(BenchError, match=f"{board}: nothing on it was trained"):
        outlook.of_board(board, widest())


def test_a_board_without_its_base_is_refused(tmp_path: Path) -> None:
    board = save(tmp_path, [cell("dpo")])
    with pytest.raises(BenchError, match="no result of the untouched backbone 'tiny'"):
        outlook.of_board(board, widest())
