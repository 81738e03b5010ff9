"""One model of wins, from which estimate, interval and test all come.

The outcome of train seed s at prompt p, y[s, p] in [0, 1], is the mean over that prompt's images
(and scorers) of 1 for a win, 0.5 for a tie and 0 for a loss. Prompts and train seeds are both
random, and crossed: y[s, p] = theta + a[p] + b[s] + e[s, p]. Prompts of equal text are one draw
(Field & Welsh 2007, cluster-robust variances); every prompt set weighs the same.

The variance of the mean is estimated from mean squares (Searle, Casella & McCulloch 1992,
"Variance Components", chapter 4),

    Var = (MS_prompt + MS_seed - MS_residual) / (n S),

and referred to Student's t. It is the sum of what prompts do to all trainings alike,
(MS_prompt - MS_residual) / (n S), known well from many prompts, and of MS_seed / (n S), known
badly from few trainings. Only the first is held above 0: a floor at MS_prompt / (n S) would make
95% intervals cover 96% where trainings do not differ. Two to four trainings of one method say
little of MS_seed, so methods are pooled, in units of their own MS_residual: a method near 100%,
or with many ties, has less of both. One win and one loss are added to each sample (Agresti & Min
2005; Agresti & Coull 1998), so that the interval stays a true one near 0 and 1, and where
everything ties.

Two estimands: with two train seeds or more, *the method*; with one, *this checkpoint*, whose
interval says nothing of another training, so that there is no test.

docs/statistics.md has the coverage that led to each choice, and how to measure it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from bench.lib.errors import BenchError

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

LEVEL = 0.95
"""Nominal coverage of every interval."""
OWN_SEEDS = 5
"""From so many train seeds on, a method's spread between trainings is estimated alone."""
HOMOGENEITY = 0.01
"""Spreads are not pooled where Bartlett's test finds them to differ at this level; a larger one
would let tests against the base err in more than 6% where spreads are alike."""


class Estimand(StrEnum):
    """What a number speaks of."""

    METHOD = "method"
    """Over train seeds, prompts and noise."""
    CHECKPOINT = "checkpoint"
    """Over prompts alone, of the weights at hand."""


@dataclass(frozen=True)
class Design:
    """Which prompts are one draw, and which make up a prompt set."""

    stratum: Integers
    """[prompts]: number of the prompt set, 0, 1, ...; each weighs the same."""
    cluster: Integers
    """[prompts]: number of the text; equal texts, also of other sets, are one draw."""

    def of(self, rows: Sequence[int]) -> Design:
        """The design of some of the prompts."""
        return Design(_numbered(self.stratum[rows]), _numbered(self.cluster[rows]))

    @property
    def distinct(self) -> int:
        """Distinct prompt texts."""
        return int(self.cluster.max()) + 1


def design(texts: Sequence[str], prompt_sets: Sequence[str]) -> Design:
    """The design of prompts that lie in named sets.

    Args:
        texts: [prompts]; equal up to case, spacing and Unicode form means the same draw.
        prompt_sets: [prompts], the name of each one's set.
    """
    same = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    return Design(_numbered(np.array(prompt_sets, object)), _numbered(np.array(same, object)))


def _numbered(values: npt.NDArray[np.generic]) -> Integers:
    numbers: Integers = np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return numbers


def outcomes(scores: npt.ArrayLike, base: npt.ArrayLike) -> Floats:
    """Who wins each comparison.

    Args:
        scores: The method's scores, any shape.
        base: The other's scores of the same prompts and image seeds; a shape that broadcasts.

    Returns:
        1 where the method's score is strictly higher, 0.5 where equal, 0 where lower.

    Raises:
        BenchError: The shapes differ, or a score is not finite (an image was not scored).
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(base, np.float64)
    if ours.shape != theirs.shape:
        raise BenchError(
            f"scores of shape {ours.shape} cannot be paired with a base of shape {theirs.shape}"
        )
    for name, values in (("the method's", ours), ("the base's", theirs)):
        unscored = int((~np.isfinite(values)).sum())
        if unscored:
            raise BenchError(
                f"{unscored} of {values.size} of {name} scores are not finite; score them again"
            )
    # Compared, not subtracted: the difference of two huge scores has no finite value.
    won, lost = (np.asarray(side, np.float64) for side in (ours > theirs, ours < theirs))
    return np.asarray(0.5 * (1.0 + won - lost), np.float64)


@dataclass(frozen=True, kw_only=True)
class Components:
    """What the outcomes of one comparison say of its mean and its spreads."""

    rate: float
    """Mean outcome in [0, 1]: over train seeds and prompts, every prompt set alike."""
    centre: float
    """The same with one win and one loss more: the middle of the interval."""
    seed_rates: tuple[float, ...]
    """Mean outcome of each train seed."""
    prompt: float
    """Variance of the mean by prompts: MS_prompt / (n S)."""
    prompt_df: float
    added: float
    """The part of it that comes from the added win and loss."""
    between: float
    """Variance of one seed's mean: MS_seed / n; 0 with one seed."""
    residual: float
    """The part of it that prompts cause: MS_residual / n; 0 with one seed."""
    influence: Floats
    """[clusters]: what each draw of a prompt adds to the mean; its squares sum to `prompt`."""
    wins: int
    ties: int
    losses: int
    prompts: int

    @property
    def seeds(self) -> int:
        """Train seeds."""
        return len(self.seed_rates)


def components(results: Floats, design: Design) -> Components:
    """Means and mean squares of one comparison.

    Args:
        results: [train seeds, prompts, images (and scorers) of a prompt], each 0, 0.5 or 1.
        design: of the prompts.

    Raises:
        BenchError: There is nothing to compare.
    """
    seeds, prompts, _ = results.shape
    if not results.size:
        raise BenchError("no comparison to make a win rate of")
    outcome = results.mean(axis=2)
    sets = int(design.stratum.max()) + 1
    clusters = design.distinct
    influence = np.zeros((seeds, clusters))
    rates, centres = np.zeros(seeds), np.zeros(seeds)
    added, parts = np.zeros(sets), np.zeros(sets)
    freedom = np.zeros(sets)
    # A fraction of a draw in each set, so that all sets together get one win and one loss.
    share = 1 / sets
    for number in range(sets):
        rows = np.flatnonzero(design.stratum == number)
        count = len(rows)
        times = np.bincount(design.cluster[rows])
        # Rows of an average draw; and how many draws count, where some weigh more than others
        # (Carter, Schnepel & Steigerwald 2017).
        size = count / np.count_nonzero(times)
        draws = count**2 / float(times @ times) + 2 * share
        total = outcome[:, rows].sum(axis=1)
        weight = count + 2 * share * size
        centre = (total + share * size) / weight
        scale = np.sqrt(draws / (draws - 1)) / (sets * weight)
        own = _by_cluster(
            (outcome[:, rows] - centre[:, None]) * scale, design.cluster[rows], clusters
        )
        middle = float(centre.mean())
        added[number] = share * (size * scale) ** 2 * ((1 - middle) ** 2 + middle**2)
        parts[number] = (own.mean(axis=0) ** 2).sum() + added[number]
        freedom[number] = draws - 1
        influence += own
        rates += total / count / sets
        centres += centre / sets
    mean = influence.mean(axis=0)
    residual = float(((influence - mean) ** 2).sum() / (seeds - 1)) if seeds > 1 else 0.0
    wins, losses = int((results == 1.0).sum()), int((results == 0.0).sum())
    return Components(
        rate=float(rates.mean()),
        centre=float(centres.mean()),
        seed_rates=tuple(rates.tolist()),
        prompt=float((mean**2).sum() + added.sum()),
        prompt_df=float(parts.sum() ** 2 / (parts**2 / freedom).sum()),
        added=float(added.sum()),
        between=float(centres.var(ddof=1)) if seeds > 1 else 0.0,
        residual=residual,
        influence=mean,
        wins=wins,
        ties=results.size - wins - losses,
        losses=losses,
        prompts=prompts,
    )


def _by_cluster(values: Floats, cluster: Integers, clusters: int) -> Floats:
    """[seeds, rows] -> [seeds, clusters], summed."""
    if len(cluster) == clusters == len(np.unique(cluster)):
        summed = np.empty_like(values)
        summed[:, cluster] = values
        return summed
    return np.stack([np.bincount(cluster, row, clusters) for row in values])


@dataclass(frozen=True)
class SeedVariance:
    """How much one training's rate differs from another's, of one method or pooled over several."""

    between: float
    """Variance of one seed's mean, prompts' part included."""
    df: float
    residual: float
    """The prompts' part."""
    pooled: bool

    @property
    def value(self) -> float:
        """Variance between trainings alone, at least 0."""
        return max(0.0, self.between - self.residual)


def seed_variances(
    compared: Sequence[Components], *, df: float | None = None, pool: bool | None = None
) -> list[SeedVariance | None]:
    """The variance between trainings for each of some comparisons.

    A method with `OWN_SEEDS` train seeds or more has its own. With two to four, the ratio of
    MS_seed to MS_residual is pooled over all comparisons of two seeds or more, weighted by degrees
    of freedom, unless Bartlett's test finds that these ratios differ. None: one seed, which says
    nothing of others.

    Args:
        compared: comparisons over the same prompts.
        df: degrees of freedom of the pooled ratio; their sum, where comparisons are independent.
        pool: whether to pool; None: as `alike` finds.
    """
    ratios, weights = _ratios(compared)
    pool = alike(compared) if pool is None else pool
    ratio = float(weights @ ratios / weights.sum()) if len(ratios) else 0.0
    pooled_df = float(weights.sum()) if df is None else df

    def of(one: Components) -> SeedVariance | None:
        if one.seeds == 1:
            return None
        if pool and one.seeds < OWN_SEEDS and pooled_df:
            return SeedVariance(ratio * one.residual, pooled_df, one.residual, True)
        return SeedVariance(one.between, one.seeds - 1, one.residual, False)

    return [of(one) for one in compared]


def _ratios(compared: Sequence[Components]) -> tuple[Floats, Floats]:
    """MS_seed over MS_residual, and its degrees of freedom, where trainings differ at all."""
    several = [one for one in compared if one.residual > 0]
    ratios = np.array([one.between / one.residual for one in several])
    return ratios, np.array([one.seeds - 1.0 for one in several])


def alike(compared: Sequence[Components]) -> bool:
    """Whether several comparisons' spreads between trainings may be pooled.

    They may unless Bartlett's test (1937) finds, at `HOMOGENEITY`, that they differ.
    """
    if any(one.between > 0 and not one.residual > 0 for one in compared):
        return False  # Trainings that differ by the same at every prompt: a ratio without end.
    values, df = _ratios(compared)
    if len(values) < 2 or not values.any():
        return len(values) > 1
    # Rates are discrete and may agree by chance; the logarithm of 0 would say too much of it.
    values = np.maximum(values, 1e-3 * values.max())
    total, count = df.sum(), len(values)
    statistic = total * np.log(df @ values / total) - df @ np.log(values)
    statistic /= 1 + (np.sum(1 / df) - 1 / total) / (3 * (count - 1))
    return bool(special.chdtrc(count - 1, statistic) >= HOMOGENEITY)


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often one wins over another, and how surely."""

    win_rate: float
    """Mean outcome in [0, 1], every prompt set alike; ties count 0.5."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    estimand: Estimand
    """What the interval speaks of."""
    prompts: int
    distinct_prompts: int
    """Distinct prompt texts: the units that are drawn."""
    seeds: int
    """Train seeds."""
    seed_rates: tuple[float, ...]
    """Win rate of each train seed."""
    seed_sd: float | None
    """Standard deviation between trainings, prompts' part taken out; None with one seed."""
    pooled: bool
    """Whether it is pooled over the methods of a section."""
    centre: float
    """Middle of the interval, drawn to 0.5 by one win and one loss more."""
    standard_error: float
    df: float
    """Degrees of freedom of Student's t."""
    family_df: float
    """The same for the far smaller levels of single tests in a family."""
    wins: int
    """Comparisons won, over prompts, image seeds, train seeds (and scorers, for a mean)."""
    ties: int
    losses: int
    p_value: float | None
    """Two-sided, of the same model: below 0.05 just where the 95% interval excludes 0.5. None for
    a checkpoint."""

    @property
    def comparisons(self) -> int:
        """Image pairs compared."""
        return self.wins + self.ties + self.losses

    @property
    def tie_share(self) -> float:
        """Share of comparisons that are ties, in [0, 1]."""
        return self.ties / self.comparisons

    @property
    def without_ties(self) -> float | None:
        """Wins over wins and losses, as some papers count; None where everything ties."""
        decided = self.wins + self.losses
        return self.wins / decided if decided else None

    def ends(self, level: float, *, family: bool = False) -> tuple[float, float]:
        """The interval at another level; of one among several that hold at once, if `family`."""
        df = self.family_df if family else self.df
        reach = float(special.stdtrit(df, (1 + level) / 2)) * self.standard_error
        return max(0.0, self.centre - reach), min(1.0, self.centre + reach)


def win_rate(one: Components, between: SeedVariance | None) -> WinRate:
    """The estimate, its interval and its test.

    Args:
        one: the comparison.
        between: its variance between trainings, see `seed_variances`; None with one seed.
    """
    variance, df, family_df = _variance(one, between)
    error = float(np.sqrt(variance))
    t = abs(one.centre - 0.5) / error
    reach = float(special.stdtrit(df, (1 + LEVEL) / 2)) * error
    return WinRate(
        win_rate=one.rate,
        low=max(0.0, one.centre - reach),
        high=min(1.0, one.centre + reach),
        estimand=Estimand.METHOD if between else Estimand.CHECKPOINT,
        prompts=one.prompts,
        distinct_prompts=len(one.influence),
        seeds=one.seeds,
        seed_rates=one.seed_rates,
        seed_sd=float(np.sqrt(between.value)) if between else None,
        pooled=bool(between and between.pooled),
        centre=one.centre,
        standard_error=error,
        df=df,
        family_df=family_df,
        wins=one.wins,
        ties=one.ties,
        losses=one.losses,
        p_value=2 * float(special.stdtr(df, -t)) if between else None,
    )


def _variance(one: Components, between: SeedVariance | None) -> tuple[float, float, float]:
    """Variance of the mean, and its degrees of freedom for one test and for a family's."""
    if between is None:
        return one.prompt, one.prompt_df, one.prompt_df
    prompts = max(one.added, one.prompt - between.residual / one.seeds)
    trainings = between.between / one.seeds
    df, family_df = (
        degrees_of_freedom(prompts, one.prompt_df, trainings, between.df, family=family)
        for family in (False, True)
    )
    return prompts + trainings, float(df), float(family_df)


def degrees_of_freedom(
    prompts: npt.ArrayLike,
    prompts_df: npt.ArrayLike,
    trainings: npt.ArrayLike,
    trainings_df: npt.ArrayLike,
    *,
    family: bool = False,
) -> Floats:
    """Of Student's t for the sum of two estimated variances, the second by few trainings.

    Satterthwaite (1946) has 1 / df = share^2 / trainings_df + (1 - share)^2 / prompts_df, with
    the share of the second in the sum. Where it comes out small by chance, so does the sum, and
    at once df come out large: an interval that is too short twice. The exponent
    2 trainings_df / (trainings_df + 2) instead of 2, the ratio of the square of a variance to
    the mean of its estimate's square, makes up for it: with 4 degrees of freedom coverage over
    all true shares goes from 94.2-95.0% to 94.8-95.5%, with 1 from 87-95% to 93-97.5%. Farther
    out it takes less, 2 trainings_df / (trainings_df + 6): at a level of 0.5%, single tests with 4
    degrees of freedom err up to 2.2 times too often by Satterthwaite's, and 1.2 times with it.

    Args:
        prompts: variances of the mean by prompts, above 0.
        prompts_df: their degrees of freedom.
        trainings: variances of the mean by single trainings.
        trainings_df: their degrees of freedom.
        family: for the level of a single test in a family, rather than 5%.
    """
    first, second = np.asarray(prompts, np.float64), np.asarray(trainings, np.float64)
    df = np.asarray(trainings_df, np.float64)
    share = second / (first + second)
    many = np.asarray(prompts_df, np.float64)
    power = 2 * df / (df + (6 if family else 2))
    found: Floats = 1 / (share**power / df + (1 - share) ** 2 / many)
    return found


def win_rates(compared: Iterable[Components]) -> list[WinRate]:
    """Win rates of comparisons over the same prompts, independent between train seeds."""
    several = list(compared)
    return [
        win_rate(one, between)
        for one, between in zip(several, seed_variances(several), strict=True)
    ]
