from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics import model
from bench.statistics.model import Estimand, WinRate, components, outcomes, win_rates


def distinct(n: int) -> list[str]:
    return [f"prompt {i}" for i in range(n)]


def flips(rng: np.random.RandomState, shape: tuple[int, ...], p: float = 0.5) -> np.ndarray:
    return (rng.random_sample(shape) < p).astype(np.float64)


def rate(
    results: np.ndarray, texts: list[str] | None = None, sets: list[str] | None = None
) -> WinRate:
    """Of [train seeds, prompts] or [train seeds, prompts, images]."""
    results = results[:, :, None] if results.ndim == 2 else results
    n = results.shape[1]
    design = model.design(texts or distinct(n), sets or ["set"] * n)
    return win_rates([components(results, design)])[0]


def test_a_strictly_higher_score_wins_and_equal_scores_tie() -> None:
    assert outcomes([[1.0, 2.0], [3.0, -1.0]], [[1.0, 1.0], [4.0, -1.0]]).tolist() == [
        [0.5, 1.0],
        [0.0, 0.5],
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unscored_images_are_refused(bad: float) -> None:
    with pytest.raises(BenchError, match="1 of 2 of the base's scores are not finite"):
        outcomes([0.0, 1.0], [0.0, bad])


def test_scores_of_other_prompts_are_refused() -> None:
    with pytest.raises(BenchError, match="cannot be paired"):
        outcomes([0.0, 1.0], [0.0])


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(BenchError, match="no comparison"):
        components(np.zeros((1, 0, 1)), model.design([], []))


def test_counts_and_both_ways_to_treat_ties() -> None:
    found = rate(np.array([[[1.0, 0.5], [0.0, 0.5], [1.0, 1.0]]]))
    assert (found.wins, found.ties, found.losses, found.comparisons) == (3, 2, 1, 6)
    assert found.win_rate == pytest.approx(4 / 6)
    assert found.without_ties == pytest.approx(3 / 4)
    assert found.tie_share == pytest.approx(2 / 6)
    assert (found.prompts, found.distinct_prompts) == (3, 3)


def test_texts_that_differ_in_case_and_space_alone_are_one_draw() -> None:
    design = model.design(["A  cat", "a cat", "ａ cat\n", "dog"], ["x", "x", "y", "y"])
    assert design.distinct == 2
    assert design.stratum.tolist() == [0, 0, 1, 1]


def test_every_prompt_set_weighs_the_same() -> None:
    found = rate(np.array([[1.0] * 30 + [0.0] * 10]), sets=["big"] * 30 + ["small"] * 10)
    assert found.win_rate == 0.5


def test_one_seed_is_a_t_interval_with_one_win_and_one_loss_more() -> None:
    results = flips(np.random.RandomState(0), (1, 80), 0.6)
    more = np.append(results, [0.0, 1.0])
    found = rate(results)
    error = more.std(ddof=1) / math.sqrt(len(more))
    reach = stats.t.ppf(0.975, len(more) - 1) * error
    assert (found.low, found.high) == pytest.approx((more.mean() - reach, more.mean() + reach))
    assert (found.estimand, found.p_value, found.seed_sd) == (Estimand.CHECKPOINT, None, None)


def test_several_seeds_are_the_mean_squares_of_a_two_way_layout() -> None:
    """Written out with the added win and loss as two more prompts."""
    rng = np.random.RandomState(1)
    easy = rng.normal(size=200)
    results = np.stack([easy + rng.normal(size=200) < x for x in (-0.3, 0, 0.5, 0.2, 0)]) * 1.0
    y = np.concatenate([results, np.ones((5, 1)), np.zeros((5, 1))], axis=1)
    seeds, n = y.shape
    rows, columns, grand = y.mean(axis=1), y.mean(axis=0), y.mean()
    ms_seed = n * ((rows - grand) ** 2).sum() / (seeds - 1)
    ms_prompt = seeds * ((columns - grand) ** 2).sum() / (n - 1)
    rest = y - rows[:, None] - columns[None] + grand
    # An added draw is the same in all trainings, so it is left out of the residual.
    ms_rest = (rest[:, :-2] ** 2).sum() / ((seeds - 1) * (n - 1))
    parts = [ms_prompt / (n * seeds), ms_seed / (n * seeds), ms_rest / (n * seeds)]
    variance = parts[0] + parts[1] - parts[2]
    found = rate(results)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert found.estimand is Estimand.METHOD
    assert found.seed_rates == pytest.approx(results.mean(axis=1).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_test_and_interval_never_contradict_each_other(seed: int) -> None:
    rng = np.random.RandomState(seed)
    results = flips(rng, (2 + seed % 4, 60), rng.uniform(0.4, 0.6))
    found = rate(results)
    assert found.p_value is not None
    assert (found.p_value < 0.05) == (not found.low <= 0.5 <= found.high)
    assert found.ends(0.95) == pytest.approx((found.low, found.high))
    assert found.ends(0.99)[0] <= found.low


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_the_interval_of_one_seed_rises_with_every_win(n: int) -> None:
    """For every number of ties, and from a loss to a tie to a win."""

    def of(wins: int, ties: int) -> WinRate:
        return rate(np.array([[1.0] * wins + [0.5] * ties + [0.0] * (n - wins - ties)]))

    chains = [[of(wins, ties) for wins in range(n - ties + 1)] for ties in range(n + 1)]
    chains.append([of(0, 0), of(0, 1), of(1, 0)])
    chains.append([of(n - 1, 0), of(n - 1, 1), of(n, 0)])
    for chain in chains:
        for less, more in pairwise(chain):
            assert less.low <= more.low + 1e-12
            assert less.high <= more.high + 1e-12


@pytest.mark.parametrize("n", [1, 5, 50, 500])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_agreement_of_all_prompts_is_no_certainty(n: int, value: float) -> None:
    found = rate(np.full((1, n), value))
    assert found.low <= value <= found.high
    assert found.high - found.low > 1.5 / (n + 2)


def test_neither_order_of_prompts_nor_of_images_counts() -> None:
    rng = np.random.RandomState(0)
    results, texts = flips(rng, (2, 50, 3), 0.6), [f"p{i % 40}" for i in range(50)]
    order = rng.permutation(50)
    one = rate(results, texts)
    other = rate(results[:, order][:, :, ::-1], [texts[i] for i in order])
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-12)


def test_duplicates_count_once() -> None:
    once = flips(np.random.RandomState(3), (1, 100))
    together = rate(np.tile(once, 4), distinct(100) * 4)
    single = rate(once)
    assert (together.low, together.high) == pytest.approx((single.low, single.high))
    assert together.distinct_prompts == 100


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.RandomState(5)
    apart = np.stack([flips(rng, (300,), p) for p in (0.3, 0.4, 0.5, 0.6, 0.7)])
    alike = np.stack([flips(rng, (300,), 0.5) for _ in range(5)])
    assert rate(apart).high - rate(apart).low > 3 * (rate(alike).high - rate(alike).low)


def test_few_seeds_share_the_spread_of_all_methods_and_many_have_their_own() -> None:
    rng = np.random.RandomState(2)
    design = model.design(distinct(200), ["set"] * 200)
    few = [components(flips(rng, (2, 200, 1)), design) for _ in range(4)]
    many = components(flips(rng, (5, 200, 1)), design)
    spreads = model.seed_variances([*few, many])
    assert all(spread and spread.pooled for spread in spreads[:4])
    assert spreads[0].df == 4 * 1 + 4
    assert not spreads[4].pooled
    assert spreads[4].df == 4


def test_spreads_that_differ_are_not_pooled() -> None:
    rng = np.random.RandomState(2)
    design = model.design(distinct(2000), ["set"] * 2000)

    def of(*rates: float) -> model.Components:
        return components(np.stack([flips(rng, (2000, 1), p) for p in rates]), design)

    parts = [of(0.5, 0.5, 0.5, 0.5), of(0.5, 0.5, 0.5, 0.5), of(0.2, 0.8, 0.3, 0.9)]
    assert not model.alike(parts)
    assert not any(spread.pooled for spread in model.seed_variances(parts) if spread)


def test_the_test_of_spreads_is_bartletts() -> None:
    rng = np.random.RandomState(4)
    design = model.design(distinct(400), ["set"] * 400)
    for scale in (0.01, 0.05, 0.2):
        shifts = [rng.normal(0.5, 0.02, 4), rng.normal(0.5, 0.02 + scale, 4)]
        parts = [
            components(np.stack([flips(rng, (400, 1), p) for p in shift]), design)
            for shift in shifts
        ]
        # In units of what prompts do to one training.
        ratios = [
            np.array(part.seed_rates) * 400 / 402 / math.sqrt(part.residual) for part in parts
        ]
        assert model.alike(parts) == (stats.bartlett(*ratios).pvalue >= model.HOMOGENEITY)
