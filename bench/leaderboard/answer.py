"""The answer that a section gives, in words: which method is better, or why that is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from bench.leaderboard.standings import HeadToHead, Row, Section, names_of_rows

ENOUGH_SEEDS = (0, 1, 2, 3, 4)
"""Train seeds that rank methods without pooling: each then has a spread of its own."""
_Names: TypeAlias = Mapping[tuple[str, str], str]
_LISTED = 4
"""So many groups of winners are told apart."""
_NAMED = 6
"""So many methods are named in one breath."""


def answer(section: Section) -> str:
    """Which methods beat the base, which beat each other, and what is missing to say more."""
    done = [row for row in section.rows if row.seeds]
    names = names_of_rows(section.rows)
    if not done:
        return "No method finished."
    if not section.ranked_by:
        return (
            "No scorer is held out for every method, so no two of them can be compared; each "
            "column speaks of its scorer alone."
        )
    judged = f"{section.distinct_prompts:,} prompts, judged by {', '.join(section.ranked_by)}"
    if not section.unranked_because:
        ranked = [row for row in done if row.rank_set]
        seeds = sorted({len(row.seeds) for row in ranked})
        trained = "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        sentences = [
            f"Over {trained} trainings each and {judged}: {_against_base(ranked, names)}.",
            *_between(ranked, names, section.head_to_head),
            *_once([names[row.key] for row in done if not row.rank_set]),
        ]
        return " ".join(sentences)
    trained_here = [row for row in done if row.budget and row.budget.steps]
    which = "As trained once" if trained_here else "As given"
    sentences = [f"{which}, over {judged}: {_against_base(done, names)}."]
    if trained_here:
        sentences.append(
            f"One training says nothing of another, so no method is ranked; {_remedy(section)}."
        )
    else:
        sentences.append("That is said of these weights, and not of the methods behind them.")
    return " ".join(sentences)


def _against_base(rows: Sequence[Row], names: _Names) -> str:
    groups: dict[str, list[str]] = {"beat": [], "lose to": [], "not": []}
    for row in rows:
        if row.common:
            above, below = row.common.low > 0.5, row.common.high < 0.5
            if row.adjusted_p is not None and row.adjusted_p > 0.05:
                above = below = False
            groups["beat" if above else "lose to" if below else "not"].append(names[row.key])
    clauses = [
        f"{joined(groups[verb])} {verb if len(groups[verb]) > 1 else _third(verb)} the base"
        for verb in ("beat", "lose to")
        if groups[verb]
    ]
    if unclear := groups["not"]:
        clauses.append(
            f"{joined(unclear)} {'are' if len(unclear) > 1 else 'is'} not separated from "
            f"{'it' if clauses else 'the base'}"
        )
    return "; ".join(clauses)


def _third(verb: str) -> str:
    return {"beat": "beats", "lose to": "loses to"}[verb]


def _between(rows: Sequence[Row], names: _Names, pairs: Sequence[HeadToHead]) -> list[str]:
    """What is said of the methods among themselves."""
    if len(rows) < 2:
        return []
    losers: dict[str, list[str]] = {names[row.key]: [] for row in rows}
    for pair in pairs:
        if pair.separated:
            one, other = names[pair.method, pair.variant], names[pair.other, pair.other_variant]
            better, worse = (one, other) if pair.rate.low > 0.5 else (other, one)
            losers[better].append(worse)
    if not any(losers.values()):
        return [f"No two of {joined(list(losers))} are separated."]
    winners: dict[tuple[str, ...], list[str]] = {}
    for name, beaten in losers.items():
        if beaten:
            winners.setdefault(tuple(n for n in losers if n in beaten), []).append(name)
    clauses = [
        f"{joined(some)} {'beat' if len(some) > 1 else 'beats'} {joined(beaten)}"
        for beaten, some in winners.items()
    ]
    more = len(clauses) - _LISTED
    sentences = ["; ".join(clauses[:_LISTED]) + (f"; {more} such groups more" * (more > 0)) + "."]
    first = [names[row.key] for row in rows if row.rank_set and row.rank_set[0] == 1]
    if len(first) > 1:
        sentences.append(f"First place lies between {joined(first)}.")
    return sentences


def _once(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"Trained or given once, hence unranked: {joined(names)}."]


def _remedy(section: Section) -> str:
    """What ranks the methods, and what it takes where that was measured."""
    rows = [row for row in section.rows if row.seeds and row.budget and row.budget.steps]
    seconds = sum(
        (len(ENOUGH_SEEDS) - len(row.seeds))
        * (row.cost.train_seconds + row.cost.sample_seconds + row.cost.score_seconds)
        for row in rows
        if row.cost
    )
    seeds = ",".join(map(str, ENOUGH_SEEDS))
    return f"the same run with --seeds {seeds} ranks them ({_time(seconds)} more at its pace)"


def _time(seconds: float) -> str:
    if seconds < 90:
        return "about a minute" if seconds >= 30 else "less than a minute"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.0f} hours"


def joined(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; of many, how many more there are."""
    if len(names) > _NAMED + 1:
        names = [*names[:_NAMED], f"{len(names) - _NAMED} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
