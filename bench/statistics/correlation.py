"""Do scorers agree on which images got better, or does one judge speak twice?

Correlated are the differences method minus base over prompts: the part of a score that a
comparison rests on. Correlations of raw scores say more of prompts than of judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics.model import Floats

HIGH = 0.8
"""Spearman correlation from which on two scorers do not count as independent judges: ranks then
share two thirds of their variance."""


@dataclass(frozen=True, kw_only=True)
class ScorerCorrelation:
    """How alike scorers judge the same changes."""

    scorers: tuple[str, ...]
    spearman: tuple[tuple[float | None, ...], ...]
    """[scorers, scorers] in [-1, 1], ordered like `scorers`; None where one sees no difference."""
    effective: float
    """So many independent scorers give a mean as precise as that of these: K^2 over the sum of
    all correlations (Kish 1965), of those that see differences, at most their number; 0 where
    none does."""


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """Two scorers that are not independent judges."""

    first: str
    second: str
    spearman: float | None
    """None: not known."""
    tower: str
    """The network that both stand on; '' where none is known to be shared."""


def spearman(differences: Mapping[str, Floats]) -> ScorerCorrelation:
    """Rank correlation between scorers' differences over prompts, within each method.

    Ranks (averaged over ties) are taken within a method, so that methods that are better by all
    scorers alike do not make scorers look alike. Several methods' centred ranks then enter one
    correlation; with one method it is Spearman's rho.

    Args:
        differences: scorer -> [methods, prompts], method minus base, averaged over train seeds and
            images; all of one shape, and of one order.

    Raises:
        BenchError: the shapes differ.
    """
    names = tuple(differences)
    if len({values.shape for values in differences.values()}) > 1:
        raise BenchError("scorers can only be correlated over the same methods and prompts")
    if not names:
        return ScorerCorrelation(scorers=(), spearman=(), effective=0.0)
    prompts = next(iter(differences.values())).shape[1]
    ranks = np.stack([stats.rankdata(differences[name], axis=1).ravel() for name in names])
    ranks -= (prompts + 1) / 2
    products = np.array([[(a * b).sum() for b in ranks] for a in ranks])
    size = np.sqrt(np.diag(products))
    seen = size > 0
    scale = np.where(seen, size, 1.0)
    rho = np.clip(products / scale / scale[:, None], -1.0, 1.0)
    total = rho[np.ix_(seen, seen)].sum()
    count = int(seen.sum())
    return ScorerCorrelation(
        scorers=names,
        spearman=tuple(
            tuple(float(rho[i, j]) if seen[i] and seen[j] else None for j in range(len(names)))
            for i in range(len(names))
        ),
        effective=min(float(count), count**2 / float(total)) if total > 0 else float(count),
    )


def dependent(
    correlation: ScorerCorrelation, towers: Mapping[frozenset[str], str]
) -> tuple[Dependence, ...]:
    """The pairs of scorers that are not independent judges, in the order of `scorers`.

    Args:
        correlation: of the scorers.
        towers: pair of scorers -> the network that both stand on.
    """
    rho, pairs = correlation.spearman, combinations(enumerate(correlation.scorers), 2)
    found = (
        Dependence(
            first=first,
            second=second,
            spearman=rho[i][j],
            tower=towers.get(frozenset((first, second)), ""),
        )
        for (i, first), (j, second) in pairs
    )
    return tuple(
        pair
        for pair in found
        if pair.tower or (pair.spearman is not None and pair.spearman >= HIGH)
    )


def warnings(pairs: Sequence[Dependence]) -> tuple[str, ...]:
    """A sentence for each pair of scorers that should not be read as two judges."""
    return tuple(_warning(pair) for pair in pairs)


def _warning(pair: Dependence) -> str:
    both = f"{pair.first} and {pair.second}"
    rho = "" if pair.spearman is None else f"rank correlation {pair.spearman:.2f}"
    if pair.tower:
        known = f"{pair.tower}; {rho}" if rho else pair.tower
        return f"{both} stand on one network ({known}): what it cannot see counts twice"
    return f"{both} see nearly the same differences ({rho}): together hardly more than one judge"
