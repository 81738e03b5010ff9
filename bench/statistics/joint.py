"""Is a win a win by all scorers, or a collapse that one of them likes?

Joint domination and joint collapse rate: on which share of prompts the method's vector of rewards
dominates the base's, and on which it is dominated (Pareto-guided optimal transport, 2605.13155).
Beside them: what became of the variety of images of one prompt, and of their looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.lib.errors import BenchError
from bench.statistics.crossed import Interval, mean_interval, share_interval
from bench.statistics.effects import differences, in_range
from bench.statistics.model import Design, Floats

LEAST_RATIO = 1e-3
"""Ratios of diversity below this one, such as that of images which are all the same, count as it:
logarithms have no end."""
_EVEN, _SAME = 0.5, 1.0
"""A win rate, and a ratio of diversity, that says nothing changed."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How often a method is better, or worse, by all scorers at once."""

    scorers: tuple[str, ...]
    dominating: Interval
    """JDR: share of image pairs in which no scorer prefers the base and one or more the method."""
    dominated: Interval
    """JCR: the same with method and base exchanged."""


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """The method's variety within a prompt over the base's."""

    ratio: Interval
    """Geometric mean over prompts; 1: as varied as the base."""
    prompts: int
    """Prompts with a ratio: the base's images differ."""
    collapsed: int
    """Of these, those whose images are all the same with one train seed or more."""


def dominance(scores: Mapping[str, Floats], base: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Which image pairs the method wins, and which it loses, by all scorers.

    One dominates the other if no scorer rates it lower and at least one rates it higher. Where
    scorers disagree, or all rate both alike, neither does: the two do not sum to 1.

    Args:
        scores: scorer -> [train seeds, prompts, images a prompt] of the method.
        base: scorer -> [prompts, images a prompt], of the same scorers or more.

    Returns:
        Two tables [train seeds, prompts]: the share of a prompt's images that dominate, and that
        are dominated.

    Raises:
        BenchError: there is no scorer, one is missing of the base, or shapes do not fit.
    """
    missing = sorted(scores.keys() - base.keys())
    if missing or not scores:
        raise BenchError(f"the base has no scores of {', '.join(missing) or 'any scorer'}")
    lead = np.stack([np.sign(differences(*in_range(scores[name], base[name]))) for name in scores])
    low, high = lead.min(axis=0), lead.max(axis=0)
    dominating, dominated = (low >= 0) & (high > 0), (high <= 0) & (low < 0)
    return dominating.mean(axis=2), dominated.mean(axis=2)


def joint(scores: Mapping[str, Floats], base: Mapping[str, Floats], design: Design) -> Joint:
    """Joint domination and collapse rate with intervals; arguments as `dominance`."""
    dominating, dominated = dominance(scores, base)
    return Joint(
        scorers=tuple(scores),
        dominating=share_interval(dominating, design),
        dominated=share_interval(dominated, design),
    )


def diversity(method: npt.ArrayLike, base: npt.ArrayLike, design: Design) -> Diversity | None:
    """Compare the variety of a prompt's images.

    Args:
        method: [train seeds, prompts], any measure of variety that is 0 for equal images.
        base: [prompts], the same of the base.
        design: of the prompts.

    Returns:
        None where the base's images of every prompt are alike.

    Raises:
        BenchError: shapes do not fit, or a value is negative or not finite.
    """
    ours, theirs = np.asarray(method, np.float64), np.asarray(base, np.float64)
    if ours.ndim != 2 or ours.shape[1:] != theirs.shape:
        raise BenchError(
            f"diversity of shape {ours.shape} cannot be paired with a base of shape {theirs.shape}"
        )
    if not all((np.isfinite(values) & (values >= 0)).all() for values in (ours, theirs)):
        raise BenchError("a diversity is negative or not finite; score the images again")
    rows = np.flatnonzero(theirs > 0)
    if not len(rows):
        return None
    logs = np.log(np.maximum(ours[:, rows] / theirs[rows], LEAST_RATIO))
    mean = mean_interval(logs, design.of(rows.tolist()))
    low, high = (None if end is None else float(np.exp(end)) for end in (mean.low, mean.high))
    return Diversity(
        ratio=Interval(estimate=float(np.exp(mean.estimate)), low=low, high=high),
        prompts=len(rows),
        collapsed=int((ours[:, rows] == 0).any(axis=0).sum()),
    )


def proxy_up_gold_down(
    proxies: Mapping[str, Interval], judges: Mapping[str, Interval], variety: Interval | None
) -> tuple[str, ...]:
    """Why a method looks like one that games the scorers it was trained on.

    A mark needs a proxy whose win rate lies above one half with its whole interval, and beside it a
    judge below one half, or a diversity below the base's, with its whole interval.

    Args:
        proxies: scorer whose rewards the training read -> win rate against the base, in [0, 1].
        judges: scorer held out, or a gold -> the same.
        variety: ratio of diversity to the base's; None: not known.

    Returns:
        A sentence for each thing that fell; () where no proxy rose, or nothing fell.
    """
    risen = [
        f"{name} {_rate(proxies[name])}"
        for name in sorted(proxies)
        if (low := proxies[name].low) is not None and low > _EVEN
    ]
    if not risen:
        return ()
    up = f"proxy up ({', '.join(risen)})"
    fallen = tuple(
        f"{up}, {name} down ({_rate(judges[name])})"
        for name in sorted(judges)
        if (high := judges[name].high) is not None and high < _EVEN
    )
    if variety is not None and variety.high is not None and variety.high < _SAME:
        ends = f"[{variety.low:.2f}, {variety.high:.2f}]"
        fallen += (f"{up}, diversity within a prompt down ({variety.estimate:.2f} {ends})",)
    return fallen


def _rate(rate: Interval) -> str:
    low, high = (f"{100 * (end or 0.0):.1f}" for end in (rate.low, rate.high))
    return f"{100 * rate.estimate:.1f} [{low}, {high}]"
