from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics.crossed import Interval
from bench.statistics.joint import (
    LEAST_RATIO,
    diversity,
    dominance,
    joint,
    proxy_up_gold_down,
)
from bench.statistics.model import Design, design


def distinct(n: int) -> Design:
    return design([f"prompt {i}" for i in range(n)], ["a"] * n)


def interval(estimate: float, low: float | None, high: float | None) -> Interval:
    return Interval(estimate=estimate, low=low, high=high)


def test_dominance_by_hand() -> None:
    # Better by both; by one and equal in the other; equal in both; mixed; worse by one; by both.
    first = np.array([1.0, 1.0, 0.0, 1.0, -1.0, -1.0])
    second = np.array([1.0, 0.0, 0.0, -1.0, 0.0, -1.0])
    scores = {"a": first[None, :, None], "b": second[None, :, None]}
    base = {name: np.zeros((6, 1)) for name in "abc"}
    dominating, dominated = dominance(scores, base)
    assert dominating.tolist() == [[1, 1, 0, 0, 0, 0]]
    assert dominated.tolist() == [[0, 0, 0, 0, 1, 1]]
    found = joint(scores, base, distinct(6))
    assert found.scorers == ("a", "b")
    assert found.dominating.estimate == found.dominated.estimate == pytest.approx(1 / 3)


def test_dominance_is_the_definition() -> None:
    rng = np.random.RandomState(0)
    scores = {name: rng.randint(0, 3, (2, 30, 2)).astype(float) for name in "abc"}
    base = {name: rng.randint(0, 3, (30, 2)).astype(float) for name in "abc"}
    dominating, dominated = dominance(scores, base)

    def dominates(ours: list[float], theirs: list[float]) -> bool:
        pairs = list(zip(ours, theirs, strict=True))
        return all(o >= t for o, t in pairs) and any(o > t for o, t in pairs)

    better, worse = np.zeros((2, 30)), np.zeros((2, 30))
    for s, p, i in product(range(2), range(30), range(2)):
        ours, theirs = [scores[k][s, p, i] for k in "abc"], [base[k][p, i] for k in "abc"]
        better[s, p] += dominates(ours, theirs) / 2
        worse[s, p] += dominates(theirs, ours) / 2
    assert dominating.tolist() == better.tolist()
    assert dominated.tolist() == worse.tolist()


def test_joint_rates_have_exact_intervals_at_the_ends() -> None:
    scores, base = {"a": np.ones((1, 40, 1))}, {"a": np.zeros((40, 1))}
    found = joint(scores, base, distinct(40))
    exact = stats.binomtest(0, 40).proportion_ci(0.95, "exact")
    assert (found.dominated.low, found.dominated.high) == pytest.approx((exact.low, exact.high))
    assert found.dominating.high == 1.0


def test_scorers_that_the_base_lacks_are_refused() -> None:
    with pytest.raises(BenchError, match="the base has no scores of a"):
        dominance({"a": np.ones((1, 2, 1))}, {"b": np.ones((2, 1))})
    with pytest.raises(BenchError, match="any scorer"):
        dominance({}, {})


def test_diversity_by_hand() -> None:
    found = diversity([[2.0, 0.5]], [1.0, 1.0], distinct(2))
    assert found is not None
    assert found.ratio.estimate == pytest.approx(1.0)
    alike = diversity([[0.8, 1.6, 0.4]], [1.0, 2.0, 0.5], distinct(3))
    assert alike is not None
    assert (alike.ratio.low, alike.ratio.high) == pytest.approx((0.8, 0.8))
    assert (alike.prompts, alike.collapsed) == (3, 0)


def test_diversity_is_students_interval_of_logarithms() -> None:
    rng = np.random.RandomState(0)
    base = rng.gamma(5, size=40)
    ours = base * rng.lognormal(-0.2, 0.3, 40)
    found = diversity(ours[None], base, distinct(40))
    logs = stats.ttest_1samp(np.log(ours / base), 0).confidence_interval(0.95)
    assert found is not None
    assert found.ratio.estimate == pytest.approx(stats.gmean(ours / base))
    assert found.ratio.low == pytest.approx(math.exp(logs.low))
    assert found.ratio.high == pytest.approx(math.exp(logs.high))


def test_images_that_are_all_the_same() -> None:
    found = diversity([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], [1.0, 1.0, 0.0], distinct(3))
    assert found is not None
    assert (found.prompts, found.collapsed) == (2, 1)
    assert found.ratio.estimate == pytest.approx(LEAST_RATIO ** (1 / 4))
    assert diversity([[1.0]], [0.0], distinct(1)) is None


def test_bad_diversities_are_refused() -> None:
    with pytest.raises(BenchError, match="negative or not finite"):
        diversity([[-1.0]], [1.0], distinct(1))
    with pytest.raises(BenchError, match="cannot be paired"):
        diversity([1.0], [1.0], distinct(1))


UP, FLAT, DOWN = (
    interval(0.612, 0.59, 0.634),
    interval(0.51, 0.49, 0.53),
    interval(0.461, 0.44, 0.482),
)


def test_a_proxy_up_and_a_gold_down_is_marked() -> None:
    assert proxy_up_gold_down({"pick": UP, "clip": FLAT}, {"gold": DOWN, "hps": UP}, None) == (
        "proxy up (pick 61.2 [59.0, 63.4]), gold down (46.1 [44.0, 48.2])",
    )


def test_less_variety_is_marked_too() -> None:
    ratio = interval(0.7, 0.65, 0.752)
    assert proxy_up_gold_down({"pick": UP}, {"gold": FLAT}, ratio) == (
        "proxy up (pick 61.2 [59.0, 63.4]), diversity within a prompt down (0.70 [0.65, 0.75])",
    )


@pytest.mark.parametrize(
    ("proxy", "gold", "ratio"),
    [
        (FLAT, DOWN, interval(0.7, 0.6, 0.8)),
        (DOWN, DOWN, None),
        (UP, FLAT, interval(0.9, 0.7, 1.1)),
        (UP, UP, interval(1.2, 1.1, 1.3)),
        (interval(0.7, None, None), DOWN, None),
        (UP, interval(0.3, None, None), interval(0.5, None, None)),
    ],
)
def test_nothing_is_marked_that_the_intervals_do_not_show(
    proxy: Interval, gold: Interval, ratio: Interval | None
) -> None:
    assert proxy_up_gold_down({"pick": proxy}, {"gold": gold}, ratio) == ()
