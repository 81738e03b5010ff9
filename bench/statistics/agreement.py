"""How far people agree with each other, and scorers with people.

Krippendorff's alpha (Krippendorff 2018, "Content Analysis", chapter 12) compares the disagreement
within units with that of ratings paired by chance: 1 is perfect, 0 is chance, and raters may have
left units out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from bench.lib.errors import BenchError

Floats: TypeAlias = npt.NDArray[np.float64]
Metric: TypeAlias = Literal["nominal", "ordinal", "interval"]
"""Whether values are names, ranks or amounts: of loss, tie and win as 0, 0.5 and 1, "interval" has
a tie half as far from a win as a loss is."""

LEVEL = 0.95
"""Nominal coverage of every interval."""


def krippendorff_alpha(ratings: npt.ArrayLike, metric: Metric = "interval") -> float | None:
    """Agreement of several raters beyond chance.

    alpha = 1 - (n - 1) sum_ck o_ck d2_ck / sum_ck n_c n_k d2_ck, where a unit with m ratings adds
    each of its ordered pairs to the coincidences o with weight 1 / (m - 1).

    Args:
        ratings: [raters, units]; NaN where a rater left a unit out.
        metric: how far two values are apart.

    Returns:
        At most 1; None where no unit has two ratings, or all paired ratings are alike, so that
        chance would agree as well.

    Raises:
        BenchError: It is no table of raters and units.
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2:
        raise BenchError(f"ratings of shape {table.shape} are no table of raters and units")
    values = np.unique(table[~np.isnan(table)])
    # [units, values]: how often each value was given.
    counts = np.stack([(table == value).sum(axis=0) for value in values], axis=1, dtype=np.float64)
    counts = counts[counts.sum(axis=1) > 1]
    if not len(counts):
        return None
    pairs = counts.T @ (counts / (counts.sum(axis=1, keepdims=True) - 1))
    pairs -= np.diag((counts / (counts.sum(axis=1, keepdims=True) - 1)).sum(axis=0))
    total = pairs.sum(axis=1)
    distance = _DISTANCES[metric](values, total)
    expected = float(total @ distance @ total)
    if expected == 0.0:
        return None
    return float(1 - (total.sum() - 1) * (pairs * distance).sum() / expected)


def _nominal(values: Floats, total: Floats) -> Floats:
    return 1.0 - np.eye(len(values))


def _interval(values: Floats, total: Floats) -> Floats:
    return np.asarray((values[:, None] - values) ** 2)


def _ordinal(values: Floats, total: Floats) -> Floats:
    """Ratings that lie between two values, half of both ends."""
    middle = np.cumsum(total) - total / 2
    return np.asarray((middle[:, None] - middle) ** 2)


_DISTANCES: dict[Metric, Callable[[Floats, Floats], Floats]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often one side chooses as the other does, where both choose."""

    share: float
    """Of decided comparisons, in [0, 1]; 0.5 is a coin's."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""
    decided: int
    """Votes in which neither side called a tie."""
    prompts: int
    """Distinct prompts among them."""


def agreement(
    outcomes: npt.ArrayLike,
    votes: npt.ArrayLike,
    prompt: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> Agreement | None:
    """How often a scorer's winner is the one that people choose.

    The interval is Wilson's (1927) for as many independent votes as would have the variance that
    prompts as clusters give (Kish 1965, the design effect), so that several votes of a prompt
    count as one draw and the interval stays a true one at 0 and 1.

    Args:
        outcomes: [votes], in [0, 1]: above 0.5 where the scorer prefers the first image.
        votes: [votes]: 1 the first image, 0 the second, 0.5 a tie.
        prompt: [votes]: number of the prompt.
        weights: [votes]: inverse chances of having been asked; all alike if left out.

    Returns:
        None where nothing is decided by both.
    """
    scorer, people = np.asarray(outcomes, np.float64), np.asarray(votes, np.float64)
    decided = (scorer != 0.5) & (people != 0.5)
    if not decided.any():
        return None
    weight = np.ones(len(scorer)) if weights is None else np.asarray(weights, np.float64)
    weight = weight[decided] / weight[decided].sum()
    same = ((scorer > 0.5) == (people > 0.5))[decided].astype(np.float64)
    cluster = np.unique(np.asarray(prompt)[decided], return_inverse=True)[1].reshape(-1)
    prompts = int(cluster.max()) + 1
    share = float(weight @ same)
    # How many independent votes would weigh the same: all alike, that is what is left to know.
    independent = 1 / float((np.bincount(cluster, weight) ** 2).sum())
    if prompts > 1 and 0 < share < 1:
        influence = np.bincount(cluster, weight * (same - share))
        variance = float((influence**2).sum()) * prompts / (prompts - 1)
        independent = min(float(decided.sum()), share * (1 - share) / variance)
    low, high = _wilson(share, independent, prompts)
    return Agreement(share=share, low=low, high=high, decided=int(decided.sum()), prompts=prompts)


def _wilson(share: float, n: float, prompts: int) -> tuple[float, float]:
    """Wilson's interval of a share of n votes, with Student's quantile for few prompts."""
    z = float(special.stdtrit(max(1, prompts - 1), (1 + LEVEL) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)
