"""Prediction-powered rates: by the package's numbers, and by what must hold."""

from __future__ import annotations

import numpy as np
import pytest

from bench.lib.errors import BenchError
from bench.statistics.model import components, design
from bench.statistics.model import win_rate as model_rate
from bench.statistics.prediction_powered import (
    Floats,
    HumanRate,
    Population,
    Voted,
    human_rate,
    published_interval,
    rank_sets,
    tuned_power,
)

N = 400
_I = np.arange(N)
SAID = ((_I * 37) % 101) / 100
LIKED = np.where(_I % 7 == 0, 0.5, ((SAID + ((_I * 53) % 89) / 88) > 1) * 1.0)

PACKAGE = {
    30: (0.5274187725475308, 0.37945721602572247, 0.6753803290693391),
    100: (0.4953817285038928, 0.4133570762133921, 0.5774063807943934),
}
"""n -> ppi-python 0.2.3: ppi_mean_pointestimate(LIKED[:n], SAID[:n], SAID[n:]), and
ppi_mean_ci(..., alpha=0.05)."""


def population(said: Floats = SAID) -> Population:
    return Population(
        predictions=said, weights=np.full(len(said), 1 / len(said)), prompt=np.arange(len(said))
    )


def voted(n: int, said: Floats = SAID, liked: Floats = LIKED) -> Voted:
    return Voted(
        votes=liked[:n],
        predictions=said[:n],
        weights=np.full(n, 1 / len(said)),
        stratum=np.zeros(n, np.int64),
        chance=np.full(n, n / len(said)),
        prompt_set=np.zeros(n, np.int64),
    )


@pytest.mark.parametrize("n", PACKAGE)
def test_the_published_interval_is_the_packages(n: int) -> None:
    estimate, _, low, high = published_interval(LIKED[:n], SAID[:n], SAID[n:])
    assert (estimate, low, high) == pytest.approx(PACKAGE[n], abs=1e-12)


@pytest.mark.parametrize("n", PACKAGE)
def test_the_estimate_is_the_packages(n: int) -> None:
    ours = human_rate(voted(n), population())
    assert ours.win_rate == pytest.approx(PACKAGE[n][0], abs=1e-12)
    # Of all prompts, where the package speaks of those that were not voted on.
    rest = N - n
    theirs = np.cov(LIKED[:n], SAID[:n], ddof=0)[0, 1] / ((1 + n / rest) * SAID.var(ddof=1))
    assert ours.power == pytest.approx(theirs * N / rest, abs=1e-12)


def test_few_votes_are_less_sure_than_published_and_many_are_as_sure() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    said = rng.random(20_000)
    liked = (rng.random(20_000) < said) * 1.0
    for n, ratio in ((30, 1.03), (5000, 1.0)):
        _, _, low, high = published_interval(liked[:n], said[:n], said[n:])
        ours = human_rate(voted(n, said, liked), population(said))
        found = (ours.high - ours.low) / (high - low)
        assert found == pytest.approx(1.0, abs=0.01) if n > 1000 else found > ratio


def test_votes_alone_are_the_boards_model() -> None:
    """Of one training, with so many prompts that they are no noticeable part of all."""
    n = 60
    mine = Voted(
        votes=LIKED[:n],
        predictions=np.zeros(n),
        weights=np.full(n, 1e-9),
        stratum=np.zeros(n, np.int64),
        chance=np.full(n, 1e-9),
        prompt_set=np.zeros(n, np.int64),
    )
    many = Population(
        predictions=np.zeros(10**6), weights=np.full(10**6, 1e-6), prompt=np.arange(10**6)
    )
    ours = human_rate(mine, many, power=0.0)
    made = components(LIKED[None, :n, None], design([str(i) for i in range(n)], ["all"] * n))
    theirs = model_rate(made, None)
    assert ours.win_rate == pytest.approx(theirs.win_rate)
    # A seventh are ties, so that less than a whole win and loss are added.
    assert ours.centre == pytest.approx(theirs.centre, abs=1e-3)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_scorers_that_say_nothing_are_not_listened_to() -> None:
    same = np.full(N, 0.7)
    ours = human_rate(voted(50, same), population(same))
    assert ours.power == 0.0
    assert ours == human_rate(voted(50, same), population(same), power=0.0)
    contrary = human_rate(voted(50, 1 - SAID), population(1 - SAID))
    assert contrary.power == 0.0
    assert contrary.win_rate == pytest.approx(float(LIKED[:50].mean()))


def test_good_scorers_make_it_surer() -> None:
    alone = human_rate(voted(60), population(), power=0.0)
    helped = human_rate(voted(60), population())
    assert 0 < helped.power < 1
    assert helped.standard_error < 0.95 * alone.standard_error
    # Scorers that are people: the rate of all is known from a few votes.
    perfect = human_rate(voted(60, LIKED), population(LIKED))
    assert perfect.power == pytest.approx(1.0, abs=0.1)
    assert perfect.win_rate == pytest.approx(float(LIKED.mean()), abs=0.01)
    assert perfect.standard_error < 0.6 * alone.standard_error


def test_chances_undo_the_sampling() -> None:
    """Every disputed prompt was asked, and a tenth of the others."""
    stratum = (SAID > 0.5).astype(np.int64)
    rows = np.flatnonzero((stratum == 1) | (_I % 10 == 0))
    chance = np.array([np.mean((_I % 10 == 0)[stratum == 0]), 1.0])[stratum[rows]]
    mine = Voted(
        votes=LIKED[rows],
        predictions=SAID[rows],
        weights=np.full(len(rows), 1 / N),
        stratum=stratum[rows],
        chance=chance,
        prompt_set=np.zeros(len(rows), np.int64),
    )
    found = human_rate(mine, population(), power=0.0)
    own = [float(LIKED[rows][stratum[rows] == h].mean()) for h in (0, 1)]
    share = float(stratum.mean())
    assert found.win_rate == pytest.approx((1 - share) * own[0] + share * own[1])
    assert abs(found.win_rate - LIKED.mean()) < 2 * found.standard_error
    assert LIKED[rows].mean() - LIKED.mean() > 3 * found.standard_error


def test_unanimous_votes_still_leave_doubt() -> None:
    found = human_rate(voted(30, liked=np.ones(N)), population())
    assert found.win_rate == pytest.approx(1.0)
    # Clopper and Pearson's (1934) lower end of 30 of 30 is 0.884.
    assert 0.8 < found.low < 0.93
    assert found.high == 1.0


def test_one_prompt_is_too_few() -> None:
    with pytest.raises(BenchError, match="two are needed"):
        human_rate(voted(1), population())


def rate(centre: float, error: float = 0.02) -> HumanRate:
    return HumanRate(
        win_rate=centre,
        low=centre - 2 * error,
        high=centre + 2 * error,
        prompts=100,
        power=0.5,
        centre=centre,
        standard_error=error,
        df=99.0,
    )


def test_ranks_are_sets() -> None:
    found = rank_sets(3, {(0, 1): rate(0.52), (0, 2): rate(0.7), (1, 2): rate(0.3)})
    assert found
    # The second loses to the third, which loses to the first; the first two are not separated.
    assert found.rank_sets == ((1, 2), (2, 3), (2, 2))
    assert found.adjusted_p[0, 1] == pytest.approx(min(1.0, 3 * rate(0.52).p_value))
    for pair, (low, high) in found.intervals.items():
        excluded = not low <= 0.5 <= high
        assert excluded == (found.adjusted_p[pair] < 0.05)
    assert rank_sets(3, {(0, 1): rate(0.5)}) is None
    assert rank_sets(1, {}) is None


def test_interval_and_test_never_contradict() -> None:
    rng = np.random.Generator(np.random.PCG64(4))
    for _ in range(200):
        liked = (rng.random(N) < rng.uniform(0.3, 0.7)) * 1.0
        found = human_rate(voted(40, liked=liked), population())
        assert (found.p_value < 0.05) == (not found.low <= 0.5 <= found.high)
    assert tuned_power(voted(40), population()) > 0
