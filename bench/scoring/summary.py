"""What a table of scores comes to: by scorer, by group, and as HPSv2's benchmark prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BENCHMARK_GROUP = 80
"""Images a group in HPSv2's benchmark: ten groups of each style's 800."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of n images."""

    n: int
    mean: float
    median: float
    std: float
    """Population standard deviation: the divisor is n."""


@dataclass(frozen=True, kw_only=True)
class StyleSummary:
    """HPSv2's figures for one style, times 100."""

    n: int
    mean: float
    """Of the means over each 80 images in their order."""
    std: float
    """Population standard deviation of these means: not of images, and no standard error."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """HPSv2's benchmark table for one scorer, times 100."""

    styles: Mapping[str, StyleSummary]
    average: float
    """Mean over the images of all styles, whatever their numbers."""


def summarise(scores: np.ndarray) -> Summary:
    """The summary of float64 [N], N > 0."""
    return Summary(
        n=len(scores),
        mean=float(np.mean(scores)),
        median=float(np.median(scores)),
        std=float(np.std(scores)),
    )


def by_group(scores: np.ndarray, groups: Sequence[str | None]) -> dict[str, Summary]:
    """The summary of each group by name; images in no group (None) are left out."""
    names = sorted({name for name in groups if name is not None})
    return {name: summarise(scores[[group == name for group in groups]]) for name in names}


def looks_like_cosines(scores: np.ndarray) -> bool:
    """Whether scores are on the scale that HPSv2's benchmark multiplies by 100."""
    return bool(np.abs(scores).max() <= 1)


def benchmark(scores: np.ndarray, styles: Sequence[str]) -> Benchmark:
    """What HPSv2's `evaluate` prints, from scores [N] as the scorer gives them.

    Source: github.com/tgxs002/HPSv2, hpsv2/evaluation.py, `evaluate_benchmark`.

    Args:
        scores: in the order of the prompts.
        styles: of each image.
    """
    summaries = {}
    for style in sorted(set(styles)):
        own = 100 * scores[[name == style for name in styles]]
        starts = range(0, len(own), BENCHMARK_GROUP)
        means = [np.mean(own[start : start + BENCHMARK_GROUP]) for start in starts]
        summaries[style] = StyleSummary(
            n=len(own), mean=float(np.mean(means)), std=float(np.std(means))
        )
    return Benchmark(styles=summaries, average=float(100 * np.mean(scores)))
