"""Every method of a section against every other: what is separated, and which ranks that leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from bench.leaderboard.compared import Player
from bench.leaderboard.standings import HeadToHead
from bench.statistics import model
from bench.statistics.model import Components, Design, Estimand, Floats, WinRate
from bench.statistics.ranking import Sources, best_of_many, letters, rank_sets, simultaneous

BASE = -1
"""Stands for the base where a player's number is expected."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the comparisons say of one player."""

    common: WinRate
    """Against the base."""
    adjusted_p: float | None = None
    rank_set: tuple[int, int] | None = None
    letters: str = ""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What the comparisons say of all players."""

    standings: tuple[Standing, ...] = ()
    """In the order of the players."""
    base_rank_set: tuple[int, int] | None = None
    base_letters: str = ""
    pairs: tuple[HeadToHead, ...] = ()
    best_of_many: float | None = None
    unranked_because: str = ""
    """A clause; '' where there are ranks."""


@dataclass(frozen=True)
class _Pair:
    """A comparison: of one player over another, or over the base."""

    one: int
    other: int
    part: Components = field(repr=False)
    rate: WinRate

    @property
    def tested(self) -> bool:
        return self.rate.estimand is Estimand.METHOD


def rank(players: Sequence[Player], base: Floats, design: Design) -> Ranking:
    """Compare all pairs, the base's among them, and rank the methods of two seeds or more.

    All pairs are one family: tests and intervals share a critical level (max-t), so that with 95%
    no pair is separated wrongly, and every true rank lies in its set.

    Args:
        players: the methods.
        base: the base's scores, [prompts, images and scorers].
        design: of the prompts.
    """
    if not players:
        return Ranking(unranked_because="no scorer is held out for every method")
    parts = against(players, base, design)
    commons = model.win_rates(parts)
    pairs = [_Pair(i, BASE, *each) for i, each in enumerate(zip(parts, commons, strict=True))]
    pairs += _head_to_head(players, parts, design)
    ranked = [i for i, rate in enumerate(commons) if rate.estimand is Estimand.METHOD]
    if not ranked:
        return Ranking(
            standings=tuple(Standing(common=rate) for rate in commons),
            pairs=_named(players, pairs),
            unranked_because="each method was trained once, which says nothing of another training",
        )
    tested = [pair for pair in pairs if pair.tested]
    sources = _sources(tested, len(players))
    family = simultaneous(
        [pair.rate.centre - 0.5 for pair in tested],
        [pair.rate.standard_error for pair in tested],
        [pair.rate.family_df if len(tested) > 1 else pair.rate.df for pair in tested],
        sources,
    )
    adjusted = dict(zip(((p.one, p.other) for p in tested), family.adjusted, strict=True))
    level = 1 - family.alpha
    wider = (
        [replace(p, rate=_within(p.rate, level)) if p.tested else p for p in pairs]
        if len(tested) > 1
        else pairs
    )
    separated = [won for pair in wider if (won := _won(pair))]
    order = sorted([*ranked, BASE], key=lambda i: -(0.5 if i == BASE else commons[i].win_rate))
    sets = dict(zip(order, rank_sets(order, separated), strict=True))
    marks = dict(zip(order, letters(order, separated), strict=True))
    mine = [pair.other == BASE for pair in tested]
    chance = best_of_many(
        [pair.rate.standard_error for pair in tested if pair.other == BASE],
        Sources(sources.loads[mine]),
    )
    return Ranking(
        standings=tuple(
            Standing(
                common=rate,
                adjusted_p=adjusted.get((i, BASE)),
                rank_set=sets.get(i),
                letters=marks.get(i, ""),
            )
            for i, rate in enumerate(commons)
        ),
        base_rank_set=sets[BASE],
        base_letters=marks[BASE],
        pairs=_named(players, wider, adjusted),
        best_of_many=0.5 + chance.expected if len(ranked) > 1 else None,
    )


def against(players: Sequence[Player], base: Floats, design: Design) -> list[Components]:
    """Each player's outcomes against the base's scores, [prompts, images and scorers]."""
    return [_over(p, Player("", "", dict.fromkeys(p.scores, base)), design) for p in players]


def duels(players: Sequence[Player], design: Design) -> dict[tuple[int, int], Components]:
    """Each two players' outcomes, by their numbers, where they share a train seed."""
    return {
        (i, j): _over(players[i], players[j], design)
        for i, j in combinations(range(len(players)), 2)
        if players[i].scores.keys() & players[j].scores.keys()
    }


def _over(one: Player, other: Player, design: Design) -> Components:
    """One player's outcomes against another's, on the train seeds that both have."""
    seeds = sorted(one.scores.keys() & other.scores.keys())
    results = [model.outcomes(one.scores[seed], other.scores[seed]) for seed in seeds]
    return model.components(np.stack(results), design)


def _head_to_head(
    players: Sequence[Player], parts: Sequence[Components], design: Design
) -> list[_Pair]:
    """All pairs of players that share a train seed."""
    found = duels(players, design)
    several = [part for part in parts if part.seeds > 1]
    # Differences of M methods in S seeds: the interaction, with (M - 1)(S - 1) degrees of freedom.
    share = 1 - 1 / len(several) if several else 1.0
    spreads = model.seed_variances(
        list(found.values()),
        df=share * sum(part.seeds - 1 for part in several),
        pool=model.alike(parts),
    )
    return [
        _Pair(i, j, part, model.win_rate(part, spread))
        for ((i, j), part), spread in zip(found.items(), spreads, strict=True)
    ]


def _sources(pairs: Sequence[_Pair], players: int) -> Sources:
    """What the pairs' errors share: prompts as measured, and trainings where methods are shared."""
    influence = np.stack([pair.part.influence for pair in pairs])
    contrast = np.zeros((len(pairs), players))
    for row, pair in enumerate(pairs):
        contrast[row, pair.one] = 1.0
        if pair.other != BASE:
            contrast[row, pair.other] = -1.0
    # The rest of each variance is between trainings, independent from method to method.
    rest = [p.rate.standard_error**2 - p.part.prompt for p in pairs]
    per_method = np.sqrt(np.maximum(rest, 0.0) / (contrast**2).sum(axis=1))
    loads = np.concatenate([influence, contrast * per_method[:, None]], axis=1)
    # Where all outcomes are alike nothing is measured; such a pair is like no other.
    nothing = np.flatnonzero(~loads.any(axis=1))
    alone = np.zeros((len(pairs), len(nothing)))
    alone[nothing, np.arange(len(nothing))] = 1.0
    return Sources(np.concatenate([loads, alone], axis=1))


def _within(rate: WinRate, level: float) -> WinRate:
    low, high = rate.ends(level, family=True)
    return replace(rate, low=low, high=high)


def _won(pair: _Pair) -> tuple[int, int] | None:
    """(better, worse) where an interval excludes a draw."""
    if not pair.tested or pair.rate.low <= 0.5 <= pair.rate.high:
        return None
    return (pair.one, pair.other) if pair.rate.low > 0.5 else (pair.other, pair.one)


def _named(
    players: Sequence[Player],
    pairs: Sequence[_Pair],
    adjusted: Mapping[tuple[int, int], float] | None = None,
) -> tuple[HeadToHead, ...]:
    """The pairs of methods, by their names."""
    return tuple(
        HeadToHead(
            method=players[pair.one].method,
            variant=players[pair.one].variant,
            other=players[pair.other].method,
            other_variant=players[pair.other].variant,
            rate=pair.rate,
            adjusted_p=(adjusted or {}).get((pair.one, pair.other)),
        )
        for pair in pairs
        if pair.other != BASE
    )
