"""Agreement of raters and of scorers, by other packages' numbers and by known truths."""

from __future__ import annotations

import numpy as np
import pytest

from bench.lib.errors import BenchError
from bench.statistics.agreement import Metric, agreement, krippendorff_alpha

NAN = float("nan")
RATINGS = [
    [1, 0, 0.5, 1, NAN, 0, 1, 1, 0.5, 0],
    [1, 0, 1, 1, 0, NAN, 1, 0, 0.5, 0],
    [NAN, 0, 0.5, 0, 0, 0.5, 1, 1, 1, NAN],
]


@pytest.mark.parametrize(
    ("metric", "theirs"),
    # krippendorff 0.9.0: alpha(reliability_data=RATINGS, level_of_measurement=metric); and
    # evalica 0.4.2: alpha(pandas.DataFrame(RATINGS), distance=metric), the same to 15 digits.
    [
        ("nominal", 0.4186046511627908),
        ("ordinal", 0.492712148962149),
        ("interval", 0.4954128440366973),
    ],
)
def test_alpha_is_that_of_other_packages(metric: Metric, theirs: float) -> None:
    assert krippendorff_alpha(RATINGS, metric) == pytest.approx(theirs, abs=1e-12)


def test_alpha_knows_perfect_and_chance_and_what_cannot_be_known() -> None:
    alike = np.array([[0.0, 1, 0.5, 1]] * 3)
    assert krippendorff_alpha(alike) == pytest.approx(1.0)
    coin = np.random.Generator(np.random.PCG64(0)).integers(0, 2, (4, 5000)) * 1.0
    assert krippendorff_alpha(coin, "nominal") == pytest.approx(0.0, abs=0.02)
    assert krippendorff_alpha([[1.0, NAN], [NAN, 0.0]]) is None
    assert krippendorff_alpha([[1.0, 1.0], [1.0, 1.0]]) is None
    with pytest.raises(BenchError, match="no table of raters"):
        krippendorff_alpha([1.0, 0.0])


def test_agreement_counts_what_both_decide() -> None:
    found = agreement([1, 0.7, 0.5, 0, 1], [1, 0, 1, 0, 0.5], [0, 1, 2, 3, 4])
    assert found
    assert (found.decided, found.prompts) == (3, 3)
    assert found.share == pytest.approx(2 / 3)
    assert 0 < found.low < found.share < found.high < 1
    assert agreement([0.5, 1], [1, 0.5], [0, 1]) is None


def test_one_vote_a_prompt_gives_wilsons_interval() -> None:
    n, same = 200, 150
    votes = np.r_[np.ones(same), np.zeros(n - same)]
    found = agreement(np.ones(n), votes, np.arange(n))
    assert found
    # statsmodels 0.15.0: proportion_confint(150, 200, method="wilson"), whose normal quantile is
    # 0.6% below Student's.
    assert (found.low, found.high) == pytest.approx((0.685659, 0.804918), abs=1e-3)


def test_votes_of_one_prompt_are_one_draw() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    own = rng.integers(0, 2, 40) * 1.0
    single = agreement(np.ones(40), own, np.arange(40))
    several = agreement(np.ones(400), np.repeat(own, 10), np.repeat(np.arange(40), 10))
    assert single
    assert several
    assert (several.low, several.high) == pytest.approx((single.low, single.high), abs=0.01)


def test_weights_undo_the_sampling() -> None:
    # 90 prompts agree, 10 do not; of the latter all were asked, of the former a third.
    votes = np.r_[np.ones(30), np.zeros(10)]
    weights = np.r_[np.full(30, 3.0), np.ones(10)]
    found = agreement(np.ones(40), votes, np.arange(40), weights)
    assert found
    assert found.share == pytest.approx(0.9)
    everyone = agreement(np.ones(5), np.ones(5), np.arange(5))
    assert everyone
    assert everyone.high == 1.0
    assert everyone.low < 0.6


@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_the_interval_covers(truth: float) -> None:
    rng = np.random.Generator(np.random.PCG64(2))
    inside, repetitions, prompts = 0, 800, 60
    for _ in range(repetitions):
        # Three votes of a prompt, which mostly agree with each other.
        chance = rng.beta(2 * truth, 2 * (1 - truth), prompts)
        votes = (rng.random((prompts, 3)) < chance[:, None]).ravel() * 1.0
        found = agreement(np.ones(len(votes)), votes, np.repeat(np.arange(prompts), 3))
        assert found
        inside += found.low <= truth <= found.high
    assert 0.93 < inside / repetitions < 0.98
