"""How often intervals hold what is true: the people of the shapes world vote on known pictures.

Pictures are drawn as measures (alignment, vividness, cleanliness), which is all that people see of
them; scorers see the population's mean utility through noise and a bias of their own. Who votes is
drawn anew for every vote, so that the truth is the population's expected share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from bench_plugins.shapes import population

from bench.audit import sampling
from bench.statistics.prediction_powered import (
    Population,
    Voted,
    human_rate,
    published_interval,
    rank_sets,
)

Floats = npt.NDArray[np.float64]
Random = np.random.Generator

ALIKE, BETTER, FAR_BETTER = (0.0, 0.0, 0.0), (0.3, 0.3, 0.3), (1.5, 1.5, 1.5)
"""How many standard deviations the first method's pictures are better in each measure."""
CLOSE, LOOSE, BLIND = 0.3, 1.0, 10.0
"""Noise of the scorers: like people, somewhat, and hardly at all."""
BIASES = (-0.2, 0.1, 0.4)
"""Of each scorer, for the first method: they disagree with each other too."""


@dataclass(frozen=True)
class Coverage:
    """Of many audits: share of intervals that hold the truth, and their mean width in points."""

    alone: float
    alone_width: float
    powered: float
    powered_width: float
    published: float
    published_width: float
    power: float
    """Mean lambda."""


def pictures(shifts: Sequence[Sequence[float]], prompts: int, rng: Random) -> list[Floats]:
    """Measures [prompts, 3] of each method's pictures; some prompts are easy for all."""
    easy = rng.normal(0, 1, (prompts, 3))
    return [
        np.clip(
            population.CENTRE
            + population.SPREAD * (0.6 * easy + 0.8 * rng.normal(0, 1, (prompts, 3)) + shift),
            0,
            1,
        )
        for shift in map(np.array, shifts)
    ]


def said(first: Floats, second: Floats, noise: float, rng: Random) -> Floats:
    """Outcomes [scorers, prompts]."""
    better = population.gold_of(first) - population.gold_of(second)
    seen = (better + bias + noise * rng.normal(0, 1, len(better)) for bias in BIASES)
    return np.stack([0.5 + 0.5 * np.sign(values) for values in seen])


def votes(first: Floats, second: Floats, rng: Random) -> Floats:
    """One vote of somebody for each pair: `population.choice`, of all pairs at once."""
    everyone = population.people()
    rows, who = np.arange(len(first)), rng.integers(0, len(everyone), len(first))
    better = population.utilities(first)[rows, who] - population.utilities(second)[rows, who]
    noticed = np.abs(better) >= np.array([p.just_noticeable for p in everyone])[who]
    chosen = rng.random(len(first)) < 0.5 + 0.5 * np.tanh(0.5 * better / population.TEMPERATURE)
    return np.where(noticed, chosen * 1.0, 0.5)


@lru_cache
def truth(shift: tuple[float, ...], pairs: int = 200_000) -> float:
    """Expected share of people for the first; its own error is below 0.1 points."""
    rng = np.random.Generator(np.random.PCG64(99))
    shares = [
        population.share_from(*pictures((shift, ALIKE), 5000, rng)).mean()
        for _ in range(pairs // 5000)
    ]
    return float(np.mean(shares))


def audit(
    first: Floats,
    second: Floats,
    noise: float,
    count: int,
    rng: Random,
    *what: object,
    people: int = 1,
) -> tuple[Voted, Population]:
    """Votes of some people on a stratified sample of the prompts, and what scorers say of all."""
    prompts = len(first)
    outcomes = said(first, second, noise, rng)
    drawn = sampling.stratified(sampling.strata(outcomes), count, *what)
    predictions = outcomes.mean(axis=0)
    weights = np.full(prompts, 1 / prompts)
    return (
        Voted(
            votes=np.mean(
                [votes(first[drawn.rows], second[drawn.rows], rng) for _ in range(people)], axis=0
            ),
            predictions=predictions[drawn.rows],
            weights=weights[drawn.rows],
            stratum=drawn.stratum,
            chance=drawn.chance,
            prompt_set=np.zeros(len(drawn.rows), np.int64),
        ),
        Population(predictions=predictions, weights=weights, prompt=np.arange(prompts)),
    )


def coverage(
    shift: tuple[float, ...],
    noise: float,
    prompts: int,
    count: int,
    repetitions: int,
    people: int = 1,
) -> Coverage:
    """Many audits of one world."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((prompts, count))))
    true, found = truth(shift), np.zeros((repetitions, 7))
    for number in range(repetitions):
        first, second = pictures((shift, ALIKE), prompts, rng)
        voted, everywhere = audit(first, second, noise, count, rng, number, people=people)
        alone, powered = human_rate(voted, everywhere, power=0.0), human_rate(voted, everywhere)
        # As published: prompts drawn alike, none in strata.
        rows = rng.permutation(prompts)
        asked, rest = rows[:count], rows[count:]
        own = said(first, second, noise, rng).mean(axis=0)
        given = np.mean([votes(first[asked], second[asked], rng) for _ in range(people)], axis=0)
        _, _, low, high = published_interval(given, own[asked], own[rest])
        ends = ((alone.low, alone.high), (powered.low, powered.high), (low, high))
        for kind, (lower, upper) in enumerate(ends):
            found[number, 2 * kind : 2 * kind + 2] = lower <= true <= upper, upper - lower
        found[number, 6] = powered.power
    return Coverage(*found.mean(axis=0).tolist())


def wrong_ranks(noise: float, prompts: int, count: int, repetitions: int) -> float:
    """Share of audits of three methods, two of them alike, that exclude a true rank."""
    rng = np.random.Generator(np.random.PCG64(7))
    wrong = 0
    for number in range(repetitions):
        drawn = pictures((BETTER, BETTER, ALIKE), prompts, rng)
        rates = {}
        for one in range(3):
            for other in range(one + 1, 3):
                asked = audit(drawn[one], drawn[other], noise, count, rng, number, one, other)
                rates[one, other] = human_rate(*asked)
        found = rank_sets(3, rates)
        assert found
        # The two that are alike share the first rank; the third is third.
        wrong += not (found.rank_sets[0][0] == found.rank_sets[1][0] == 1) or (
            found.rank_sets[2][1] < 3
        )
    return wrong / repetitions
