"""Intervals of any average over prompts crossed with train seeds.

`bench.statistics.model` does it for wins; here are the same two crossed random factors (Searle,
Casella & McCulloch 1992, chapter 4; Owen 2007) for sizes, facts, coefficients and strengths, whose
range is not [0, 1] and which no pseudo counts hold. What they share is their influence
[train seeds, prompts]: what each cell adds to the estimate minus its expectation (a mean has
weight * (value - mean)), so that the variance of one sum is the variance of all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from bench.statistics.model import LEVEL, Design, Floats, degrees_of_freedom


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its 95% interval over prompts and, from two on, train seeds."""

    estimate: float
    low: float | None
    """None, as `high`: too few distinct prompts to show a spread."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How far estimates lie from what they estimate."""

    variance: Floats
    """[...], over the sampling of prompts and train seeds."""
    df: Floats
    """[...], degrees of freedom of Student's t (see `model.degrees_of_freedom`)."""


def sets(design: Design) -> int:
    """How many prompt sets there are."""
    return int(design.stratum.max()) + 1


def shares(design: Design) -> Floats:
    """[prompts] weights that sum to 1: every prompt set alike, and each prompt within its set."""
    sizes = np.bincount(design.stratum)
    return np.asarray(1.0 / (sizes[design.stratum] * len(sizes)))


def cluster_sums(values: Floats, design: Design) -> Floats:
    """[..., prompts] -> [..., distinct prompts]: sums over prompts of equal text."""
    order = np.argsort(design.cluster, kind="stable")
    starts = np.flatnonzero(np.diff(design.cluster[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def crossed_spread(influence: Floats, design: Design) -> Spread | None:
    """The variance over distinct prompts crossed with train seeds, each of which speaks for itself.

    Var = (V_prompt - V_residual) + V_seed, each the mean square of its factor divided by the
    cells, the first at least 0. With one train seed it is V_prompt: over prompts, of this training
    alone.

    Args:
        influence: [..., train seeds, prompts], which sums to 0 over the last two.
        design: of the prompts.

    Returns:
        None where there are no more distinct prompts than prompt sets.
    """
    cells = cluster_sums(influence, design)
    weight = cluster_sums(shares(design), design)
    seeds, distinct = cells.shape[-2:]
    prompt_df = distinct - sets(design)
    if prompt_df < 1:
        return None
    of_prompts = distinct / prompt_df
    by_prompt = cells.sum(axis=-2)
    prompt = np.asarray(of_prompts * (by_prompt**2).sum(axis=-1))
    df = np.full_like(prompt, prompt_df)
    if seeds == 1:
        return Spread(variance=prompt, df=df)
    of_seeds = seeds / (seeds - 1)
    by_seed = cells.sum(axis=-1)
    seed = np.asarray(of_seeds * (by_seed**2).sum(axis=-1))
    rest = cells - by_prompt[..., None, :] / seeds - by_seed[..., :, None] * weight
    residual = of_prompts * of_seeds * (rest**2).sum(axis=(-2, -1))
    prompts = np.maximum(0.0, prompt - residual)
    some = prompts + seed > 0
    df[some] = degrees_of_freedom(prompts[some], prompt_df, seed[some], seeds - 1)
    return Spread(variance=prompts + seed, df=df)


def t_interval(estimate: float, spread: Spread | None) -> Interval:
    """Student's interval around one estimate."""
    if spread is None:
        return Interval(estimate=estimate, low=None, high=None)
    reach = float(special.stdtrit(spread.df, (1 + LEVEL) / 2) * np.sqrt(spread.variance))
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach)


def mean_influence(values: Floats, design: Design) -> tuple[float, Floats]:
    """The mean over train seeds and prompts, every prompt set alike, and its influence.

    Args:
        values: [train seeds, prompts], of any scale.
        design: of the prompts.
    """
    share = shares(design) / len(values)
    totals = np.bincount(design.stratum, values.sum(axis=0))
    means = totals / (np.bincount(design.stratum) * len(values))
    return float(means.mean()), (values - means[design.stratum]) * share


def mean_interval(values: Floats, design: Design) -> Interval:
    """The mean with Student's interval; arguments as `mean_influence`."""
    mean, influence = mean_influence(values, design)
    return t_interval(mean, crossed_spread(influence, design))


def share_interval(values: Floats, design: Design) -> Interval:
    """As `mean_interval` of values in [0, 1], with ends inside, also where all are alike.

    Korn & Graubard (1998): the exact interval of Clopper & Pearson for as many independent cells
    as would give the variance, p (1 - p) / Var * (z / t)^2, at most all there are; where all are
    alike, for as many as there are distinct prompts.
    """
    mean, influence = mean_influence(values, design)
    mean = min(1.0, max(0.0, mean))
    spread = crossed_spread(influence, design)
    n, alpha = float(design.distinct), (1 - LEVEL) / 2
    if spread is not None and spread.variance > 0:
        t, z = special.stdtrit([float(spread.df), math.inf], 1 - alpha)
        cells = mean * (1 - mean) / float(spread.variance) * float(z / t) ** 2
        n = min(n * len(values), cells)
    wins = mean * n
    return Interval(
        estimate=mean,
        low=float(special.betaincinv(wins, n - wins + 1, alpha)) if wins > 0 else 0.0,
        high=float(special.betaincinv(wins + 1, n - wins, 1 - alpha)) if wins < n else 1.0,
    )
