"""Intervals of people's rates hold the truth as often as they say; the large version is slow."""

from __future__ import annotations

import numpy as np
import pytest
from bench_plugins.shapes import population

from tests.audit import coverage as simulated
from tests.audit.coverage import ALIKE, BETTER, BLIND, CLOSE, FAR_BETTER, LOOSE


def test_votes_are_the_populations() -> None:
    first, second = simulated.pictures((BETTER, ALIKE), 20_000, np.random.default_rng(0))
    given = simulated.votes(first, second, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    who, draws = rng.integers(0, population.PEOPLE, 20_000), rng.random(20_000)
    for i in range(500):
        person = population.people()[who[i]]
        assert given[i] == population.choice(person, first[i], second[i], draws[i])
    expected = population.share_from(first, second).mean()
    assert given.mean() == pytest.approx(float(expected), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("count", [30, 100, 300])
def test_intervals_cover(count: int) -> None:
    """Four standard errors of 400 audits about 95%."""
    found = simulated.coverage(BETTER, CLOSE, 1000, count, 400)
    assert 0.906 < found.alone < 0.994
    assert 0.906 < found.powered < 0.994
    assert found.powered_width < 0.96 * found.alone_width


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
@pytest.mark.parametrize("noise", [CLOSE, LOOSE, BLIND])
@pytest.mark.parametrize("shift", [ALIKE, BETTER])
def test_intervals_cover_94_to_96(shift: tuple[float, ...], noise: float, count: int) -> None:
    """Within two standard errors of 4,000 audits, 0.7 points, of the bar."""
    found = simulated.coverage(shift, noise, 1632, count, 4000)
    print(shift[0], noise, count, found)
    assert 0.933 < found.alone < 0.967
    assert 0.933 < found.powered < 0.967
    # What scorers cannot tell costs nothing.
    assert found.powered_width < (0.96 if noise == CLOSE else 1.0) * found.alone_width


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_far_from_half_they_cover_at_least_as_often(count: int) -> None:
    """Where 86% prefer one, the added win and loss err on the safe side."""
    found = simulated.coverage(FAR_BETTER, LOOSE, 1632, count, 4000)
    print("far", count, found)
    assert 0.94 < found.powered < 0.985


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_ranks_are_rarely_wrong(count: int) -> None:
    """At most 5% in a family of three pairs, with two standard errors of 2,000 audits."""
    share = simulated.wrong_ranks(CLOSE, 1632, count, 2000)
    print("ranks", count, share)
    assert share < 0.06
