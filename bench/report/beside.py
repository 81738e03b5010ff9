"""What lies beside the win rates, as tables: sizes, joint wins, looks, strengths, agreement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.leaderboard.standings import Panel, Row, Section, Strength
from bench.lib.escaping import printable
from bench.report import words
from bench.statistics.crossed import Interval
from bench.statistics.effects import Effect


@dataclass(frozen=True, kw_only=True)
class Table:
    """A plain table: every text is shown as it is."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def panels(section: Section, names: Mapping[tuple[str, str], str]) -> Iterator[Table]:
    """How much, and at what price: one table of sizes, one of all else that is known."""
    rows = [(names[row.key], row, row.panel) for row in section.rows if row.panel]
    sized = [scorer for scorer in section.scorers if any(_has(p, scorer) for *_, p in rows)]
    if sized:
        yield Table(
            title="How much",
            note="Mean difference to the base in standard deviations of the base's scores, with "
            "its 95% interval. A win rate says how often, this says by how much.",
            headings=("method", *map(printable, sized)),
            rows=tuple(
                (name, *(_size(panel.effects.get(scorer)) for scorer in sized))
                for name, _, panel in rows
            ),
        )
    strengths = {(s.method, s.variant): s for s in section.strengths}
    joints = [panel.joint for *_, panel in rows]
    columns = [
        ("worst scorer (sd)", [_worst(panel) for *_, panel in rows]),
        ("dominates", [_share(joint.dominating if joint else None) for joint in joints]),
        ("dominated", [_share(joint.dominated if joint else None) for joint in joints]),
        ("strength", [_strength(strengths.get(row.key)) for _, row, _ in rows]),
        ("diversity", [_ratio(panel) for *_, panel in rows]),
        *((f"{fact} (sd)", [_size(p.drift.get(fact)) for *_, p in rows]) for fact in _looks(rows)),
        ("at equal looks", [_equal_looks(panel) for *_, panel in rows]),
        ("weights moved", [_moved(panel) for *_, panel in rows]),
        ("beware", [printable("; ".join(panel.marks)) or words.GAP for *_, panel in rows]),
    ]
    known = [(head, cells) for head, cells in columns if any(cell != words.GAP for cell in cells)]
    methods = [name for name, *_ in rows]
    if known:
        yield Table(
            title="At what price",
            note="Dominates, dominated: share of prompts where every scorer finds the image at "
            "least as good as the base's and one better, and the reverse. Strength: log-odds "
            "against the base, ± their standard error, each scorer weighed by how well it tells "
            "methods apart. Diversity: of the images of a prompt, 1 is the base's. Saturation to "
            "clipping: drift of the pixels. At equal looks: the win rate where these are the "
            "base's. Weights moved: distance from the start's over their norm.",
            headings=("method", *(head for head, _ in known)),
            rows=tuple(zip(methods, *(cells for _, cells in known), strict=True)),
        )


def agreement(section: Section) -> Table | None:
    """How alike the scorers see what methods change."""
    if section.agreement is None or len(section.agreement.correlation.scorers) < 2:
        return None
    found = section.agreement.correlation
    scorers = tuple(map(printable, found.scorers))
    warned = "".join(f" {printable(warning)}." for warning in section.agreement.warnings)
    return Table(
        title="Scorer agreement",
        note="Rank correlation of the differences to the base, over prompts. By how they agree, "
        f"these {len(scorers)} scorers are worth {found.effective:.1f} independent ones.{warned}",
        headings=("scorer", *scorers),
        rows=tuple(
            (
                name,
                *(words.GAP if value is None else f"{words.rounded(value):.2f}" for value in line),
            )
            for name, line in zip(scorers, found.spearman, strict=True)
        ),
    )


_Rows = Sequence[tuple[str, Row, Panel]]


def _looks(rows: _Rows) -> list[str]:
    return list(dict.fromkeys(fact for *_, panel in rows for fact in panel.drift))


def _has(panel: Panel, scorer: str) -> bool:
    effect = panel.effects.get(scorer)
    return effect is not None and effect.mean is not None


def _size(effect: Effect | None) -> str:
    return words.GAP if effect is None or effect.mean is None else _between(effect.mean, "+.2f")


def _between(interval: Interval, form: str, scale: float = 1.0) -> str:
    value = f"{scale * words.rounded(interval.estimate):{form}}"
    if interval.low is None or interval.high is None:
        return value
    low, high = (scale * words.rounded(end) for end in (interval.low, interval.high))
    return f"{value} [{low:{form}}, {high:{form}}]"


def _worst(panel: Panel) -> str:
    effect = panel.effects[panel.worst_scorer] if panel.worst_scorer else None
    if effect is None or effect.mean is None or panel.worst_scorer is None:
        return words.GAP
    return f"{printable(panel.worst_scorer)} {words.rounded(effect.mean.estimate):+.2f}"


def _share(interval: Interval | None) -> str:
    return words.GAP if interval is None else f"{words.percent(interval.estimate)}%"


def _strength(strength: Strength | None) -> str:
    if strength is None:
        return words.GAP
    error = strength.standard_error
    spread = "" if error is None else f" ± {words.rounded(error):.2f}"
    return f"{words.rounded(strength.log_odds):+.2f}{spread}"


def _ratio(panel: Panel) -> str:
    return _between(panel.diversity.ratio, ".2f") if panel.diversity else words.GAP


def _equal_looks(panel: Panel) -> str:
    if panel.adjusted is None:
        return words.GAP
    if not panel.adjusted.supported:
        return "no such pairs"
    return _between(panel.adjusted.rate, ".1f", 100)


def _moved(panel: Panel) -> str:
    distance = panel.weight_distance
    return words.GAP if distance is None else f"{words.rounded(distance):.2g}"
