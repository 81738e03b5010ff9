from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.statistics.crossed import (
    crossed_spread,
    mean_influence,
    mean_interval,
    share_interval,
    shares,
)
from bench.statistics.model import Design, degrees_of_freedom, design


def distinct(n: int) -> Design:
    return design([f"prompt {i}" for i in range(n)], ["a"] * n)


def test_two_seeds_by_hand() -> None:
    # Prompt means 1 and 7, seed means 2 and 6: MS 36, 16 and, of the residuals +-1, 4.
    values = np.array([[0.0, 4.0], [2.0, 10.0]])
    mean, influence = mean_influence(values, distinct(2))
    spread = crossed_spread(influence, distinct(2))
    assert mean == 4.0
    assert spread is not None
    assert float(spread.variance) == pytest.approx((36 + 16 - 4) / 4)
    # One degree of freedom each; exponent 2/3 for the trainings, whose share is a third.
    assert float(spread.df) == pytest.approx(1 / ((1 / 3) ** (2 / 3) + (2 / 3) ** 2))


def test_one_seed_is_students_interval() -> None:
    values = np.random.RandomState(0).standard_normal((1, 30))
    found = mean_interval(values, distinct(30))
    expected = stats.ttest_1samp(values[0], 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("seeds", [2, 5])
def test_variance_is_that_of_mean_squares(seeds: int) -> None:
    rng = np.random.RandomState(seeds)
    n = 40
    values = rng.standard_normal((seeds, n)) + np.arange(seeds)[:, None]
    values += rng.standard_normal(n)
    mean, of_prompts, of_seeds = values.mean(), values.mean(axis=0), values.mean(axis=1)
    prompt = seeds * ((of_prompts - mean) ** 2).sum() / (n - 1)
    seed = n * ((of_seeds - mean) ** 2).sum() / (seeds - 1)
    rest = values - of_prompts - of_seeds[:, None] + mean
    residual = (rest**2).sum() / (n - 1) / (seeds - 1)
    total = prompt + seed - residual
    spread = crossed_spread(mean_influence(values, distinct(n))[1], distinct(n))
    assert spread is not None
    assert float(spread.variance) == pytest.approx(total / (n * seeds), rel=1e-12)
    df = degrees_of_freedom(prompt - residual, n - 1, seed, seeds - 1)
    assert float(spread.df) == pytest.approx(float(df), rel=1e-12)


def test_seeds_that_agree_add_nothing() -> None:
    one = np.random.RandomState(0).standard_normal((1, 30))
    alike = mean_interval(np.repeat(one, 3, axis=0), distinct(30))
    alone = mean_interval(one, distinct(30))
    assert (alike.low, alike.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
    flat = mean_interval(np.full((3, 30), 0.25), distinct(30))
    assert (flat.low, flat.high) == (0.25, 0.25)


def test_equal_texts_are_one_draw() -> None:
    once = np.random.RandomState(1).standard_normal((1, 25))
    four = design([f"p{i % 25}" for i in range(100)], ["a"] * 100)
    together = mean_interval(np.tile(once, 4), four)
    alone = mean_interval(once, distinct(25))
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), rel=1e-12)


def test_every_prompt_set_weighs_the_same() -> None:
    two = design(list("abcdef"), ["x", "x", "y", "y", "y", "y"])
    values = np.array([[0.0, 2.0, 10.0, 10.0, 12.0, 12.0]])
    assert shares(two) == pytest.approx([1 / 4] * 2 + [1 / 8] * 4)
    assert mean_interval(values, two).estimate == pytest.approx((1 + 11) / 2)
    # The difference of levels between sets is no noise: 6 draws, two of which gave the levels.
    spread = crossed_spread(mean_influence(values, two)[1], two)
    assert spread is not None
    assert float(spread.variance) == pytest.approx(6 / 4 * (2 * (1 / 4) ** 2 + 4 * (1 / 8) ** 2))


def test_one_prompt_shows_no_spread() -> None:
    found = mean_interval(np.array([[3.0], [5.0]]), distinct(1))
    assert (found.estimate, found.low, found.high) == (4.0, None, None)


def test_shares_that_are_all_alike_have_the_exact_interval() -> None:
    exact = stats.binomtest(20, 20).proportion_ci(0.95, "exact")
    always = share_interval(np.ones((3, 20)), distinct(20))
    never = share_interval(np.zeros((3, 20)), distinct(20))
    assert (always.low, always.high) == pytest.approx((exact.low, 1.0))
    assert (never.low, never.high) == pytest.approx((0.0, 1 - exact.low))


def test_a_share_of_independent_prompts_is_nearly_clopper_and_pearsons() -> None:
    values = np.array([[1.0] * 30 + [0.0] * 170])
    found = share_interval(values, distinct(200))
    exact = stats.binomtest(30, 200).proportion_ci(0.95, "exact")
    assert found.estimate == pytest.approx(0.15)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.002)


def test_a_share_of_few_distinct_prompts_is_as_wide_as_these() -> None:
    values = np.array([([1.0] * 5 + [0.0] * 20) * 8])
    copies = design([f"p{i % 25}" for i in range(200)], ["a"] * 200)
    found = share_interval(values, copies)
    alone = share_interval(values[:, :25], distinct(25))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))


def test_student_intervals_cover_a_method_with_three_seeds() -> None:
    rng = np.random.RandomState(3)
    covered = 0
    for _ in range(400):
        values = rng.standard_normal((3, 60)) + rng.standard_normal(60)
        found = mean_interval(values + 0.3 * rng.standard_normal((3, 1)), distinct(60))
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    # 400 draws at 95%: four standard errors to either side.
    assert abs(covered / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
