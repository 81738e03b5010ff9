from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics.crossed import Interval
from bench.statistics.effects import (
    Effect,
    base_sd,
    differences,
    effect,
    trimmed_mean,
    worst_scorer,
)
from bench.statistics.model import Design, design


def distinct(n: int) -> Design:
    return design([f"prompt {i}" for i in range(n)], ["a"] * n)


def of_mean(mean: float | None) -> Effect:
    size = None if mean is None else Interval(estimate=mean, low=None, high=None)
    return Effect(
        mean=size,
        trimmed=mean,
        dead_band_rate=None,
        dead_band_share=None,
        tie_share=0.0,
        seed_sd=None,
    )


def test_by_hand() -> None:
    # The base's scores 0 and 2 have standard deviation sqrt(2); the method adds 1 and nothing.
    found = effect(np.array([[[1.0], [2.0]]]), np.array([[0.0], [2.0]]), distinct(2))
    assert found.mean is not None
    assert found.mean.estimate == pytest.approx(0.5 / math.sqrt(2))
    assert found.trimmed == pytest.approx(0.5 / math.sqrt(2))
    assert found.dead_band_rate == 0.75
    assert found.dead_band_share == found.tie_share == 0.5
    assert found.seed_sd is None


def test_small_differences_count_half_within_the_dead_band_alone() -> None:
    base = np.array([[-1.0], [0.0], [1.0], [0.0]]) * math.sqrt(1.5)
    scores = base + np.array([[0.09], [-0.09], [0.11], [-0.11]])
    found = effect(scores[None], base, distinct(4))
    assert found.dead_band_rate == 0.5
    assert found.dead_band_share == 0.5
    assert found.tie_share == 0.0
    assert effect(scores[None] + 0.02, base, distinct(4)).dead_band_rate == 0.75


def test_mean_is_the_paired_test_in_base_deviations() -> None:
    rng = np.random.RandomState(0)
    base, gain = rng.standard_normal((50, 1)) * 7, rng.standard_normal((50, 1)) + 0.4
    found = effect((base + gain)[None], base, distinct(50)).mean
    paired = stats.ttest_rel(base + gain, base).confidence_interval(0.95)
    sd = np.std(base, ddof=1)
    assert found is not None
    assert found.estimate == pytest.approx(gain.mean() / sd, abs=1e-12)
    assert found.low == pytest.approx(paired.low.item() / sd, abs=1e-12)
    assert found.high == pytest.approx(paired.high.item() / sd, abs=1e-12)


def test_seed_sd_is_that_of_the_seeds_means() -> None:
    base = np.array([[0.0], [1.0], [2.0]])
    scores = np.stack([base + shift for shift in (0.1, 0.2, 0.6)])
    found = effect(scores, base, distinct(3))
    assert found.seed_sd == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert found.mean is not None
    assert found.mean.estimate == pytest.approx(0.3)


def test_the_unit_does_not_shrink_with_images_a_prompt() -> None:
    assert base_sd(np.array([[0.0, 0.0], [2.0, 4.0]])) == pytest.approx(math.sqrt((2 + 8) / 2))
    images = np.random.RandomState(0).standard_normal((4000, 8))
    assert base_sd(images) == pytest.approx(1.0, abs=0.02)
    assert np.std(images.mean(axis=1)) < 0.4


def test_every_prompt_set_weighs_the_same() -> None:
    two = design(list("abcdef"), ["x", "x", "y", "y", "y", "y"])
    base = np.arange(6.0)[:, None]
    scores = base + np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])[:, None]
    found = effect(scores[None], base, two)
    assert found.mean is not None
    assert found.mean.estimate == pytest.approx(0.5 / np.std(np.arange(6.0), ddof=1))
    assert (found.dead_band_rate, found.tie_share) == (0.75, 0.5)


def test_a_base_without_spread_has_no_unit() -> None:
    for base in (np.full((5, 1), 3.0), np.array([[3.0]])):
        found = effect(base[None] + 1, base, distinct(len(base)))
        assert (found.mean, found.trimmed, found.dead_band_rate) == (None, None, None)
        assert (found.dead_band_share, found.seed_sd, found.tie_share) == (None, None, 0.0)


@pytest.mark.parametrize("n", [10, 20, 100])
def test_trimmed_mean_is_scipys(n: int) -> None:
    values = np.random.RandomState(n).standard_cauchy(n)
    assert trimmed_mean(values, np.full(n, 1 / n)) == pytest.approx(stats.trim_mean(values, 0.1))


def test_trimmed_mean_cuts_weight_not_values() -> None:
    # A tenth of the weight at either end: of 0 half is left, of 9 nothing.
    assert trimmed_mean(np.array([9.0, 0.0, 4.0]), np.array([0.1, 0.2, 0.7])) == pytest.approx(
        (0.1 * 0.0 + 0.7 * 4.0) / 0.8
    )
    values = np.random.RandomState(1).standard_normal(7)
    often = np.array([1, 5, 2, 3, 3, 4, 2])
    repeated = np.repeat(values, often)
    assert trimmed_mean(values, often / 20) == pytest.approx(stats.trim_mean(repeated, 0.1))


def test_worst_scorer() -> None:
    effects = {"c": of_mean(0.2), "b": of_mean(-0.1), "a": of_mean(None), "d": of_mean(-0.1)}
    assert worst_scorer(effects) == "b"
    assert worst_scorer({"a": of_mean(None)}) is None


def test_bad_scores_are_refused() -> None:
    good = np.zeros((1, 2, 1))
    with pytest.raises(BenchError, match="cannot be paired"):
        differences(good, np.zeros((3, 1)))
    with pytest.raises(BenchError, match="1 of 2 of the base's scores are not finite"):
        differences(good, np.array([[0.0], [math.nan]]))
    with pytest.raises(BenchError, match="no comparison"):
        differences(np.zeros((0, 2, 1)), np.zeros((2, 1)))
