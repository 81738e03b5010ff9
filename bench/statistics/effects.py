"""Size beside rate: by how much a method's scores differ from the base's, in a unit that compares.

The unit is the standard deviation of the base's scores over prompts (Glass 1976: the spread of the
control group alone, since training changes the other one), the unit of comparison the prompt:
images of a prompt are averaged within it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.lib.errors import BenchError
from bench.statistics.crossed import Interval, mean_interval, shares
from bench.statistics.model import Design, Floats

DEAD_BAND = 0.1
"""Differences of fewer base standard deviations than this count as ties in a dead-band win rate:
half of what is called a small effect (Cohen 1988)."""
TRIM = 0.1
"""Share of prompts that a trimmed mean leaves out at either end (Tukey & McLaughlin 1963)."""
_COMMON = 200
"""Scores are taken as they are while the largest lies between 2**-200 and 2**200."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far a method's scores of one scorer lie from the base's; "sd" is the base's."""

    mean: Interval | None
    """Mean difference in sd; None where the base's scores do not vary over prompts."""
    trimmed: float | None
    """Mean difference in sd without the `TRIM` best and the `TRIM` worst prompts; None as above."""
    dead_band_rate: float | None
    """Share of comparisons won by `DEAD_BAND` sd or more, and half of those within; in [0, 1];
    None as above."""
    dead_band_share: float | None
    """Share of comparisons within `DEAD_BAND` sd, in [0, 1]; None as above."""
    tie_share: float
    """Share of comparisons with equal scores, in [0, 1]."""
    seed_sd: float | None
    """Standard deviation of the mean difference over train seeds, in sd; None with one train seed,
    and as above."""


def differences(scores: npt.ArrayLike, base: npt.ArrayLike) -> Floats:
    """Method minus base, image by image.

    Args:
        scores: [train seeds, prompts, images a prompt].
        base: [prompts, images a prompt], of the same prompts and image seeds.

    Returns:
        [train seeds, prompts, images a prompt].

    Raises:
        BenchError: the shapes do not fit, nothing is compared, or a score is not finite.
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(base, np.float64)
    if ours.ndim != 3 or ours.shape[1:] != theirs.shape:
        raise BenchError(
            f"scores of shape {ours.shape} cannot be paired with a base of shape {theirs.shape}"
        )
    if not ours.size:
        raise BenchError("no comparison to make an effect of")
    for name, values in (("the method's", ours), ("the base's", theirs)):
        unscored = int((~np.isfinite(values)).sum())
        if unscored:
            raise BenchError(
                f"{unscored} of {values.size} of {name} scores are not finite; score them again"
            )
    return ours - theirs


def in_range(scores: npt.ArrayLike, base: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Both in a unit in which squares of differences are finite, and not 0 where they vary.

    The unit is a power of two, so that sizes in standard deviations stay the same to the last bit;
    scores of common magnitudes are given back as they are.
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(base, np.float64)
    largest = max((float(np.abs(v).max()) for v in (ours, theirs) if v.size), default=0.0)
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 0
    if abs(exponent) < _COMMON:
        return ours, theirs
    return np.ldexp(ours, -exponent), np.ldexp(theirs, -exponent)


def base_sd(base: npt.ArrayLike) -> float | None:
    """Standard deviation over prompts of the base's scores, single images of one image seed each.

    Variances of several image seeds are averaged, so that the unit does not shrink with their
    number.

    Args:
        base: [prompts, images a prompt].

    Returns:
        None where the scores do not vary over prompts, or one prompt is all there is.
    """
    values = np.asarray(base, np.float64)
    if len(values) < 2 or (np.ptp(values, axis=0) == 0).all():
        return None
    return math.sqrt(float(np.var(values, axis=0, ddof=1).mean())) or None


def trimmed_mean(values: Floats, weights: Floats, trim: float = TRIM) -> float:
    """The mean without a share of the weight at either end.

    Args:
        values: [n].
        weights: [n], sums to 1; of a value at the edge only a part may be left out.
        trim: share left out at each end, in [0, 0.5).
    """
    order = np.argsort(values, kind="stable")
    edges = np.clip(np.cumsum(weights[order]), trim, 1 - trim)
    kept = np.diff(edges, prepend=trim)
    return float((values[order] * kept).sum() / kept.sum())


def effect(scores: npt.ArrayLike, base: npt.ArrayLike, design: Design) -> Effect:
    """The size of the difference between a method and the base on one scorer.

    Facts of images (saturation, sharpness, ...) may stand for scores: the effect is their drift.

    Args:
        scores: [train seeds, prompts, images a prompt] of the method.
        base: [prompts, images a prompt] of the base.
        design: of the prompts.

    Raises:
        BenchError: as `differences`.
    """
    ours, theirs = in_range(scores, base)
    difference = differences(ours, theirs)
    share = shares(design)

    def averaged(values: npt.NDArray[np.generic]) -> float:
        return float((values.mean(axis=(0, 2)) * share).sum())

    tie_share = averaged(np.asarray(scores) == np.asarray(base))
    sd = base_sd(theirs)
    # One so small beside what is compared comes from rounding: nothing can be told in it.
    if sd is None or sd < 2.0**-_COMMON * float(np.abs(ours - theirs).max()):
        return Effect(
            mean=None,
            trimmed=None,
            dead_band_rate=None,
            dead_band_share=None,
            tie_share=tie_share,
            seed_sd=None,
        )
    size = difference / sd
    by_prompt = size.mean(axis=2)
    by_seed = (by_prompt * share).sum(axis=1)
    within = np.abs(size) < DEAD_BAND
    return Effect(
        mean=mean_interval(by_prompt, design),
        trimmed=trimmed_mean(by_prompt.mean(axis=0), share),
        dead_band_rate=averaged(np.where(within, 0.5, size > 0)),
        dead_band_share=averaged(within),
        tie_share=tie_share,
        seed_sd=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
    )


def worst_scorer(effects: Mapping[str, Effect]) -> str | None:
    """The scorer with the lowest mean difference, by name among equals; None: none has a size."""
    sizes = {name: e.mean.estimate for name, e in effects.items() if e.mean is not None}
    return min(sorted(sizes), key=lambda name: sizes[name], default=None)
