"""Which difference so many prompts and train seeds can find, and what finding less takes.

The variance of a win rate has the three parts of `bench.statistics.model`: between prompts, which
more prompts make small; between trainings, which only more train seeds do; and of a training at a
prompt, which both do. Power is that of the very test that the model will do, at the level that
`bench.statistics.ranking` gives each test of a family: averaged over the variance between
trainings that so few of them may show (as the noncentral t distribution is; Cohen 1988,
"Statistical Power Analysis", chapter 2), with the model's degrees of freedom for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from bench.lib.errors import BenchError
from bench.statistics.model import OWN_SEEDS, Components, Design, degrees_of_freedom
from bench.statistics.ranking import adjust, all_pairs

POWER = 0.8
"""Probability with which a difference shall be found."""
SEED_SD = 0.02
"""Assumed standard deviation between trainings of one method, of its win rate against the base."""
MOST_SEEDS = 100
"""So many trainings of one method are as good as out of reach."""
MOST_PROMPTS = 10**7

_QUANTILES = (np.arange(100) + 0.5) / 100
"""Of the variance between trainings that may show."""
_NORMAL = 1e10
"""Degrees of freedom from which Student's t is normal."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How outcomes of one comparison differ: standard deviations, in win rate (0 to 1)."""

    prompt: float
    """Between prompts, alike in all trainings: 0.5 at most."""
    residual: float
    """Of one training at one prompt."""
    seed: float
    """Between trainings, over all prompts."""


def widest(tie_share: float = 0.0, seed_sd: float = SEED_SD) -> Spread:
    """The worst case before anything is measured: every prompt wins or loses in all trainings.

    Args:
        tie_share: share of comparisons that tie, in [0, 1).
        seed_sd: standard deviation between trainings.

    Raises:
        BenchError: out of range.
    """
    if not 0 <= tie_share < 1:
        raise BenchError(f"a tie share of {tie_share:g} is not from 0 to below 1")
    if not 0 <= seed_sd <= 0.5:
        raise BenchError(
            f"a deviation between trainings of {100 * seed_sd:g} points is not from 0 to 50"
        )
    return Spread(prompt=math.sqrt(0.25 * (1 - tie_share)), residual=0.0, seed=seed_sd)


def head_to_head(against_base: Spread) -> Spread:
    """The spread between two methods that each have this one against the base.

    Their trainings differ independently. Prompts stay as they are: a win or a loss each.
    """
    return replace(against_base, seed=math.sqrt(2) * against_base.seed)


def measured(compared: Sequence[Components], prompts: float) -> Spread:
    """The spread that comparisons show, on average.

    Args:
        compared: of two train seeds or more each, all over the same prompts.
        prompts: their number, see `effective_prompts`.

    Raises:
        BenchError: there is none with two train seeds.
    """
    several = [one for one in compared if one.seeds > 1]
    if not several:
        raise BenchError("no method has two train seeds or more, so that its spread is not known")
    seeds = np.array([one.seeds for one in several])
    residual = np.array([one.residual for one in several])
    # Between prompts is what is left when the part of the single trainings is taken out.
    prompt = np.array([one.prompt for one in several]) - residual / seeds
    between = np.array([one.between for one in several]) - residual
    share = (seeds - 1) / (seeds - 1).sum()

    def deviation(variances: np.ndarray, times: float) -> float:
        return math.sqrt(max(0.0, float(share @ variances)) * times)

    return Spread(
        prompt=deviation(prompt, prompts),
        residual=deviation(residual, prompts),
        seed=deviation(between, 1.0),
    )


def effective_prompts(design: Design) -> float:
    """How many equally weighted, distinct prompts tell as much as these.

    Prompt sets weigh the same, so that a small one limits the whole; equal texts count once.
    """
    size = np.bincount(design.stratum)
    weight = np.bincount(design.cluster, 1 / (len(size) * size[design.stratum]))
    return float(1 / (weight**2).sum())


@dataclass(frozen=True, kw_only=True)
class Study:
    """Comparisons of one kind: of methods against the base, or head to head.

    Both are tested in one family: all pairs, the base's among them.
    """

    spread: Spread
    methods: int
    """The base does not count."""
    pairs: bool = False
    """Each with each, rather than each with the base."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where there is nothing to compare."""
        if self.methods < 1 + self.pairs:
            raise BenchError(f"{self.methods} methods give nothing to compare")

    @property
    def alpha(self) -> float:
        """Level of each single test, so that the family has 5%."""
        return _alpha(self.methods + 1)

    def trainings(self, seeds: int) -> int:
        """Degrees of freedom of the variance between trainings.

        Up to four train seeds it is pooled over the methods, as the model does it.
        """
        if seeds >= OWN_SEEDS:
            return seeds - 1
        # Pairs of methods share them: as many are free as there are methods less one.
        return (seeds - 1) * (self.methods - self.pairs)

    def power(self, effect: float, prompts: float, seeds: int) -> float:
        """Probability of finding a true difference of win rates, in (0, 1].

        Args:
            effect: the difference.
            prompts: effective number, which may be infinite.
            seeds: train seeds of each method, 2 or more: one says nothing of a method.
        """
        if seeds < 2:
            raise BenchError("one train seed cannot separate methods; two or more can")
        spread = self.spread
        # One win and one loss are added, which draws outcomes to the middle.
        drawn = 1 / (1 + 2 / prompts)
        by_prompt = drawn**2 * spread.prompt**2 / prompts
        by_training = drawn**2 * (spread.seed**2 + spread.residual**2 / prompts) / seeds
        error = math.sqrt(by_prompt + by_training)
        if not error:
            return 1.0
        # What the data will show of it: of prompts, there are many; of trainings, few.
        seen = (spread.prompt**2 + 0.5 / prompts) / (prompts + 3)
        free = self.trainings(seeds)
        trainings = by_training * special.chdtri(free, _QUANTILES) / free
        df = degrees_of_freedom(
            seen, min(prompts, _NORMAL), trainings, free, family=self.methods > 1
        )
        reach = -special.stdtrit(df, self.alpha / 2) * np.sqrt(seen + trainings)
        above, below = ((sign * drawn * effect - reach) / error for sign in (1, -1))
        return float((special.ndtr(above) + special.ndtr(below)).mean())

    def detectable(self, prompts: float, seeds: int) -> float:
        """The smallest true difference that is found with a probability of `POWER`.

        Args:
            prompts: effective number, which may be infinite.
            seeds: train seeds of each method, 2 or more.

        Returns:
            A difference of win rates; above 0.5 nothing can be found.
        """
        if self.power(0.0, prompts, seeds) >= POWER:
            return 0.0
        enough = 0.01
        while self.power(enough, prompts, seeds) < POWER:
            enough *= 2
        return float(
            optimize.brentq(lambda x: self.power(x, prompts, seeds) - POWER, 0, enough, xtol=1e-5)
        )

    def prompts_needed(self, effect: float, seeds: int) -> int | None:
        """Effective prompts that find a difference; None where no number does.

        Trainings cannot be replaced by prompts: see `prompts_floor`.
        """
        enough = 16
        while self.power(effect, enough, seeds) < POWER:
            enough *= 2
            if enough > MOST_PROMPTS:
                return None
        few = enough // 2
        # To a hundredth: nobody chooses prompts more finely.
        while enough - few > max(1, enough // 100):
            middle = (few + enough) // 2
            if self.power(effect, middle, seeds) < POWER:
                few = middle
            else:
                enough = middle
        return enough

    def seeds_needed(self, effect: float, prompts: float) -> int | None:
        """Train seeds that find a difference; None where `MOST_SEEDS` do not."""
        # One by one: at five each method's own spread counts, and less is found than at four.
        enough = (n for n in range(2, MOST_SEEDS + 1) if self.power(effect, prompts, n) >= POWER)
        return next(enough, None)

    def prompts_floor(self, seeds: int) -> float:
        """What no number of prompts goes below, with so many train seeds.

        With few train seeds that need not be the largest number: the more the variance between
        trainings weighs, the fewer degrees of freedom the test has.
        """
        numbers = [2.0**power for power in range(5, 21)]
        return min(self.detectable(number, seeds) for number in (*numbers, math.inf))

    def seeds_floor(self, prompts: float) -> float:
        """What no number of train seeds goes below: only what all trainings share is left."""
        only_prompts = replace(self.spread, residual=0.0, seed=0.0)
        return replace(self, spread=only_prompts).detectable(prompts, MOST_SEEDS)


def half_width(spread: Spread, prompts: float) -> float:
    """Half of a checkpoint's 95% interval: over prompts alone, of the weights at hand."""
    error = math.sqrt((spread.prompt**2 + spread.residual**2) / prompts)
    return error * float(special.stdtrit(prompts, 0.975))


@lru_cache(maxsize=64)
def _alpha(players: int) -> float:
    correlation = all_pairs(players)
    return adjust(np.ones(len(correlation)), correlation)[1]
