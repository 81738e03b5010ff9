"""The leaderboard's tables: markdown for reading, CSV for git, JSON for machines, a console table.

Rendering is a function of the standings alone, and those of the result files alone, so that a
committed board can be regenerated, and checked, byte for byte.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.leaderboard.names import LINE, wrapped
from bench.leaderboard.results import Budget, Cost, write_text
from bench.leaderboard.run_folder import MARK, RunFolder
from bench.leaderboard.standings import HELD_OUT, Row, Section, Tables, build
from bench.lib import escaping
from bench.lib.canonical_json import to_json
from bench.lib.errors import BenchError
from bench.statistics import intervals as statistics
from bench.statistics.intervals import WinRate

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group
    from rich.table import Table

GAP = "–"
_WRITTEN_BY = "Written by `bench leaderboard build`"
_KEY = "Win rate against the base [95%]; ties count one half. *: in-loop, not in the held-out mean."
_GENERAL_NOTES = (
    "A win rate is the share of prompts whose image a scorer rates strictly above the "
    "untouched backbone's for the same prompt and noise. Ties count 0.5; where there are any, "
    "their share is given (`leaderboard.csv` has the rate without ties too).",
    f"[low, high]: {statistics.LEVEL:.0%} percentile bootstrap, {statistics.DRAWS:,} draws "
    f"with seed {statistics.SEED}, resampling prompts, equal texts together, and, with several "
    "train seeds, seeds as a crossed second level (two or three seeds show less than "
    "their true spread). Where every prompt came out alike, the exact Clopper-Pearson bound.",
    "\\*: in-loop, the scorer's rewards labelled the method's training pairs, or the method "
    "reads the scorer otherwise; kept out of its held-out mean.",
    "p: exact two-sided sign test of the held-out outcomes over distinct prompts, given "
    "these train seeds; not adjusted for the number of methods.",
    "seconds: labelling and training, with encoding and inversion (mean over seeds). "
    "NFE: denoiser evaluations (number of function evaluations, one latent through the "
    "denoiser once), counted where the denoiser is asked: of training, inversion and "
    "references included, and of sampling all images, guidance and a method's own inference "
    "included. memory: peak of training.",
    "Rows are compared with the base, not with each other. Scorers that share a backbone "
    "agree more than independent judges would.",
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
    lines = [f"## {escaping.markdown(section.heading)}", "", *_markdown_table(columns), ""]
    if len(section.prompt_sets) > 1:
        sets = _prompt_set_columns(section)
        lines += ["Held-out mean by prompt set:", "", *_markdown_table(sets), ""]
    return [*lines, *(f"- {note}" for note in _notes(section, MARKDOWN)), ""]


def _markdown_table(columns: Iterable[_Column]) -> list[str]:
    header, cells = zip(*columns, strict=True)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *zip(*cells, strict=True))]


_Column: TypeAlias = tuple[str, Sequence[str]]
"""A heading, and what stands under it for each row."""


@dataclasses.dataclass(frozen=True)
class _Style:
    """How a form of the table writes names that people chose, and win rates."""

    text: Callable[[str], str]
    code: Callable[[str], str]
    rate: Callable[[WinRate, bool], str]
    """A win rate; True: of a scorer that is in-loop."""
    beside: tuple[str, Callable[[Row], str]]
    """The column beside the held-out mean."""


def _columns(section: Section, style: _Style) -> Iterator[_Column]:
    """The table of a section: methods, win rates and costs."""
    rows = section.rows
    yield "method", [_method_name(row, style) for row in rows]
    for scorer in section.scorers:
        heading = (
            f"{style.text(scorer)} †" if scorer in section.declared_held_out else style.text(scorer)
        )
        yield heading, [_rate(row, row.scores.get(scorer), style, scorer) for row in rows]
    yield "held-out mean", [_rate(row, row.held_out, style) for row in rows]
    heading, value = style.beside
    yield heading, [value(row) for row in rows]
    headings = ("seconds", "train NFE", "sample NFE", "memory (MB)")
    yield from zip(headings, zip(*map(_costs, rows), strict=True), strict=True)


def _prompt_set_columns(section: Section) -> Iterator[_Column]:
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
    return f"{row.held_out.p_value:.2g}" if row.held_out else GAP


def _tie_share(row: Row) -> str:
    """Over all scorers of a row."""
    comparisons = sum(rate.comparisons for rate in row.scores.values())
    ties = sum(rate.ties for rate in row.scores.values())
    return f"{100 * ties / comparisons:.1f}%" if comparisons else GAP


MARKDOWN = _Style(escaping.markdown, escaping.code, _in_line, ("p", _p_value))
PLAIN = _Style(escaping.printable, escaping.printable, _stacked, ("ties", _tie_share))


def _notes(section: Section, style: _Style) -> list[str]:
    """What holds for this section alone: prompts, budgets, seeds, gaps."""
    text = style.text
    distinct = section.distinct_prompts
    sets = ", ".join(f"{text(name)} ({n})" for name, n in section.prompt_sets.items())
    effect = section.minimum_detectable_effect
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
        f"{section.images_per_prompt} image(s) each: {sets}. With so many, a true win rate within "
        f"{100 * effect:.1f} points of 50% is found less than 80% of the time (two-sided 5% test)."
    )
    done = [row for row in section.rows if row.seeds]
    notes += _by_value("Budget", done, _budget, style)
    notes += _by_value("Train seeds", done, lambda row: ", ".join(map(str, row.seeds)), style)
    notes += _by_value(
        "Held-out mean over",
        done,
        lambda row: text(", ".join(row.held_out_scorers) or "no scorer"),
        style,
    )
    if len({row.held_out_scorers for row in done}) > 1:
        common = text(", ".join(sorted(set.intersection(*(set(r.held_out_scorers) for r in done)))))
        notes.append(
            "The held-out means are over different scorers; compare those methods through "
            + (f"{common}, in-loop for none." if common else "single columns only.")
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
    if field.name not in ("evaluation", "groups")
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
        "train_seeds": list(row.seeds),
        "failures": list(row.failures),
    }
    for kind, record in ((Budget, row.budget), (Cost, row.cost)):
        for field in dataclasses.fields(kind):
            fields[field.name] = _rounded(getattr(record, field.name)) if record else None
    return fields


def _rounded(value: Any) -> Any:
    # Six digits: finer than any interval, coarser than differences between platforms.
    return float(f"{value:.6g}") if isinstance(value, float) else value


def render_csv(tables: Tables) -> str:
    """One line a method, train seeds ("all" or one) and scorer; empty cells are gaps."""
    return _csv(
        {
            **_section_fields(section),
            "pooled": pooled,
            "rank": rank if pooled else None,
            "scorer": scorer,
            "in_loop": scorer in row.in_loop,
            **_rate_fields(row.held_out if scorer == HELD_OUT else row.scores.get(scorer)),
            **_row_fields(row),
            "train_seeds": " ".join(map(str, row.seeds)),
            "failures": "; ".join(row.failures),
        }
        for section in tables.sections
        for pooled, rows in ((True, section.rows), (False, section.seed_rows))
        for rank, row in enumerate(rows, start=1)
        for scorer in (*section.scorers, HELD_OUT)
    )


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
                "scores": {scorer: _rate_fields(rate) for scorer, rate in row.scores.items()},
            }
            for row in of
        ]

    return to_json(
        {
            "schema": 2,
            "interval": {
                "method": "percentile bootstrap over prompts, crossed with train seeds",
                "level": statistics.LEVEL,
                "draws": statistics.DRAWS,
                "seed": statistics.SEED,
            },
            "sections": [
                {
                    **{name: _rounded(getattr(section, name)) for name in _SECTION_FIELDS},
                    **_section_fields(section),
                    "rows": rows(section.rows),
                    "seed_rows": rows(section.seed_rows),
                }
                for section in tables.sections
            ],
        }
    )


def console_table(tables: Tables) -> Group:
    """The board for a terminal: a table for each protocol, and what must be known to read it."""
    from rich.console import Group
    from rich.text import Text

    parts: list[_Fitted | Text] = []
    for section in tables.sections:
        if len(tables.sections) > 1:
            parts.append(Text(escaping.printable(section.heading), style="bold"))
        parts.append(_console_section(section))
        parts += [Text(f"- {note}") for note in _notes(section, PLAIN)]
    parts.append(Text(f"- {_KEY}"))
    return Group(*parts)


def _console_section(section: Section) -> _Fitted:
    names = ["\n".join(wrapped(escaping.printable(row.label or row.shown))) for row in section.rows]
    _, *columns = _columns(section, PLAIN)
    return _Fitted(names, columns)


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """Columns beside the methods' names, in as many tables as the terminal's width asks for.

    A figure that is cut off at the edge would be another figure.
    """

    names: Sequence[str]
    columns: Sequence[_Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        unbounded = options.update(max_width=10_000)
        columns = list(self.columns)

        def fits(count: int) -> bool:
            table = self._table(columns[:count])
            return console.measure(table, options=unbounded).minimum <= options.max_width

        while columns:
            count = next((n for n in range(len(columns), 1, -1) if fits(n)), 1)
            yield self._table(columns[:count])
            del columns[:count]

    def _table(self, columns: Sequence[_Column]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        def widest(texts: Iterable[str]) -> int:
            return max(len(line) for text in texts for line in text.split("\n"))

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", overflow="fold", min_width=min(widest(self.names), LINE))
        for heading, cells in columns:
            # They may break at underscores, so that win rates keep their line; broken here, as
            # rich narrows a neighbour below its figures before it breaks a heading.
            words = heading.replace("_", "_ ")
            width = widest((*cells, *words.split()))
            title = Text("\n".join(textwrap.wrap(words, width)))
            table.add_column(title, justify="right", min_width=width, overflow="fold")
        for line in zip(self.names, *(cells for _, cells in columns), strict=True):
            table.add_row(*map(Text, line))
        return table
