"""The win rate that is left where a method's images look no different from the base's.

A method may win because its images are more saturated, sharper, or richer in contrast, which some
scorers reward by itself. As leaderboards of chat models hold length constant, outcomes are
regressed here on the differences of such facts, and read off where they are 0.

The model is linear in probability: y = a + sum of b_f x_f + error. Its rate splits exactly into
the adjusted one and what goes with each fact, rate = a + sum of b_f mean(x_f), and it needs no
iteration that could fail where a method wins nearly always. Errors are those of a sandwich over
prompts (Liang & Zeger 1986) and, from two on, train seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.lib.errors import BenchError
from bench.statistics.crossed import Interval, crossed_spread, sets, shares, t_interval
from bench.statistics.effects import base_sd, differences, in_range
from bench.statistics.model import Design, Floats

OVERLAP = 0.05
"""Share of image pairs that must lie on either side of "no difference" in a fact; with fewer the
adjusted rate is extrapolated."""
_COLLINEAR = 1e-9
"""A fact whose variation others explain but for this part cannot be told from them."""


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """A win rate at equal looks."""

    rate: Interval
    """Expected outcome where all facts are the base's; it and its ends are cut at 0 and 1. Ends are
    None where there are not more distinct prompts than prompt sets and facts."""
    raw: float
    """The win rate without adjustment."""
    parts: Mapping[str, float]
    """fact -> what of `raw - rate` goes with its mean difference; they sum to it, uncut."""
    slopes: Mapping[str, float]
    """fact -> change of the win rate by one base standard deviation more of it."""
    left_out: tuple[str, ...]
    """Facts that differ in no image, by the same in all, or as others do: not adjusted for."""
    extrapolated: tuple[str, ...]
    """Facts in which fewer than `OVERLAP` of the image pairs lie on one side of "no difference"."""
    outside: bool
    """Whether equal looks in all facts at once lie further out than every image pair."""

    @property
    def supported(self) -> bool:
        """Whether there are image pairs of equal looks, so that the model need not invent them."""
        return not self.extrapolated and not self.outside


def adjusted_rate(
    outcomes: Floats, facts: Mapping[str, Floats], base: Mapping[str, Floats], design: Design
) -> Adjusted:
    """Regress outcomes on differences of facts, every prompt set alike.

    Args:
        outcomes: [train seeds, prompts, images a prompt] in [0, 1], against the base.
        facts: fact -> [train seeds, prompts, images a prompt] of the method's images.
        base: fact -> [prompts, images a prompt] of the base's.
        design: of the prompts.

    Raises:
        BenchError: shapes do not fit, or a fact is not finite or missing of the base.
    """
    seeds, prompts, images = outcomes.shape
    missing = sorted(facts.keys() - base.keys())
    if missing:
        raise BenchError(f"the base has no {', '.join(missing)}")
    weight = np.repeat(np.tile(shares(design) / (seeds * images), seeds), images)
    columns, kept, left_out = [np.ones(outcomes.size)], [], []
    one_sided = []
    for name in sorted(facts):
        ours, theirs = in_range(facts[name], base[name])
        difference = differences(ours, theirs)
        if difference.shape != outcomes.shape:
            raise BenchError(f"{name} of shape {difference.shape} beside {outcomes.shape} outcomes")
        column = difference.ravel() / (base_sd(theirs) or 1.0)
        if min((column >= 0).mean(), (column <= 0).mean()) < OVERLAP:
            one_sided.append(name)
        if _new(column, columns, weight):
            columns.append(column)
            kept.append(name)
        else:
            left_out.append(name)
    x, y = np.stack(columns, axis=1), outcomes.ravel()
    weighted = x * weight[:, None]
    inverse = np.linalg.inv(x.T @ weighted)
    coefficients = inverse @ (weighted.T @ y)
    # The influence of each observation on the intercept (and CR1's correction for fitting).
    leverage = weighted @ inverse[:, 0]
    scale = np.sqrt((len(y) - 1) / max(1, len(y) - x.shape[1]))
    influence = (scale * leverage * (y - x @ coefficients)).reshape(seeds, prompts, images)
    spread = crossed_spread(influence.sum(axis=2), design)
    if design.distinct - sets(design) < x.shape[1]:
        spread = None
    interval = t_interval(float(coefficients[0]), spread)
    means = weight @ x
    return Adjusted(
        rate=Interval(
            estimate=_cut(interval.estimate),
            low=None if interval.low is None else _cut(interval.low),
            high=None if interval.high is None else _cut(interval.high),
        ),
        raw=float(weight @ y),
        parts={n: float(b * m) for n, b, m in zip(kept, coefficients[1:], means[1:], strict=True)},
        slopes={n: float(b) for n, b in zip(kept, coefficients[1:], strict=True)},
        left_out=tuple(left_out),
        extrapolated=tuple(one_sided),
        # The hull of regressors by leverage: Montgomery, Peck & Vining 2012, section 3.8.
        outside=bool(inverse[0, 0] > ((x @ inverse) * x).sum(axis=1).max()),
    )


def _cut(rate: float) -> float:
    return min(1.0, max(0.0, rate))


def _new(column: Floats, columns: list[Floats], weight: Floats) -> bool:
    """Whether a column varies in a way that the others do not."""
    others = np.stack(columns, axis=1) * np.sqrt(weight)[:, None]
    own = column * np.sqrt(weight)
    rest = own - others @ np.linalg.lstsq(others, own)[0]
    return bool(rest @ rest > _COLLINEAR * (own @ own))
