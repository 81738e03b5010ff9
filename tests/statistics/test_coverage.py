"""Intervals hold what they say as often as they say, in worlds whose truth is known.

The quick tests are a few cells; `pytest -m slow tests/statistics/test_coverage.py` tries the whole
grid (a quarter of an hour on one core), and `python -m tests.statistics.coverage` prints it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from bench.statistics import model
from tests.statistics.coverage import (
    NULL,
    PROMPTS,
    SEED_SDS,
    SEEDS,
    bootstrap,
    cells,
    false_positives,
    held,
    near_certain,
    sign_tests,
    simultaneous,
    z_interval,
)
from tests.statistics.simulation import Share, World, boards, covered, share

FEW_SEEDS = (0.93, 0.97)
"""Bar of coverage with two to four train seeds."""
BAR = (0.94, 0.96)
FEW_PROMPTS = (0.94, 0.97)
"""With fifty: of so few the added win and loss are a part that makes intervals wider."""


def bar(prompts: int, seeds: int) -> tuple[float, float]:
    if 1 < seeds < 5:
        return FEW_SEEDS
    return FEW_PROMPTS if prompts == 50 else BAR


def within(found: Share, bar: tuple[float, float], errors: float = 3.0) -> bool:
    """Whether a share may lie within a bar, for all that so many boards can say."""
    low, high = bar
    return low - errors * found.error <= found.value <= high + errors * found.error


QUICK = (
    World(prompts=50, seeds=1, ties=0.1, duplicates=True),
    World(prompts=320, seeds=1, prompt_sets=2),
    World(prompts=320, seeds=2, seed_sd=0.05, rates=NULL),
    World(prompts=320, seeds=3, seed_sd=0.02, ties=0.5),
    World(prompts=320, seeds=5, seed_sd=0.05, duplicates=True, prompt_sets=2),
)


@pytest.mark.parametrize("world", QUICK, ids=lambda w: f"{w.prompts} prompts, {w.seeds} seeds")
def test_intervals_hold_the_truth_that_they_speak_of(world: World) -> None:
    assert within(share(covered(world, 200)), bar(world.prompts, world.seeds))


def test_what_others_print_does_not_hold_the_rate_of_a_method() -> None:
    """So that the bar can be missed: by a z interval, by the bootstrap, by the sign test."""
    world = World(prompts=1632, seeds=2, seed_sd=0.05)
    assert not within(share(held(world, z_interval, 30)), FEW_SEEDS)
    assert not within(share(held(world, partial(bootstrap, draws=200), 30)), FEW_SEEDS)
    rejected = share([sign_tests(board) for board in boards(replace(world, rates=NULL), 30)])
    assert not within(rejected, (0.03, 0.07))
    assert within(share(covered(world, 60)), FEW_SEEDS)


def of_wins(wins: int, prompts: int) -> model.WinRate:
    results = (np.arange(prompts) < wins).astype(np.float64)
    design = model.design([str(i) for i in range(prompts)], [""] * prompts)
    return model.win_rates([model.components(results[None, :, None], design)])[0]


@pytest.mark.parametrize("prompts", [50, 320])
def test_one_training_without_ties_by_all_counts_that_can_be(prompts: int) -> None:
    """Exactly, without a draw: a binomial's coverage goes up and down with the true rate."""
    wins = np.arange(prompts + 1)
    found = [of_wins(int(count), prompts) for count in wins]
    low, high = (
        np.array([getattr(each, end) for each in found])[:, None] for end in ("low", "high")
    )

    def coverage(rates: np.ndarray) -> np.ndarray:
        return (
            stats.binom.pmf(wins[:, None], prompts, rates) * ((low <= rates) & (rates <= high))
        ).sum(axis=0)

    assert 0.945 <= coverage(np.linspace(0.3, 0.7, 401)).mean() <= 0.955
    # From a rate on, the interval is wider than it needs to be, and never much shorter.
    assert coverage(np.linspace(0.9, 0.9999, 1000)).min() >= 0.937
    assert coverage(np.linspace(0.9, 0.9999, 1000)).mean() <= 0.985


def test_one_half_of_fifty_prompts_cannot_be_covered_by_95_in_100() -> None:
    """Intervals around 25 ± 6 wins hold a half in 93.5%, around 25 ± 7 in 96.7%; none between."""
    low, high = (
        stats.binom(50, 0.5).cdf(25 + k) - stats.binom(50, 0.5).cdf(24 - k) for k in (6, 7)
    )
    assert (low, high) == (pytest.approx(0.9351, abs=1e-4), pytest.approx(0.9672, abs=1e-4))
    holding = [wins for wins in range(51) if of_wins(wins, 50).low <= 0.5 <= of_wins(wins, 50).high]
    assert holding in (list(range(19, 32)), list(range(18, 33)))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("prompts", PROMPTS)
def test_the_whole_grid(prompts: int, seeds: int) -> None:
    """Each of 18 cells within what its draws can say, and their mean within the bar itself."""
    found = {
        world: share(covered(world, 300)) for sd in SEED_SDS for world in cells(prompts, seeds, sd)
    }
    # 288 cells: one in ten grids would have a cell farther out by chance.
    missed = {
        world: str(one) for world, one in found.items() if not within(one, bar(prompts, seeds), 3.6)
    }
    assert not missed
    low, high = bar(prompts, seeds)
    assert low <= np.mean([one.value for one in found.values()]) <= high


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS[1:])
@pytest.mark.parametrize("prompts", PROMPTS)
def test_false_positives_of_the_printed_test(prompts: int, seeds: int) -> None:
    found = [
        share(~covered(World(prompts=prompts, seeds=seeds, seed_sd=sd, ties=ties, rates=NULL), 300))
        for sd in SEED_SDS
        for ties in (0.0, 0.5)
    ]
    assert all(within(one, (0.04, 0.06), 3.3) for one in found), [str(one) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("rate", [0.95, 0.99, 0.999])
def test_near_certainty_intervals_are_never_too_short(
    rate: float, prompts: int, seeds: int
) -> None:
    found = share(covered(near_certain(prompts, seeds, rate), 200))
    losses = prompts * (1 - rate)
    low, high = bar(prompts, seeds)
    assert within(found, (low, high if losses > 30 else 1.0), 3.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "seeds", "sd"), [(320, 2, 0.05), (320, 3, 0.02), (320, 5, 0.05), (1632, 3, 0.02)]
)
def test_families_of_comparisons(prompts: int, seeds: int, sd: float) -> None:
    null = World(prompts=prompts, seeds=seeds, seed_sd=sd, rates=NULL)
    family, single = false_positives(null, 300)
    assert within(family, (0.0, 0.05))
    assert within(single, (0.04, 0.06))
    intervals, ranks = simultaneous(World(prompts=prompts, seeds=seeds, seed_sd=sd), 300)
    assert within(intervals, (0.95, 1.0))
    assert within(ranks, (0.95, 1.0))
