"""Which prompts people are asked about: more of those where scorers disagree, by known chances."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

AGREED, DISPUTED = 0, 1
STRATA = ("agreed", "disputed")
"""Names of the strata, by number."""
DISPUTED_RATE = 1.5
"""How much likelier a disputed prompt is shown: votes tell most where scorers do not."""
_FEWEST = 2
"""Of a stratum, so that its spread can be seen."""


def draws(count: int, *what: object) -> npt.NDArray[np.uint64]:
    """Random whole numbers [count] that follow from what they are for, on every machine.

    They are the raw bits of PCG64, whose stream NumPy keeps fixed (NEP 19).
    """
    digest = hashlib.sha256(repr(what).encode()).digest()
    words = np.frombuffer(digest, "<u4").astype(np.uint32).tolist()
    return np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)


def shuffled(count: int, *what: object) -> list[int]:
    """0 to count - 1 in an order that follows from what it is for."""
    return [int(i) for i in np.argsort(draws(count, *what), kind="stable")]


def strata(outcomes: Floats) -> Integers:
    """Where scorers disagree.

    Args:
        outcomes: [scorers, comparisons], each 0, 0.5 or 1.

    Returns:
        [comparisons]: `DISPUTED` where some have one winner and some the other, else `AGREED`.
    """
    both = (outcomes == 1.0).any(axis=0) & (outcomes == 0.0).any(axis=0)
    return np.where(both, DISPUTED, AGREED).astype(np.int64)


@dataclass(frozen=True)
class Drawn:
    """The prompts of a sample."""

    rows: Integers
    """[sampled]: which, ascending."""
    stratum: Integers
    """[sampled]: of each, as it was drawn; all 0 where there was too little for strata."""
    chance: Floats
    """[sampled], in (0, 1]: of being drawn."""
    strata: tuple[tuple[str, int, int], ...]
    """Name, prompts and sampled prompts of each stratum."""


def stratified(stratum: Integers, count: int, *what: object) -> Drawn:
    """Draw prompts without replacement, `DISPUTED` ones at `DISPUTED_RATE` times the rate.

    Args:
        stratum: [prompts].
        count: how many to draw; all are taken where there are fewer.
        what: the draw is for; the same gives the same prompts.
    """
    count = min(count, len(stratum))
    sizes = np.bincount(stratum, minlength=len(STRATA))
    taken, names = _shares(sizes, count), list(STRATA)
    if any(number < min(_FEWEST, size) for size, number in zip(sizes, taken, strict=True)):
        stratum, sizes = np.zeros_like(stratum), np.array([len(stratum)])
        taken, names = [count], ["all"]
    order = np.array(shuffled(len(stratum), "prompts", *what), np.int64)
    rows = np.sort(
        np.concatenate([order[stratum[order] == h][:number] for h, number in enumerate(taken)])
    )
    rates = np.array(taken) / np.maximum(1, sizes)
    return Drawn(
        rows,
        stratum[rows],
        rates[stratum[rows]],
        tuple(zip(names, map(int, sizes), taken, strict=True)),
    )


def _shares(sizes: Integers, count: int) -> list[int]:
    """How many of each stratum; what one cannot give, the other does."""
    agreed, disputed = int(sizes[AGREED]), int(sizes[DISPUTED])
    wanted = round(count * DISPUTED_RATE * disputed / (agreed + DISPUTED_RATE * disputed))
    given = max(count - agreed, min(disputed, wanted))
    return [count - given, given]
