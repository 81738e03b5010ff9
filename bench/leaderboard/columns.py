"""The columns of a section's tables, for people: in Markdown and on a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from bench.leaderboard.fitted import Column
from bench.leaderboard.standings import HELD_OUT, HeadToHead, Panel, Row, Section, Strength
from bench.lib import escaping
from bench.statistics.crossed import Interval
from bench.statistics.effects import Effect
from bench.statistics.model import LEVEL, WinRate

GAP = "–"
_SIZES = 2
"""Of so many scorers the size of the difference is shown; `leaderboard.json` has all."""
SHOWN_PAIRS = 66
"""Pairs of twelve methods; more are in `head_to_head.csv` alone."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How a form of the table writes names that people chose, and win rates."""

    text: Callable[[str], str]
    code: Callable[[str], str]
    rate: Callable[[WinRate, bool], str]
    """A win rate; True: of a scorer that is in-loop."""
    separated: Callable[[str], str]
    """Sets off the win rate of a pair that is separated."""
    own_mean: bool
    """Whether the mean over a row's own held-out scorers stands beside the common ones."""


def columns(section: Section, style: Style) -> Iterator[Column]:
    """The table of a section: methods, win rates and costs."""
    rows = section.rows
    yield "method", [method_name(row, style) for row in rows]
    if not section.unranked_because:
        yield "rank", [_rank(row) for row in rows]
    common, declared = section.ranked_by, section.declared_held_out
    if len(common) > 1:
        yield "held-out mean", [_rate(row, row.common, style) for row in rows]
    # What all rows have held out stands first: it is what they are compared by.
    for scorer in (*common, *(s for s in section.scorers if s not in common)):
        heading = f"{style.text(scorer)} †" if scorer in declared else style.text(scorer)
        yield heading, [_rate(row, row.scores.get(scorer), style, scorer) for row in rows]
    if not section.unranked_because:
        yield "p (of all pairs)", [_p_value(row) for row in rows]
    if style.own_mean and any(row.held_out_scorers not in ((), common) for row in rows):
        yield "own held-out mean", [_rate(row, row.held_out, style) for row in rows]
    headings = ("seconds", "train NFE", "sample NFE", "memory (MB)")
    yield from zip(headings, zip(*map(_costs, rows), strict=True), strict=True)


def prompt_set_columns(section: Section) -> Iterator[Column]:
    """The table of a section's held-out means by prompt set."""
    rates = {
        (row.method, row.variant, row.prompt_set): row.result
        for row in section.groups
        if row.scorer == HELD_OUT and not row.dimension
    }
    yield "method", [method_name(row, MARKDOWN) for row in section.rows]
    for name, n in section.prompt_sets.items():
        of = ((row, rates.get((row.method, row.variant, name))) for row in section.rows)
        yield f"{escaping.markdown(name)} (n={n})", [_rate(*each, MARKDOWN) for each in of]


def _rate(row: Row, rate: WinRate | None, style: Style, scorer: str = "") -> str:
    if row.base:
        return "50%"
    return style.rate(rate, scorer in row.in_loop) if rate else GAP


def _in_line(rate: WinRate, in_loop: bool) -> str:
    """A win rate as Markdown has it, with its ties where there are any."""
    ties = f", {100 * rate.tie_share:.1f}% ties" if rate.ties else ""
    bounds = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    star = "\\*" if in_loop else ""
    return f"{100 * rate.win_rate:.1f}%{star} {bounds}{ties}"


def _stacked(rate: WinRate, in_loop: bool) -> str:
    """The interval under the win rate, so that five scorers fit into a terminal."""
    star = "*" if in_loop else ""
    return f"{100 * rate.win_rate:.1f}%{star}\n[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _p_value(row: Row) -> str:
    if row.common is None or row.common.p_value is None or row.adjusted_p is None:
        return GAP
    return f"{row.common.p_value:.2g} ({row.adjusted_p:.2g})"


def _rank(row: Row) -> str:
    """The ranks left open, and the letters: "1-3 ab"."""
    if row.rank_set is None:
        return GAP
    return f"{'-'.join(map(str, dict.fromkeys(row.rank_set)))} {row.letters}"


def panel_columns(section: Section) -> Iterator[Column]:
    """What lies beside the win rates, as far as it is known of any row."""
    rows = [row for row in section.rows if row.panel]
    panels = [row.panel for row in rows if row.panel]
    strengths = {(s.method, s.variant): s for s in section.strengths}

    def column(heading: str, cells: list[str]) -> Iterator[Column]:
        if any(cell != GAP for cell in cells):
            yield heading, cells

    yield "method", [method_name(row, MARKDOWN) for row in rows]
    for scorer in section.ranked_by[:_SIZES]:
        heading = f"{escaping.markdown(scorer)} difference (sd)"
        yield from column(heading, [_size(panel.effects.get(scorer)) for panel in panels])
    yield from column("worst scorer (sd)", [_worst(panel) for panel in panels])
    yield from column("dominates / dominated", [_joint(panel) for panel in panels])
    yield from column("strength", [_strength(strengths.get(row.key)) for row in rows])
    yield from column("diversity", [_diversity(panel) for panel in panels])
    yield from column("looks (sd)", [_looks(panel) for panel in panels])
    yield from column("at equal looks", [_equal_looks(panel) for panel in panels])
    distances = [panel.weight_distance for panel in panels]
    yield from column("weights moved", [GAP if d is None else f"{d:.2g}" for d in distances])


def _size(effect: Effect | None) -> str:
    return GAP if effect is None or effect.mean is None else _between(effect.mean, "+.2f")


def _between(interval: Interval, form: str, unit: str = "", scale: float = 1.0) -> str:
    value = f"{scale * interval.estimate:{form}}{unit}"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{scale * interval.low:{form}}, {scale * interval.high:{form}}]"


def _worst(panel: Panel) -> str:
    effect = panel.effects[panel.worst_scorer] if panel.worst_scorer else None
    if effect is None or effect.mean is None or panel.worst_scorer is None:
        return GAP
    return f"{escaping.markdown(panel.worst_scorer)} {effect.mean.estimate:+.2f}"


def _joint(panel: Panel) -> str:
    if panel.joint is None:
        return GAP
    won, lost = panel.joint.dominating.estimate, panel.joint.dominated.estimate
    return f"{100 * won:.1f}% / {100 * lost:.1f}%"


def _strength(strength: Strength | None) -> str:
    if strength is None:
        return GAP
    spread = "" if strength.standard_error is None else f" ± {strength.standard_error:.2f}"
    return f"{strength.log_odds:+.2f}{spread}"


def _diversity(panel: Panel) -> str:
    return _between(panel.diversity.ratio, ".2f") if panel.diversity else GAP


def _looks(panel: Panel) -> str:
    drifts = {fact: effect.mean for fact, effect in panel.drift.items()}
    known = [f"{fact} {mean.estimate:+.2f}" for fact, mean in drifts.items() if mean]
    return ", ".join(known) or GAP


def _equal_looks(panel: Panel) -> str:
    if panel.adjusted is None:
        return GAP
    if not panel.adjusted.supported:
        return "no such pairs"
    return _between(panel.adjusted.rate, ".1f", "%", 100)


def head_to_head_note(section: Section) -> str:
    """How to read the matrix of all pairs."""
    tested = any(pair.adjusted_p is not None for pair in section.head_to_head)
    intervals = (
        "intervals hold for all pairs at once; in bold (in a terminal: !) what is separated"
        if tested
        else f"each a {LEVEL:.0%} interval of these checkpoints"
    )
    return f"how often the row's image beats the column's; {intervals}."


def head_to_head_columns(section: Section, style: Style) -> Iterator[Column]:
    """A matrix: the row's win rate over the column's method."""
    pairs = {}
    for pair in section.head_to_head:
        one, other = (pair.method, pair.variant), (pair.other, pair.other_variant)
        pairs[one, other] = pair
        pairs[other, one] = pair.turned
    rows = [row for row in section.rows if row.seeds]
    yield "", [method_name(row, style) for row in rows]
    for column in rows:
        of = [
            pairs.get(((row.method, row.variant), (column.method, column.variant))) for row in rows
        ]
        yield method_name(column, style), [_duel(pair, style) for pair in of]


def _duel(pair: HeadToHead | None, style: Style) -> str:
    if pair is None:
        return GAP
    text = style.rate(pair.rate, False)
    return style.separated(text) if pair.separated else text


def method_name(row: Row, style: Style) -> str:
    """What a row is called: its label, if it has one, and its spec."""
    spec = style.code(row.shown)
    return f"{style.text(row.label)} {spec}" if row.label else spec


def _costs(row: Row) -> tuple[str, str, str, str]:
    """Seconds and evaluations of training, evaluations of sampling, memory of training."""
    # What it cost to draw images that were found, nobody has measured.
    if row.cost is None or not row.cost.sample_nfe:
        return GAP, GAP, GAP, GAP
    sampled = f"{row.cost.sample_nfe:,}"
    if row.base:
        return GAP, GAP, sampled, GAP
    seconds = row.cost.label_seconds + row.cost.train_seconds
    return (
        f"{seconds:,.{1 if seconds < 100 else 0}f}",
        f"{row.cost.train_nfe:,}",
        sampled,
        f"{row.cost.peak_memory_mb:,.0f}",
    )


MARKDOWN = Style(escaping.markdown, escaping.code, _in_line, "**{}**".format, own_mean=True)
PLAIN = Style(escaping.printable, escaping.printable, _stacked, "! {}".format, own_mean=False)
