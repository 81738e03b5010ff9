"""The leaderboard's tables: markdown for reading, CSV for git, JSON for machines, a console table.

Rendering is a function of the standings alone, and those of the result files alone, so that a
committed board can be regenerated, and checked, byte for byte.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.leaderboard.comparing import build
from bench.leaderboard.fitted import Column, Fitted
from bench.leaderboard.names import wrapped
from bench.leaderboard.results import Budget, Cost, write_text
from bench.leaderboard.run_folder import MARK, RunFolder
from bench.leaderboard.standings import HELD_OUT, HeadToHead, Row, Section, Tables
from bench.lib import escaping
from bench.lib.canonical_json import to_json
from bench.lib.errors import BenchError
from bench.statistics.model import LEVEL, WinRate
from bench.statistics.ranking import FAMILY

if TYPE_CHECKING:
    from rich.console import Group

COMMON = "common"
"""Stands for the mean over `Section.ranked_by` where a scorer's name is expected."""
_SHOWN_PAIRS = 66
"""Pairs of twelve methods; more are in `head_to_head.csv` alone."""
GAP = "–"
_WRITTEN_BY = "Written by `bench leaderboard build`"
_KEY = (
    f"Win rate against the base [{LEVEL:.0%} interval]; ties count one half. *: in-loop, the "
    "method reads this scorer."
)
_GENERAL_NOTES = (
    "A win rate is the share of prompts whose image a scorer rates strictly above the "
    "untouched backbone's for the same prompt and noise. Ties count 0.5; where there are any, "
    "their share is given (`leaderboard.csv` has the rate without ties too). Images of a prompt, "
    "and scorers of a mean, are averaged within the prompt; every prompt set weighs the same.",
    f"[low, high]: {LEVEL:.0%} interval of the method where it was trained with two seeds or "
    "more: over prompts (equal texts are one) and trainings, both random. With one seed it is "
    "of this checkpoint: over prompts alone, without rank and p, since another training may "
    "come out otherwise. docs/statistics.md has the model and how often it covers the truth.",
    "rank: the ranks that the comparisons of all pairs, base included, leave open; with 95% all "
    "of them hold at once. Rows that share a letter are not separated. Ranks and head-to-heads "
    "are over the scorers that are held out for every row.",
    "p: of this comparison with the base alone, from the model that makes its interval; behind it, "
    "in brackets, of all pairs together (max-t), by which rows are called separated. Means over a "
    "row's own held-out scorers, where these differ from row to row, rank nothing. Groups are "
    "descriptive.",
    "\\*: in-loop, the scorer's rewards labelled the method's training pairs, or the method "
    "reads the scorer otherwise.",
    "seconds: labelling and training, with encoding and inversion (mean over seeds). "
    "NFE: denoiser evaluations (number of function evaluations, one latent through the "
    "denoiser once), counted where the denoiser is asked: of training, inversion and "
    "references included, and of sampling all images, guidance and a method's own inference "
    "included. memory: peak of training.",
    "Scorers that share a backbone agree more than independent judges would.",
)


def write(board: Path) -> Tables:
    """Regenerate all tables of a board from its result files; returns what they show.

    Raises:
        BenchError: as `build`, or a README.md is there that is none of a board.
    """
    tables = build(board)
    write_files(board, render(tables))
    return tables


def write_files(board: Path, files: Mapping[str, str]) -> None:
    """Put what `render` gave into a board's folder.

    Raises:
        BenchError: a README.md is there that is none of a board.
    """
    if (board / MARK).exists():
        with RunFolder(board).held() as folder:
            folder.replace({name: text.encode("utf-8") for name, text in files.items()})
        return
    readme = board / "README.md"
    if readme.exists() and _WRITTEN_BY not in readme.read_text("utf-8", errors="replace"):
        raise BenchError(f"{readme} was not written by `bench leaderboard build`; move it away")
    for name, text in files.items():
        write_text(board / name, text)


def check(board: Path) -> None:
    """Raise `BenchError` if a committed table is not what the result files give, to the byte."""
    check_files(board, render(build(board)))


def check_files(board: Path, files: Mapping[str, str]) -> None:
    """Raise `BenchError` if a board's folder does not hold these files, to the byte."""
    stale = [
        name
        for name, text in files.items()
        if not (board / name).is_file() or (board / name).read_bytes() != text.encode("utf-8")
    ]
    if stale:
        raise BenchError(
            f"{board}: {', '.join(stale)} not as the result files give; "
            f"run `bench leaderboard build {board}`"
        )


@dataclasses.dataclass(frozen=True)
class About:
    """What a board says of itself, as lines of Markdown."""

    title: str = "Leaderboard"
    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()


def render(tables: Tables, about: About = About()) -> dict[str, str]:
    """The text of every file of a board that follows from its results."""
    return {
        "README.md": render_markdown(tables, about),
        "leaderboard.csv": render_csv(tables),
        "leaderboard.json": render_json(tables),
        "by_group.csv": render_groups_csv(tables),
        "head_to_head.csv": render_head_to_head_csv(tables),
    }


def render_markdown(tables: Tables, about: About = About()) -> str:
    """The board's README: a table for each protocol, then what it means."""
    lines = [f"# {about.title}", ""]
    lines += [f"{_WRITTEN_BY} from `results/`; do not edit by hand.", "", *about.opening]
    for section in tables.sections:
        lines += _markdown_section(section)
    lines += about.closing
    lines += ["## How to read this", "", *(f"- {note}" for note in _GENERAL_NOTES), ""]
    return "\n".join(lines)


def _markdown_section(section: Section) -> list[str]:
    columns = _columns(section, MARKDOWN)
    lines = [f"## {escaping.markdown(section.heading)}", "", MARKDOWN.text(section.answer), ""]
    lines += [*_markdown_table(columns), ""]
    if 0 < len(section.head_to_head) <= _SHOWN_PAIRS:
        matrix = _head_to_head_columns(section, MARKDOWN)
        lines += [f"Head to head: {_head_to_head_note(section)}", "", *_markdown_table(matrix), ""]
    if len(section.prompt_sets) > 1:
        sets = _prompt_set_columns(section)
        lines += ["Own held-out mean by prompt set:", "", *_markdown_table(sets), ""]
    return [*lines, *(f"- {note}" for note in _notes(section, MARKDOWN)), ""]


def _head_to_head_note(section: Section) -> str:
    tested = any(pair.adjusted_p is not None for pair in section.head_to_head)
    intervals = (
        "intervals and bold type hold for all pairs at once"
        if tested
        else f"each a {LEVEL:.0%} interval of these checkpoints"
    )
    return f"how often the row's image beats the column's; {intervals}."


def _head_to_head_columns(section: Section, style: _Style) -> Iterator[Column]:
    """A matrix: the row's win rate over the column's method."""
    pairs = {}
    for pair in section.head_to_head:
        one, other = (pair.method, pair.variant), (pair.other, pair.other_variant)
        pairs[one, other] = pair
        pairs[other, one] = _turned(pair)
    rows = [row for row in section.rows if row.seeds]
    yield "", [_method_name(row, style) for row in rows]
    for column in rows:
        of = [
            pairs.get(((row.method, row.variant), (column.method, column.variant))) for row in rows
        ]
        yield _method_name(column, style), [_duel(pair) for pair in of]


def _turned(pair: HeadToHead) -> HeadToHead:
    """The same pair, said of the other."""
    rate = pair.rate
    turned = dataclasses.replace(
        rate,
        win_rate=1 - rate.win_rate,
        low=1 - rate.high,
        high=1 - rate.low,
        centre=1 - rate.centre,
        seed_rates=tuple(1 - value for value in rate.seed_rates),
        wins=rate.losses,
        losses=rate.wins,
    )
    return HeadToHead(
        method=pair.other,
        variant=pair.other_variant,
        other=pair.method,
        other_variant=pair.variant,
        rate=turned,
        adjusted_p=pair.adjusted_p,
    )


def _duel(pair: HeadToHead | None) -> str:
    if pair is None:
        return GAP
    text = _in_line(pair.rate, in_loop=False)
    return f"**{text}**" if pair.separated else text


def _markdown_table(columns: Iterable[Column]) -> list[str]:
    header, cells = zip(*columns, strict=True)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *zip(*cells, strict=True))]


@dataclasses.dataclass(frozen=True)
class _Style:
    """How a form of the table writes names that people chose, and win rates."""

    text: Callable[[str], str]
    code: Callable[[str], str]
    rate: Callable[[WinRate, bool], str]
    """A win rate; True: of a scorer that is in-loop."""
    own_mean: bool
    """Whether the mean over a row's own held-out scorers stands beside the common ones."""


def _columns(section: Section, style: _Style) -> Iterator[Column]:
    """The table of a section: methods, win rates and costs."""
    rows = section.rows
    yield "method", [_method_name(row, style) for row in rows]
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


def _prompt_set_columns(section: Section) -> Iterator[Column]:
    """The table of a section's held-out means by prompt set."""
    rates = {
        (row.method, row.variant, row.prompt_set): row.result
        for row in section.groups
        if row.scorer == HELD_OUT and not row.dimension
    }
    yield "method", [_method_name(row, MARKDOWN) for row in section.rows]
    for name, n in section.prompt_sets.items():
        of = ((row, rates.get((row.method, row.variant, name))) for row in section.rows)
        yield f"{escaping.markdown(name)} (n={n})", [_rate(*each, MARKDOWN) for each in of]


def _rate(row: Row, rate: WinRate | None, style: _Style, scorer: str = "") -> str:
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


MARKDOWN = _Style(escaping.markdown, escaping.code, _in_line, own_mean=True)
PLAIN = _Style(escaping.printable, escaping.printable, _stacked, own_mean=False)


def _notes(section: Section, style: _Style) -> list[str]:
    """What holds for this section alone: prompts, budgets, seeds, gaps."""
    text = style.text
    distinct = section.distinct_prompts
    sets = ", ".join(f"{text(name)} ({n})" for name, n in section.prompt_sets.items())
    notes = [f"Recipe: {text(', '.join(section.recipes))}."]
    if section.backbone not in section.heading:
        notes.append(f"Start model: {style.code(section.backbone)}.")
    if section.differs:
        notes.append(
            "Methods are ranked only with those of the same protocol; this section's differs from "
            f"that of others here: {text(section.differs)}."
        )
    notes.append(
        f"n = {sum(section.prompt_sets.values())} prompts ({distinct} distinct), "
        f"{section.images_per_prompt} image(s) each: {sets}."
    )
    if section.best_of_many is not None:
        notes.append(
            f"If no method differed from the base, the best of them would still show "
            f"{100 * section.best_of_many:.1f}% on average."
        )
    done = [row for row in section.rows if row.seeds]
    notes += _by_value("Budget", done, _budget, style)
    notes += _by_value("Train seeds", done, lambda row: ", ".join(map(str, row.seeds)), style)
    notes += _seed_rates(done, style)
    notes += _by_value(
        "Own held-out scorers",
        done,
        lambda row: text(", ".join(row.held_out_scorers) or "none"),
        style,
    )
    if declared := text(", ".join(section.declared_held_out)):
        notes.append(f"†: declared held out ({declared}), never used to label.")
    for key in sorted({key for row in section.rows for key in row.provenance}):
        made_with = partial(_made_with, key)
        made = [row for row in section.rows if made_with(row)]
        if len(set(map(made_with, made))) > 1:
            notes += _by_value(f"Not all made alike, {key}", made, made_with, style)
    notes += [f"{text(sentence)}." for sentence in section.variants]
    notes += [
        f"{style.code(row.shown)} is {style.code(row.method)}."
        for row in section.rows
        if not row.shown.startswith(row.method)
    ]
    for row in section.rows:
        gaps = list(row.failures)
        if missing := [s for s in section.scorers if row.seeds and s not in row.scores]:
            every = "every image of it or of the base"
            gaps.insert(0, f"{', '.join(missing)} did not score {every}")
        notes += [f"{GAP} {_method_name(row, style)}: {text(gap)}." for gap in gaps]
    return notes


def _seed_rates(rows: Sequence[Row], style: _Style) -> list[str]:
    """Each training's rate: with few of them, nothing sums them up."""
    several = [row for row in rows if row.common and len(row.seeds) > 1]
    if not several:
        return []
    each = "; ".join(
        f"{_method_name(row, style)} "
        f"{', '.join(f'{100 * rate:.1f}' for rate in row.common.seed_rates)}"
        for row in several
        if row.common
    )
    spread = several[0].common
    pooled = spread is not None and spread.pooled
    sd = (
        f"{100 * (spread.seed_sd or 0.0):.1f} points, pooled"
        if pooled and spread
        else ", ".join(f"{100 * (row.common.seed_sd or 0.0):.1f}" for row in several if row.common)
    )
    return [f"Of each train seed, in %: {each}. Standard deviation between trainings: {sd}."]


def _made_with(key: str, row: Row) -> str:
    """The devices, or the versions of a library, that the seeds of a row were made with."""
    # Two GPUs of a machine are alike.
    return ", ".join(sorted({text.split(":")[0] for text in row.provenance.get(key, ())}))


def _by_value(
    what: str, rows: Sequence[Row], value: Callable[[Row], str], style: _Style
) -> list[str]:
    """One note where all rows agree, else one naming the rows of each value."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        methods.setdefault(value(row), []).append(_method_name(row, style))
    if len(methods) == 1:
        return [f"{what}: {next(iter(methods))}."]
    return [f"{what}: {text} ({', '.join(names)})." for text, names in sorted(methods.items())]


def _budget(row: Row) -> str:
    budget = row.budget
    if budget is None:
        return "none"
    text = f"{budget.steps:,} steps, {budget.pairs_seen:,} pairs seen"
    return f"{text} of {budget.pairs_kept:,} kept and {budget.pairs_dropped:,} dropped"


def _method_name(row: Row, style: _Style) -> str:
    spec = style.code(row.shown)
    return f"{style.text(row.label)} {spec}" if row.label else spec


def _costs(row: Row) -> tuple[str, str, str, str]:
    """Seconds and evaluations of training, evaluations of sampling, memory of training."""
    if row.cost is None:
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


_RATE_FIELDS = (*(field.name for field in dataclasses.fields(WinRate)), "without_ties")


def _rate_fields(rate: WinRate | None) -> dict[str, Any]:
    """A win rate as plain fields; None throughout for a gap."""
    return {name: _rounded(getattr(rate, name)) if rate else None for name in _RATE_FIELDS}


_SECTION_FIELDS = [
    field.name
    for field in dataclasses.fields(Section)
    if field.name not in ("evaluation", "groups", "rows", "seed_rows", "head_to_head")
]


def _section_fields(section: Section) -> dict[str, str]:
    return {
        "protocol": section.protocol[:12],
        "backbone": section.backbone,
        "pairs": section.pairs,
    }


def _row_fields(row: Row) -> dict[str, Any]:
    """What a row says of its method: identity, budget, cost."""
    fields: dict[str, Any] = {
        "method": row.method,
        "variant": row.variant,
        "label": row.label,
        "base": row.base,
        "rank_best": row.rank_set[0] if row.rank_set else None,
        "rank_worst": row.rank_set[1] if row.rank_set else None,
        "letters": row.letters,
        "train_seeds": list(row.seeds),
        "failures": list(row.failures),
    }
    for kind, record in ((Budget, row.budget), (Cost, row.cost)):
        for field in dataclasses.fields(kind):
            fields[field.name] = _rounded(getattr(record, field.name)) if record else None
    return fields


def _rounded(value: Any) -> Any:
    # Six digits: finer than any interval, coarser than differences between platforms.
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def render_csv(tables: Tables) -> str:
    """One line a method, train seeds (all or one) and scorer; empty cells are gaps.

    The scorer "common" is the mean over those held out for every row, "held-out" that over the
    row's own.
    """
    return _csv(
        {
            **_section_fields(section),
            "over_seeds": over_seeds,
            "scorer": scorer,
            "in_loop": scorer in row.in_loop,
            **_rate_fields(rate),
            "adjusted_p": _rounded(row.adjusted_p) if scorer == COMMON else None,
            **_row_fields(row),
        }
        for section in tables.sections
        for over_seeds, rows in ((True, section.rows), (False, section.seed_rows))
        for row in rows
        for scorer, rate in _columns_of(section, row)
    )


def _columns_of(section: Section, row: Row) -> Iterator[tuple[str, WinRate | None]]:
    yield COMMON, row.common
    yield HELD_OUT, row.held_out
    for scorer in section.scorers:
        yield scorer, row.scores.get(scorer)


def render_head_to_head_csv(tables: Tables) -> str:
    """One line a pair: the method's win rate over the other, interval and p for all at once."""
    return _csv(
        {
            **_section_fields(section),
            **_pair_fields(pair),
            **_rate_fields(pair.rate),
        }
        for section in tables.sections
        for pair in section.head_to_head
    )


def _pair_fields(pair: HeadToHead) -> dict[str, Any]:
    return {
        "method": pair.method,
        "variant": pair.variant,
        "other": pair.other,
        "other_variant": pair.other_variant,
        "separated": pair.separated,
        "adjusted_p": _rounded(pair.adjusted_p),
    }


def render_groups_csv(tables: Tables) -> str:
    """One line a method, scorer and group of prompts; train seeds pooled."""
    return _csv(
        {
            **_section_fields(section),
            "method": row.method,
            "variant": row.variant,
            "prompt_set": row.prompt_set,
            "dimension": row.dimension,
            "group": row.group,
            "scorer": row.scorer,
            "in_loop": row.in_loop,
            **_rate_fields(row.result),
        }
        for section in tables.sections
        for row in section.groups
    )


def _csv(lines: Iterable[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    cells = [{key: _csv_cell(value) for key, value in line.items()} for line in lines]
    if cells:
        writer = csv.DictWriter(stream, list(cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    # Not every Python quotes a lone carriage return, which would then end the line.
    if isinstance(value, list):
        joint = " " if all(isinstance(item, int | float) for item in value) else "; "
        value = joint.join(map(str, value))
    text = value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value
    return escaping.csv_cell(text)


def render_json(tables: Tables) -> str:
    """The rows, pooled and by train seed, with how the intervals were made."""

    def rows(of: Iterable[Row]) -> list[dict[str, Any]]:
        return [
            {
                **_row_fields(row),
                "in_loop": list(row.in_loop),
                "held_out_scorers": list(row.held_out_scorers),
                "held_out": _rate_fields(row.held_out) if row.held_out else None,
                "common": _rate_fields(row.common) if row.common else None,
                "adjusted_p": _rounded(row.adjusted_p),
                "scores": {scorer: _rate_fields(rate) for scorer, rate in row.scores.items()},
            }
            for row in of
        ]

    return to_json(
        {
            "schema": 3,
            "interval": {
                "method": "two-way random effects, prompts by train seeds; Student's t",
                "level": LEVEL,
            },
            "family": {"method": "max-t over all pairs, base included", "level": FAMILY},
            "sections": [
                {
                    **{name: _rounded(getattr(section, name)) for name in _SECTION_FIELDS},
                    **_section_fields(section),
                    "rows": rows(section.rows),
                    "seed_rows": rows(section.seed_rows),
                    "head_to_head": [
                        {**_pair_fields(pair), **_rate_fields(pair.rate)}
                        for pair in section.head_to_head
                    ],
                }
                for section in tables.sections
            ],
        }
    )


def console_table(tables: Tables) -> Group:
    """The board for a terminal: a table for each protocol, and what must be known to read it."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Fitted | Text] = []
    for section in tables.sections:
        if len(tables.sections) > 1:
            parts.append(Text(escaping.printable(section.heading), style="bold"))
        parts.append(_console_section(section))
        parts.append(Text(f"{escaping.printable(section.answer)}\n", style="bold"))
        if not section.unranked_because and 0 < len(section.head_to_head) <= _SHOWN_PAIRS:
            parts.append(Text(f"Head to head: {_head_to_head_note(section)}"))
            names, *columns = _head_to_head_columns(section, PLAIN)
            parts.append(Fitted(names[1], columns))
        parts += [Text(f"- {note}") for note in _notes(section, PLAIN)]
    parts.append(Text(f"- {_KEY}"))
    return Group(*parts)


def _console_section(section: Section) -> Fitted:
    names = ["\n".join(wrapped(escaping.printable(row.label or row.shown))) for row in section.rows]
    _, *columns = _columns(section, PLAIN)
    return Fitted(names, columns)
