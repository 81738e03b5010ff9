"""What votes say: agreement, and win rates of people with and without the scorers' help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from bench.audit.compared import Compared, Pairing
from bench.audit.records import AuditKey, Item
from bench.audit.sampling import Floats, Integers
from bench.audit.votes import Vote
from bench.lib.canonical_json import plain, to_json
from bench.lib.errors import BenchError
from bench.statistics.agreement import Agreement, agreement, krippendorff_alpha
from bench.statistics.prediction_powered import (
    HumanRate,
    Population,
    Voted,
    human_rate,
    rank_sets,
)


@dataclass(frozen=True, kw_only=True)
class Rater:
    """One person."""

    rater: str
    votes: int
    left: int
    """How often the left picture; half of the decided ones, unless somebody favours a side."""
    ties: int
    median_seconds: float


@dataclass(frozen=True, kw_only=True)
class ScorerFinding:
    """How far a scorer agrees with people."""

    scorer: str
    in_loop: bool
    """Whether a compared method was trained on its rewards."""
    agreement: Agreement | None
    """Of all prompts that could be asked (weighted by chances); None where nothing is decided."""


@dataclass(frozen=True, kw_only=True)
class PairFinding:
    """What people prefer of two methods."""

    first: str
    second: str
    votes: int
    scorers: tuple[str, ...]
    """That were listened to: held out for both, or all where there are none."""
    scorers_rate: float
    """What they say of all prompts, in [0, 1]."""
    human: HumanRate | None
    """From the votes alone; None with fewer than two prompts voted on."""
    powered: HumanRate | None
    """From votes and scorers."""
    low: float | None = None
    """Of the powered rate: end of the interval that holds with those of all pairs at once."""
    high: float | None = None
    adjusted_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that an import says."""

    audit: str
    protocol: str
    train_seeds: tuple[int, ...]
    """Whose images were shown. The estimand is that of `Estimand.CHECKPOINT`: their mean, over
    prompts and noise; variation between trainings is in no interval."""
    votes: int
    items: int
    """Asked."""
    voted_items: int
    """Answered by somebody."""
    raters: tuple[Rater, ...]
    alpha: float | None
    """Krippendorff's, people among themselves, losses, ties and wins as amounts; None unless
    some item has two votes."""
    alpha_nominal: float | None
    """The same with a tie as a third name."""
    scorers: tuple[ScorerFinding, ...]
    pairs: tuple[PairFinding, ...]
    ranks: tuple[tuple[str, tuple[int, int]], ...]
    """Method and the ranks that it may have by the powered rates, best first; () unless every
    pair was voted on."""


def findings_text(findings: Findings) -> str:
    """The findings as a JSON file that is the same on every machine."""
    return to_json(_rounded(plain(findings)))


def _rounded(value: Any) -> Any:
    # Six digits: finer than any interval, coarser than differences between platforms.
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def find(key: AuditKey, compared: Compared, votes: Sequence[Vote]) -> Findings:
    """Combine votes with the run's scores.

    Args:
        key: of the audit.
        compared: the methods of the key, in its order.
        votes: checked against the key.
    """
    asked = _Asked(key, compared)
    outcomes = np.array([v.outcome(first_left=key.items[v.item].first_left) for v in votes])
    by_rater: dict[str, list[Vote]] = {name: [] for name in sorted({v.rater for v in votes})}
    for vote in votes:
        by_rater[vote.rater].append(vote)
    number_of = {name: number for number, name in enumerate(by_rater)}
    table = np.full((len(by_rater), len(key.items)), np.nan)
    for vote, outcome in zip(votes, outcomes, strict=True):
        table[number_of[vote.rater], vote.item] = outcome
    pairs = [asked.pair_finding(number, table) for number in range(len(key.pairs))]
    rates = {
        (pair.first, pair.second): finding.powered
        for pair, finding in zip(key.pairs, pairs, strict=True)
        if finding.powered
    }
    ranking = rank_sets(len(key.methods), rates)
    if ranking:
        pairs = [
            _simultaneous(finding, *ranking.intervals[at], ranking.adjusted_p[at])
            for finding, at in zip(pairs, ((p.first, p.second) for p in key.pairs), strict=True)
        ]
    named = zip((m.shown for m in key.methods), ranking.rank_sets if ranking else (), strict=False)
    return Findings(
        audit=key.audit,
        protocol=key.protocol,
        train_seeds=tuple(sorted({seed for p in asked.pairings for seed in p.train_seeds})),
        votes=len(votes),
        items=len(key.items),
        voted_items=len({vote.item for vote in votes}),
        raters=tuple(_rater(name, mine) for name, mine in by_rater.items()),
        alpha=krippendorff_alpha(table, "interval"),
        alpha_nominal=krippendorff_alpha(table, "nominal"),
        scorers=tuple(asked.scorer_findings(votes, outcomes)),
        pairs=tuple(pairs),
        ranks=tuple(sorted(named, key=lambda entry: (entry[1], entry[0]))),
    )


def _simultaneous(finding: PairFinding, low: float, high: float, p: float) -> PairFinding:
    return replace(finding, low=low, high=high, adjusted_p=p)


def _rater(name: str, votes: Sequence[Vote]) -> Rater:
    return Rater(
        rater=name,
        votes=len(votes),
        left=sum(vote.choice == "left" for vote in votes),
        ties=sum(vote.choice == "tie" for vote in votes),
        median_seconds=median(vote.seconds for vote in votes),
    )


class _Asked:
    """The items of a key among the outcomes of a run."""

    def __init__(self, key: AuditKey, compared: Compared) -> None:
        self.key, self.compared = key, compared
        self.place = {at: number for number, at in enumerate(compared.rows)}
        self.cluster = compared.design.cluster
        self.weights = compared.weights
        self.seeds = [compared.image_seeds.index(seed) for seed in key.image_seeds]
        self.pairings = [compared.pair(pair.first, pair.second) for pair in key.pairs]

    def index(self, item: Item) -> tuple[int, int, int]:
        """Prompt, train seed and image seed of an item, as outcomes are ordered.

        Raises:
            BenchError: the run has no such image.
        """
        pairing = self.pairings[item.pair]
        try:
            return (
                self.place[item.prompt_set, item.row],
                pairing.train_seeds.index(item.train_seed),
                self.compared.image_seeds.index(item.image_seed),
            )
        except (KeyError, ValueError) as error:
            raise BenchError(
                f"item {item.item} of the key: the run has no images of row {item.row} of "
                f"{item.prompt_set} with train seed {item.train_seed} and image seed "
                f"{item.image_seed}; give the run and the key of one audit"
            ) from error

    def pair_finding(self, number: int, table: Floats) -> PairFinding:
        """What people and scorers say of one pair.

        Args:
            number: of the pair.
            table: [raters, items]: votes as outcomes of the pair's first method.
        """
        pair, pairing = self.key.pairs[number], self.pairings[number]
        population = self._population(pairing)
        mine = np.array([i for i, item in enumerate(self.key.items) if item.pair == number])
        given = ~np.isnan(table[:, mine])
        mine = mine[given.any(axis=0)]
        human = powered = None
        if len(mine) > 1:
            voted = self._voted(pairing, mine, np.nanmean(table[:, mine], axis=0))
            human = human_rate(voted, population, power=0.0)
            powered = human_rate(voted, population)
        return PairFinding(
            first=self.key.methods[pair.first].shown,
            second=self.key.methods[pair.second].shown,
            votes=int(given.sum()),
            scorers=pairing.judges,
            scorers_rate=float(population.weights @ population.predictions),
            human=human,
            powered=powered,
        )

    def _population(self, pairing: Pairing) -> Population:
        said = pairing.predictions()[:, :, self.seeds]
        images = said[0].size
        return Population(
            predictions=said.ravel(),
            weights=np.repeat(self.weights / images, images),
            prompt=np.repeat(self.cluster, images),
        )

    def _voted(self, pairing: Pairing, items: Integers, votes: Floats) -> Voted:
        asked = [self.key.items[i] for i in items]
        rows = np.array([self.index(item) for item in asked])
        said = pairing.predictions()
        own = np.bincount(self.cluster, self.weights)
        stratum = np.array([item.stratum for item in asked])
        strata = self.key.pairs[asked[0].pair].strata
        answered = np.bincount(stratum, minlength=len(strata))
        # A stratum may hold no prompt, and then nobody was asked of it.
        prompts = np.array([max(1, s.prompts) for s in strata])
        chance = (answered / prompts)[stratum]
        if any(n < min(2, s.sampled) for n, s in zip(answered, strata, strict=True)):
            # Too few answers of a stratum show no spread: each keeps the chance of being asked, and
            # whoever answers few answers the first of a shuffled order.
            chance = np.array([item.chance for item in asked]) * len(asked)
            chance /= sum(s.sampled for s in strata)
            stratum = np.zeros_like(stratum)
        return Voted(
            votes=votes,
            predictions=said[rows[:, 0], rows[:, 1], rows[:, 2]],
            weights=own[self.cluster[rows[:, 0]]],
            stratum=stratum,
            chance=chance,
            prompt_set=self.compared.design.stratum[rows[:, 0]],
        )

    def scorer_findings(self, votes: Sequence[Vote], outcomes: Floats) -> list[ScorerFinding]:
        """Agreement of every scorer that judged all pairs."""
        items = [self.key.items[vote.item] for vote in votes]
        prompt = [int(self.cluster[self.index(item)[0]]) for item in items]
        weights = [1 / item.chance for item in items]
        everywhere = set.intersection(*(set(pairing.outcomes) for pairing in self.pairings))
        in_loop = {
            scorer
            for method in self.key.methods
            for identity in method.cells.values()
            for scorer in self.compared.cells[identity][1].in_loop
        }
        return [
            ScorerFinding(
                scorer=scorer,
                in_loop=scorer in in_loop,
                agreement=agreement(
                    [self.pairings[i.pair].outcomes[scorer][self.index(i)] for i in items],
                    outcomes,
                    prompt,
                    weights,
                ),
            )
            for scorer in sorted(everywhere)
        ]
