from __future__ import annotations

import math

import numpy as np
import pytest

from bench.lib.errors import BenchError
from bench.statistics.adjustment import Adjusted, adjusted_rate
from bench.statistics.crossed import mean_interval
from bench.statistics.model import Design, Floats, design


def distinct(n: int) -> Design:
    return design([f"prompt {i}" for i in range(n)], ["a"] * n)


def flat(values: Floats) -> Floats:
    """[prompts] -> [train seeds, prompts, images] of one each."""
    return values[None, :, None]


def regressed(outcome: Floats, plan: Design, **facts: Floats) -> Adjusted:
    """Of one train seed and image; a base without any fact leaves differences as they are."""
    base = {name: np.zeros((len(outcome), 1)) for name in facts}
    return adjusted_rate(flat(outcome), {n: flat(v) for n, v in facts.items()}, base, plan)


ROW = np.arange(40)
SATURATION = np.round(np.sin(ROW * 1.7), 2)
CONTRAST = np.round(np.cos(ROW * 2.3) + 0.3, 2)
OUTCOME = np.where(
    SATURATION + 0.5 * CONTRAST + np.sin(ROW * 5.1) > 0.2, 1.0, np.where(ROW % 9 == 0, 0.5, 0.0)
)
CLUSTER = ROW // 2 * 2 % 36 // 2
STATSMODELS = ((0.41738596742243106, 0.20705839651584457, 0.2715118422354886), 0.22205973662474274)
"""Parameters and lower end of the intercept of statsmodels 0.15.0:
`OLS(OUTCOME, add_constant(np.c_[CONTRAST, SATURATION])).fit(cov_type="cluster",
cov_kwds={"groups": CLUSTER}, use_t=True)`."""
STATSMODELS_HIGH = 0.6127121982201194


def test_regression_is_that_of_statsmodels() -> None:
    texts = [f"text {c}" for c in CLUSTER]
    found = regressed(OUTCOME, design(texts, ["a"] * 40), saturation=SATURATION, contrast=CONTRAST)
    (intercept, contrast, saturation), low = STATSMODELS
    assert found.rate.estimate == pytest.approx(intercept, abs=1e-12)
    assert found.slopes == pytest.approx({"contrast": contrast, "saturation": saturation})
    assert found.rate.low == pytest.approx(low, abs=1e-9)
    assert found.rate.high == pytest.approx(STATSMODELS_HIGH, abs=1e-9)
    assert found.supported


def test_by_hand() -> None:
    # Wins are half of all and a tenth more for each deviation of saturation, of which 1.5 more.
    more = np.array([-1.0, 1.0, 2.0, 4.0])
    found = regressed(0.5 + 0.1 * more, distinct(4), saturation=more)
    assert found.rate.estimate == pytest.approx(0.5)
    assert found.raw == pytest.approx(0.65)
    assert found.parts == pytest.approx({"saturation": 0.15})
    assert found.slopes == pytest.approx({"saturation": 0.1})
    assert (found.rate.low, found.rate.high) == pytest.approx((0.5, 0.5))


def test_facts_count_in_base_deviations() -> None:
    rng = np.random.RandomState(0)
    base = {"sharpness": rng.standard_normal((50, 1)) * 30}
    facts = {"sharpness": base["sharpness"][None] + rng.standard_normal((1, 50, 1)) * 10}
    outcome = rng.randint(0, 2, (1, 50, 1)).astype(float)
    found = adjusted_rate(outcome, facts, base, distinct(50))
    thousandth = adjusted_rate(
        outcome,
        {name: values / 1000 for name, values in facts.items()},
        {name: values / 1000 for name, values in base.items()},
        distinct(50),
    )
    assert found.slopes == pytest.approx(thousandth.slopes)
    assert found.rate.estimate == pytest.approx(thousandth.rate.estimate)
    by_unit = np.polyfit((facts["sharpness"] - base["sharpness"]).ravel(), outcome.ravel(), 1)
    assert found.slopes["sharpness"] == pytest.approx(by_unit[0] * base["sharpness"].std(ddof=1))


def test_the_win_rate_splits_exactly() -> None:
    rng = np.random.RandomState(1)
    two = design([f"p{i}" for i in range(60)], ["x"] * 20 + ["y"] * 40)
    names = ("saturation", "contrast", "clipping")
    base = {name: rng.standard_normal((60, 2)) for name in names}
    facts = {name: base[name] + rng.standard_normal((3, 60, 2)) + 0.3 for name in names}
    outcome = rng.randint(0, 3, (3, 60, 2)) / 2
    found = adjusted_rate(outcome, facts, base, two)
    macro = (outcome[:, :20].mean() + outcome[:, 20:].mean()) / 2
    assert found.raw == pytest.approx(macro)
    assert found.rate.estimate + sum(found.parts.values()) == pytest.approx(macro)


def test_prompt_sets_weigh_as_if_their_rows_were_repeated() -> None:
    rng = np.random.RandomState(2)
    more, outcome = rng.standard_normal(30), rng.randint(0, 2, 30).astype(float)
    weighted = regressed(
        outcome, design([str(i) for i in range(30)], ["x"] * 10 + ["y"] * 20), contrast=more
    )
    repeated = np.r_[np.repeat(np.arange(10), 2), np.arange(10, 30)]
    slope, intercept = np.polyfit(more[repeated], outcome[repeated], 1)
    assert weighted.rate.estimate == pytest.approx(intercept)
    assert weighted.slopes["contrast"] == pytest.approx(slope)


def test_without_facts_it_is_the_mean() -> None:
    outcome = np.random.RandomState(3).randint(0, 3, (3, 40, 1)) / 2
    found = adjusted_rate(outcome, {}, {}, distinct(40))
    mean = mean_interval(outcome.mean(axis=2), distinct(40))
    assert found.rate.estimate == pytest.approx(mean.estimate)
    assert (found.rate.low, found.rate.high) == pytest.approx((mean.low, mean.high), rel=1e-3)


def test_what_looks_explain_is_taken_out() -> None:
    # A method that wins by saturation alone has half of the wins at equal saturation.
    rng = np.random.RandomState(4)
    more = rng.standard_normal(4000) + 0.5
    outcome = (rng.random_sample(4000) < 0.5 + 0.1 * np.clip(more, -4, 4)).astype(float)
    found = regressed(outcome, distinct(4000), saturation=more)
    assert found.raw == pytest.approx(0.55, abs=0.02)
    assert found.rate.low is not None
    assert found.rate.high is not None
    assert found.rate.low < 0.5 < found.rate.high < found.raw


def test_facts_that_say_nothing_more_are_left_out() -> None:
    rng = np.random.RandomState(5)
    more, outcome = rng.standard_normal(30), rng.randint(0, 2, 30).astype(float)
    found = regressed(outcome, distinct(30), a=more, b=2 * more + 1, c=np.zeros(30), d=np.ones(30))
    alone = regressed(outcome, distinct(30), a=more)
    assert found.left_out == ("b", "c", "d")
    assert found.rate.estimate == pytest.approx(alone.rate.estimate)
    # Every image of the method has more of d: nobody knows how equal ones would fare.
    assert found.extrapolated == ("d",)
    assert not found.supported


def test_a_method_that_always_shifts_a_fact_is_extrapolated() -> None:
    rng = np.random.RandomState(6)
    outcome, shifted = rng.randint(0, 2, 100).astype(float), np.abs(rng.standard_normal(100)) + 0.1
    found = regressed(outcome, distinct(100), saturation=shifted, contrast=rng.standard_normal(100))
    assert found.extrapolated == ("saturation",)
    assert not found.supported
    # 5 of 100 on the other side are enough.
    assert regressed(outcome, distinct(100), s=np.r_[shifted[:95], -shifted[95:]]).supported


def test_equal_looks_may_lie_outside_of_all_pairs_together() -> None:
    # More contrast where there is less saturation, and more of both than their difference allows.
    along = np.random.RandomState(7).standard_normal(200)
    spread = 0.01 * np.random.RandomState(8).standard_normal(200)
    found = regressed((along > 0).astype(float), distinct(200), s=along, c=1.2 - along + spread)
    assert found.extrapolated == ()
    assert found.outside
    assert not found.supported


def test_too_few_prompts_have_no_interval() -> None:
    found = regressed(np.array([1.0]), distinct(1), s=np.array([0.3]))
    assert (found.rate.estimate, found.rate.low, found.rate.high) == (1.0, None, None)
    # Two lines through three points fit them all, here with less than no wins at equal looks.
    steep = regressed(np.array([0.0, 1.0, 0.5]), distinct(3), s=np.array([1.0, 2.0, 1.5]))
    assert (steep.rate.estimate, steep.rate.low) == (0.0, 0.0)
    full = regressed(
        np.array([0.0, 1.0, 1.0]),
        distinct(3),
        s=np.array([1.0, 2.0, 1.5]),
        t=np.array([1.0, 0.0, 2.0]),
    )
    assert (full.rate.low, full.rate.high) == (None, None)


def test_bad_facts_are_refused() -> None:
    outcome = np.ones((1, 2, 1))
    with pytest.raises(BenchError, match="the base has no sharpness"):
        adjusted_rate(outcome, {"sharpness": outcome}, {}, distinct(2))
    with pytest.raises(BenchError, match="not finite"):
        adjusted_rate(outcome, {"s": outcome * math.nan}, {"s": np.ones((2, 1))}, distinct(2))
    with pytest.raises(BenchError, match=r"s of shape \(1, 3, 1\) beside \(1, 2, 1\) outcomes"):
        adjusted_rate(outcome, {"s": np.ones((1, 3, 1))}, {"s": np.ones((3, 1))}, distinct(2))
