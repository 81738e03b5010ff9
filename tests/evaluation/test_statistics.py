from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics import intervals
from bench.statistics.intervals import outcomes, sign_test, win_rate


def flips(rng: np.random.RandomState, shape: tuple[int, ...], p: float) -> np.ndarray:
    return (rng.random_sample(shape) < p).astype(np.float64)


def distinct(n: int) -> list[str]:
    return [f"prompt {i}" for i in range(n)]


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


def test_counts_and_both_ways_to_treat_ties() -> None:
    rate = win_rate(np.array([[[1.0, 0.5], [0.0, 0.5], [1.0, 1.0]]]), distinct(3))
    assert (rate.wins, rate.ties, rate.losses, rate.comparisons) == (3, 2, 1, 6)
    assert rate.win_rate == pytest.approx(4 / 6)
    assert rate.without_ties == pytest.approx(3 / 4)
    assert rate.tie_share == pytest.approx(2 / 6)
    assert (rate.prompts, rate.distinct_prompts) == (3, 3)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(BenchError, match="no comparison"):
        win_rate(np.zeros((1, 0, 1)), [])


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (7, 3), (5, 5), (30, 61), (900, 732)])
def test_sign_test_is_the_binomial_test(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_sign_test_units_are_distinct_prompts() -> None:
    # Four rows of one text are one unit: it leads 3 to 1; the other two are a win and a tie.
    results = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.5]).reshape(1, 6, 1)
    rate = win_rate(results, ["a", "a", "a", "a", "b", "c"])
    assert rate.p_value == sign_test(2, 0) == 0.5


@pytest.mark.parametrize("n", [1, 5, 500])
def test_all_wins_and_all_losses_get_the_exact_bound(n: int) -> None:
    exact = stats.binomtest(n, n).proportion_ci(0.95, "exact")
    won = win_rate(np.ones((1, n, 1)), distinct(n))
    lost = win_rate(np.zeros((1, n, 1)), distinct(n))
    assert (won.low, won.high) == pytest.approx((exact.low, 1.0))
    assert (lost.low, lost.high) == pytest.approx((0.0, 1 - exact.low))


def test_all_ties_get_an_interval_around_one_half() -> None:
    rate = win_rate(np.full((1, 20, 1), 0.5), distinct(20))
    unseen = stats.binomtest(0, 20).proportion_ci(0.95, "exact").high
    assert (rate.low, rate.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))


def test_interval_agrees_with_scipys_bootstrap() -> None:
    results = flips(np.random.RandomState(0), (200,), 0.6)
    rate = win_rate(results.reshape(1, 200, 1), distinct(200))
    ours = (rate.low, rate.high)
    other = stats.bootstrap(
        (results,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours == pytest.approx((other.low, other.high), abs=0.01)


def test_interval_does_not_depend_on_the_order_of_prompts_or_images() -> None:
    rng = np.random.RandomState(0)
    results, texts = flips(rng, (1, 50, 3), 0.6), np.array([f"p{i % 40}" for i in range(50)])
    order = rng.permutation(50)
    assert win_rate(results, texts) == win_rate(results[:, order][:, :, ::-1], texts[order])


def test_resamples_are_pinned() -> None:
    # Committed tables depend on these numbers: they may not change with NumPy or the machine.
    weights = intervals._resamples(5, 0)
    assert weights.shape == (intervals.DRAWS, 5)
    assert (weights.sum(axis=1) == 5).all()
    assert weights[:3].tolist() == [[0, 1, 3, 0, 1], [0, 2, 1, 0, 2], [0, 3, 1, 1, 0]]
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.06)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.RandomState(7)
    covered = 0
    for _ in range(400):
        draw = rng.random_sample(80)
        results = np.where(draw < 0.55, 1.0, np.where(draw < 0.65, 0.5, 0.0))
        rate = win_rate(results.reshape(1, 80, 1), distinct(80))
        covered += rate.low <= 0.6 <= rate.high
    assert 0.92 <= covered / 400 <= 0.975


def test_duplicates_resampled_together_widen_by_the_design_effect() -> None:
    # m identical rows a text carry the information of one: the width grows by sqrt(m).
    once = flips(np.random.RandomState(3), (100,), 0.5)
    results = np.tile(once, 4).reshape(1, 400, 1)
    together = win_rate(results, distinct(100) * 4)
    apart = win_rate(results, distinct(400))
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(2.0, rel=0.08)
    assert together.distinct_prompts == 100


def test_train_seeds_are_a_level_of_their_own() -> None:
    # Seeds that differ: wider than as many prompts. Seeds that agree: as narrow as one seed.
    rng = np.random.RandomState(5)
    differ = np.stack([flips(rng, (300, 1), p) for p in (0.4, 0.6, 0.8)])
    pooled = differ.reshape(1, 900, 1)
    crossed, naive = win_rate(differ, distinct(300)), win_rate(pooled, distinct(900))
    assert crossed.win_rate == pytest.approx(naive.win_rate)
    assert crossed.high - crossed.low > 3 * (naive.high - naive.low)
    one = flips(rng, (1, 300, 1), 0.6)
    alike = np.repeat(one, 3, axis=0)
    assert win_rate(alike, distinct(300)).low == win_rate(one, distinct(300)).low


def test_crossed_variance_is_the_sum_of_both_levels() -> None:
    rng = np.random.RandomState(5)
    results = np.stack([flips(rng, (400, 1), p) for p in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)])
    rate = win_rate(results, distinct(400))
    seeds, prompts = results.mean(axis=(1, 2)), results.mean(axis=(0, 2))
    noise = np.var(results - seeds[:, None, None]) / results.size
    spread = math.sqrt(np.var(seeds) / 6 + np.var(prompts) / 400 + noise)
    assert (rate.high - rate.low) / (2 * 1.96) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("n", [100, 500, 1632])
def test_minimum_detectable_effect_has_the_power_it_claims(n: int) -> None:
    effect = intervals.minimum_detectable_effect(n)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert effect == pytest.approx(z * math.sqrt(0.25 / n))
    wins = np.arange(n + 1)
    found = np.array([sign_test(int(k), int(n - k)) < 0.05 for k in wins])
    power = stats.binom.pmf(wins, n, 0.5 + effect)[found].sum()
    assert power == pytest.approx(0.8, abs=0.05)


def test_few_prompts_can_show_nothing_short_of_certainty() -> None:
    assert intervals.minimum_detectable_effect(1) == 0.5
