"""Win rates of people from few votes and many scores: prediction-powered inference.

People vote on some prompts, scorers judge all. With y a vote and f what scorers say of the same
comparison, the estimate of Angelopoulos et al. (2023, "Prediction-powered inference",
arXiv:2301.09633; power tuning: 2311.01453) is

    theta = lambda mean_all(f) + mean_voted(y - lambda f),

right for any scorer and any lambda, and the surer the closer scorers are to people. lambda = 0 is
the mean of the votes alone; lambda = cov(y, f) / var(f) has the least variance.

Here the voted prompts are a part of all, drawn with known chances, so this is the regression
estimator of two-phase sampling (Särndal, Swensson & Wretman 1992, chapter 9): prompts are drawn
from all that could be asked, and those that are voted on from these,

    Var = Var_set(y) / N + sum_h W_h^2 (1 - n_h / N_h) Var_h(y - lambda f) / n_h,

which with one set and no strata is the variance of PPI++ exactly. Few votes: Student's t, with
degrees of freedom for strata and lambda; one win and one loss are added as in
`bench.statistics.model`, in the share of a coin's variance that is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from bench.lib.errors import BenchError
from bench.statistics import ranking

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

LEVEL = 0.95
"""Nominal coverage of every interval."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """Every comparison that people could have been shown, as the scorers see it."""

    predictions: Floats
    """[comparisons], in [0, 1]: 1 where the scorers have the first win."""
    weights: Floats
    """[comparisons]: how much each counts in what is estimated; they sum to 1."""
    prompt: Integers
    """[comparisons]: number of the prompt, 0, 1, ...; comparisons of one prompt are one draw."""


@dataclass(frozen=True, kw_only=True)
class Voted:
    """What people said: one comparison of each prompt that they were shown."""

    votes: Floats
    """[prompts], in [0, 1]: mean over its votes of 1 for the first, 0.5 for a tie."""
    predictions: Floats
    """[prompts]: of the very images that were shown."""
    weights: Floats
    """[prompts]: how much the prompt counts, as in `Population.weights` (summed)."""
    stratum: Integers
    """[prompts]: number of the stratum that it was drawn in."""
    chance: Floats
    """[prompts], in (0, 1]: of being drawn and answered."""
    prompt_set: Integers
    """[prompts]: number of the set that it lies in: how sets differ is no chance."""


@dataclass(frozen=True, kw_only=True)
class HumanRate:
    """How often people prefer one to another, and how surely."""

    win_rate: float
    """In [0, 1]; ties count 0.5."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""
    prompts: int
    """Distinct prompts that were voted on."""
    power: float
    """lambda in [0, 1]: how much the scorers were listened to; 0: the votes alone."""
    centre: float
    """Middle of the interval, drawn to 0.5 by a part of one win and one loss."""
    standard_error: float
    df: float
    """Degrees of freedom of Student's t."""

    @property
    def p_value(self) -> float:
        """Two-sided, of the same model: below 0.05 just where the 95% interval excludes 0.5."""
        return 2 * float(special.stdtr(self.df, -abs(self.centre - 0.5) / self.standard_error))

    def ends(self, level: float) -> tuple[float, float]:
        """The interval at another level, e.g. that of simultaneous intervals."""
        reach = float(special.stdtrit(self.df, (1 + level) / 2)) * self.standard_error
        return max(0.0, self.centre - reach), min(1.0, self.centre + reach)


def human_rate(voted: Voted, population: Population, *, power: float | None = None) -> HumanRate:
    """The rate at which people prefer the first, from their votes and the scorers.

    Args:
        voted: on what people voted; two prompts or more.
        population: what they could have been asked.
        power: lambda, in [0, 1]; 0 takes the votes alone, None what has the least variance.

    Raises:
        BenchError: Fewer than two prompts were voted on.
    """
    n = len(voted.votes)
    if n < 2:
        raise BenchError(f"votes on {n} prompts make no interval; two are needed, 30 make sense")
    weight = voted.weights / voted.chance
    weight = weight / weight.sum()
    tuned = tuned_power(voted, population) if power is None else power
    residuals = voted.votes - tuned * voted.predictions
    rate = float(tuned * (population.weights @ population.predictions) + weight @ residuals)
    left = float(weight @ (residuals - weight @ residuals) ** 2)
    # Of one win and one loss, as much as scorers, and the mean of several votes, leave of the
    # spread of coins; all where votes do not differ.
    coin = (n * min(1.0, max(0.0, rate)) + 1) / (n + 2)
    added = min(1.0, (n * left + 2 * _spread(coin)) / (n * coin * (1 - coin)))
    centre = (n * rate + added) / (n + 2 * added)
    own = np.bincount(population.prompt, population.weights)
    drawn = max(_within(weight, voted), _spread(centre) / (n + 2)) * float(own @ own)
    shown = _stratified(weight, residuals, voted.stratum, voted.chance) * (n / (n + 2 * added)) ** 2
    shown += 2 * added * _spread(centre) / (n + 2 * added) ** 2
    df = n + 2 * added - len(np.unique(voted.stratum)) - (tuned > 0)
    error = math.sqrt(drawn + shown * (n + 2 * added) / max(1.0, df))
    reach = float(special.stdtrit(max(1.0, df), (1 + LEVEL) / 2)) * error
    return HumanRate(
        win_rate=min(1.0, max(0.0, rate)),
        low=max(0.0, centre - reach),
        high=min(1.0, centre + reach),
        prompts=n,
        power=tuned,
        centre=centre,
        standard_error=error,
        df=max(1.0, df),
    )


def _spread(rate: float) -> float:
    """Mean square of one win and one loss about a rate."""
    return ((1 - rate) ** 2 + rate**2) / 2


def _within(weight: Floats, voted: Voted) -> float:
    """Variance of votes within prompt sets."""
    total = 0.0
    sets = np.unique(voted.prompt_set)
    for number in sets:
        rows = voted.prompt_set == number
        mean = weight[rows] @ voted.votes[rows] / weight[rows].sum()
        total += float(weight[rows] @ (voted.votes[rows] - mean) ** 2)
    return total * len(weight) / max(1, len(weight) - len(sets))


def _stratified(weight: Floats, residuals: Floats, stratum: Integers, chance: Floats) -> float:
    """Variance by which prompts were chosen: squares about each stratum's mean, not yet scaled up.

    Deviations are taken from the mean of all first, since the weights are shares of the sum that
    was drawn (Hájek 1971).
    """
    total = 0.0
    linear = weight * (residuals - weight @ residuals)
    for number in np.unique(stratum):
        rows = stratum == number
        own = linear[rows] - linear[rows].mean()
        total += float((1 - chance[rows]) @ own**2)
    return total


def tuned_power(voted: Voted, population: Population) -> float:
    """lambda of least variance, cov(y, f) / var(f), kept in [0, 1] (arXiv:2311.01453, section 6).

    0 where the scorers say the same of everything, or the contrary of people.
    """
    weight = voted.weights / voted.chance
    weight = weight / weight.sum()
    mean = population.weights @ population.predictions
    prompts = int(population.prompt.max()) + 1
    variance = float(population.weights @ (population.predictions - mean) ** 2)
    variance *= prompts / max(1, prompts - 1)
    centred = voted.votes - weight @ voted.votes
    covariance = float(weight @ (centred * (voted.predictions - weight @ voted.predictions)))
    return min(1.0, max(0.0, covariance / variance)) if variance else 0.0


def published_interval(
    votes: Floats, predictions: Floats, others: Floats
) -> tuple[float, float, float, float]:
    """PPI++ of a mean as its paper and package have it, for the comparison with `human_rate`.

    The normal quantile, and all votes and predictions weigh the same: for hundreds of votes.

    Args:
        votes: [n].
        predictions: [n], of the same.
        others: [N], predictions of what was not voted on.

    Returns:
        Estimate, standard error, and the ends of the 95% interval.
    """
    n, rest = len(votes), len(others)
    covariance = float(np.mean((votes - votes.mean()) * (predictions - predictions.mean())))
    variance = float(np.var(np.concatenate([predictions, others]), ddof=1))
    power = min(1.0, max(0.0, covariance / ((1 + n / rest) * variance))) if variance else 0.0
    residuals = votes - power * predictions
    estimate = power * float(others.mean()) + float(residuals.mean())
    error = math.sqrt(power**2 * float(others.var()) / rest + float(residuals.var()) / n)
    reach = float(special.ndtri((1 + LEVEL) / 2)) * error
    return estimate, error, estimate - reach, estimate + reach


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Which ranks the methods may have, all of it true at once with 95%."""

    rank_sets: tuple[tuple[int, int], ...]
    """[methods]: best and worst rank that is not excluded, from 1."""
    intervals: Mapping[tuple[int, int], tuple[float, float]]
    """Pair of methods, the lower number first -> simultaneous interval of the first's rate."""
    adjusted_p: Mapping[tuple[int, int], float]
    """By Bonferroni, in agreement with the intervals."""


def rank_sets(methods: int, rates: Mapping[tuple[int, int], HumanRate]) -> Ranking | None:
    """Ranks from rates of all pairs, with intervals that hold together (Bonferroni).

    A method's rank is 1 and how many are better; those whose simultaneous interval excludes 0.5
    are better or worse for sure, the others may be either (prediction-powered ranking,
    arXiv:2402.17826, with Bonferroni's intervals for its ellipsoid).

    Args:
        methods: how many there are.
        rates: pair of methods, the lower number first -> rate of the first over the second.

    Returns:
        None unless every pair has a rate.
    """
    pairs = list(combinations(range(methods), 2))
    if not pairs or any(pair not in rates for pair in pairs):
        return None
    level = 1 - (1 - LEVEL) / len(pairs)
    intervals = {pair: rates[pair].ends(level) for pair in pairs}
    separated = [
        (first, second) if low > 0.5 else (second, first)
        for (first, second), (low, high) in intervals.items()
        if low > 0.5 or high < 0.5
    ]
    return Ranking(
        rank_sets=tuple(ranking.rank_sets(range(methods), separated)),
        intervals=intervals,
        adjusted_p={pair: min(1.0, len(pairs) * rates[pair].p_value) for pair in pairs},
    )
