"""Aggregations: from human labels and several scorers' rewards to one label a pair.

Where `scorers` is an option, leaving it empty takes the whole pool, i.e. the recipe's
`label_scorers`. Pairs that people tied (label 0.5) are not treated apart here: only `human`
and the tie rule "human" read human labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from bench import (
    Aggregation,
    BenchError,
    Labels,
    PairRewards,
    derive_seed,
    hookimpl,
    option,
)


@dataclass(frozen=True, kw_only=True)
class Human(Aggregation):
    """The human label: the image that more people preferred wins."""

    name: ClassVar[str] = "human"

    ties: Literal["drop", "keep"] = option(
        "drop", "pairs without a preference: left out, or kept with p = 0.5"
    )

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        """No scorer."""
        return ()

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """p = 1, 0 or, for a tie, 0.5."""
        votes = np.sign(pairs.human - 0.5)
        labels = _hard(votes)
        return labels if self.ties == "drop" else Labels(p=labels.p, kept=np.ones_like(labels.kept))


@dataclass(frozen=True, kw_only=True)
class _OfScorers(Aggregation):
    """Labels by the rewards of some scorers."""

    scorers: tuple[str, ...] = option((), "the scorers whose rewards are read; empty: the pool")

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The scorers chosen."""
        chosen = tuple(dict.fromkeys(self.scorers or pool))
        if not chosen:
            raise BenchError(
                f"{self.name} needs scorers to label the pairs: give its option `scorers`, or name "
                f"them in the recipe's `label_scorers`"
            )
        return chosen

    def _rewards(self, pairs: PairRewards) -> dict[str, np.ndarray]:
        """Those of the scorers chosen, sorted so that no result hangs on the order given."""
        chosen = {name: pairs.rewards[name] for name in sorted(self.needs([*pairs.rewards]))}
        for name, rewards in chosen.items():
            bad = int((~np.isfinite(rewards)).any(axis=1).sum())
            if bad:
                raise BenchError(
                    f"scorer {name!r} gave rewards that are not finite for {bad} pairs"
                )
        return chosen


@dataclass(frozen=True, kw_only=True)
class Average(_OfScorers):
    """The image with the higher mean reward wins; equal means are dropped.

    BalancedDPO's ablation baselines by name, "vanilla" (raw) and "normalized" aggregation.
    """

    name: ClassVar[str] = "average"

    normalise: Literal["raw", "minmax", "zscore"] = option(
        "raw", "scaling of each scorer over all images of the data set before the mean"
    )

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """p = 1 or 0 by the sign of the difference of the means."""
        scale = {"raw": _raw, "minmax": _minmax, "zscore": _zscore}[self.normalise]
        mean = np.mean([scale(r) for r in self._rewards(pairs).values()], axis=0)
        return _hard(np.sign(mean[:, 0] - mean[:, 1]))


@dataclass(frozen=True, kw_only=True)
class Smoothed(_OfScorers):
    """SmPO-Diffusion: p = sigmoid of the difference of min-max normalised rewards.

    SmPO uses one reward model, PickScore, with the minimum and maximum of its own data set as
    constants; `low` and `high` set such constants. Of several scorers, the mean of their
    normalised rewards is smoothed. Equal rewards give p = 0.5 and are kept. (The official code
    also leaves out the pairs that people tied; here they are labelled like all others.)
    """

    name: ClassVar[str] = "smoothed"

    low: float | None = option(None, "reward that becomes 0; none: the data set's minimum")
    high: float | None = option(None, "reward that becomes 1; none: the data set's maximum")
    temperature: float = option(1.0, "divides the difference; SmPO: 1", gt=0)

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """SmPO Eq. 8: alpha / gamma = p = sigmoid((r'_0 - r'_1) / temperature)."""
        rewards = self._rewards(pairs)
        if len(rewards) > 1 and (self.low is not None or self.high is not None):
            raise BenchError(
                f"smoothed: low and high are rewards of one scorer, but there are {len(rewards)} "
                f"({', '.join(rewards)}); name one in `scorers`"
            )
        mean = np.mean([_minmax(r, self.low, self.high) for r in rewards.values()], axis=0)
        difference = (mean[:, 0] - mean[:, 1]) / self.temperature
        # sigmoid(x) = (1 + tanh(x / 2)) / 2 does not overflow and is exactly 0.5 at 0.
        p = 0.5 * (1 + np.tanh(difference / 2))
        return Labels(p=p, kept=np.ones(len(p), dtype=bool))


@dataclass(frozen=True, kw_only=True)
class MajorityVote(_OfScorers):
    """BalancedDPO: every scorer casts a vote, the majority labels the pair.

    With an even number of scorers ties are of first order: four independent scorers that are
    right with probability q split 2-2 in a share 6 q^2 (1 - q)^2 of pairs (26% at q = 0.7). The
    paper's tie rule is not known to us, so `ties` names ours.
    """

    name: ClassVar[str] = "majority_vote"

    ties: Literal["drop", "human", "priority"] = option(
        "drop",
        "pairs without a majority: left out, or decided by the human label or by the scorer "
        "`priority`; left out if these are undecided too",
    )
    priority: str = option("", "the voter that decides when `ties` is priority")
    dead_zone: float = option(
        0.0,
        "a scorer abstains where its rewards differ by less than this many standard deviations "
        "of its differences over the data set",
        ge=0,
    )

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The voters."""
        voters = super().needs(pool)
        if self.ties == "priority" and self.priority not in voters:
            raise BenchError(
                f"majority_vote: ties=priority needs `priority` to name one of the voters "
                f"({', '.join(voters)}), not {self.priority!r}"
            )
        if self.ties != "priority" and self.priority:
            raise BenchError(
                f"majority_vote: priority={self.priority} has no effect with ties={self.ties}; "
                f"set ties=priority"
            )
        return voters

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """p = 1 or 0 by the sign of the sum of votes in {-1, 0, 1}."""
        rewards = self._rewards(pairs)
        votes = {name: self._votes(r[:, 0] - r[:, 1]) for name, r in rewards.items()}
        majority = np.sign(np.sum(list(votes.values()), axis=0))
        if self.ties == "human":
            majority = np.where(majority == 0, np.sign(pairs.human - 0.5), majority)
        elif self.ties == "priority":
            majority = np.where(majority == 0, votes[self.priority], majority)
        return _hard(majority)

    def _votes(self, differences: np.ndarray) -> np.ndarray:
        unsure = np.abs(differences) < self.dead_zone * differences.std()
        return np.where(unsure, 0.0, np.sign(differences))


@dataclass(frozen=True, kw_only=True)
class RandomScorer(_OfScorers):
    """Each pair is labelled by one scorer drawn at random; its ties are dropped.

    BalancedDPO's ablation baseline "random score".
    """

    name: ClassVar[str] = "random_scorer"

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """p = 1 or 0 by the sign of the drawn scorer's difference."""
        rewards = np.stack(list(self._rewards(pairs).values()))
        rng = np.random.default_rng(derive_seed(seed, self.name))
        n = rewards.shape[1]
        drawn = rewards[rng.integers(len(rewards), size=n), np.arange(n)]
        return _hard(np.sign(drawn[:, 0] - drawn[:, 1]))


def _hard(votes: np.ndarray) -> Labels:
    """Labels of signs in {-1, 0, 1}, [N]; pairs with 0 are dropped."""
    return Labels(p=0.5 * (votes + 1.0), kept=votes != 0)


def _raw(rewards: np.ndarray) -> np.ndarray:
    return rewards


def _minmax(rewards: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """(r - low) / (high - low), bounds the data's own unless given; constant rewards become 0."""
    bottom = float(rewards.min()) if low is None else low
    top = float(rewards.max()) if high is None else high
    if top == bottom and low is None and high is None:
        return np.zeros_like(rewards)
    if top <= bottom:
        raise BenchError(
            f"min-max normalisation needs low < high, not {bottom:g} and {top:g} "
            f"(the rewards lie in [{rewards.min():g}, {rewards.max():g}])"
        )
    scaled: np.ndarray = (rewards - bottom) / (top - bottom)
    return scaled


def _zscore(rewards: np.ndarray) -> np.ndarray:
    """(r - mean) / std over all images; constant rewards become 0."""
    centred: np.ndarray = rewards - rewards.mean()
    std = float(rewards.std())
    return centred / std if std > 0 else centred


@hookimpl
def bench_aggregations() -> Sequence[type[Aggregation]]:
    """Human labels, averages, smoothing, votes and a random scorer."""
    return [Human, Average, Smoothed, MajorityVote, RandomScorer]
