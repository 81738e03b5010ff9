"""A board's README."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bench.leaderboard.columns import (
    MARKDOWN,
    SHOWN_PAIRS,
    columns,
    head_to_head_columns,
    head_to_head_note,
    panel_columns,
    prompt_set_columns,
)
from bench.leaderboard.fitted import Column
from bench.leaderboard.notes import GENERAL, section_notes
from bench.leaderboard.standings import Section, Tables
from bench.lib import escaping

WRITTEN_BY = "Written by `bench leaderboard build`"


@dataclasses.dataclass(frozen=True)
class About:
    """What a board says of itself, as lines of Markdown."""

    title: str = "Leaderboard"
    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()


PLAINLY = About()
"""A board that says nothing of itself."""


def render_markdown(tables: Tables, about: About = PLAINLY) -> str:
    """The board's README: a table for each protocol, then what it means."""
    lines = [f"# {about.title}", ""]
    lines += [f"{WRITTEN_BY} from `results/`; do not edit by hand.", "", *about.opening]
    for section in tables.sections:
        lines += _markdown_section(section)
    lines += about.closing
    lines += ["## How to read this", "", *(f"- {note}" for note in GENERAL), ""]
    return "\n".join(lines)


def _markdown_section(section: Section) -> list[str]:
    figures = columns(section, MARKDOWN)
    lines = [f"## {escaping.markdown(section.heading)}", "", MARKDOWN.text(section.answer), ""]
    lines += [*_markdown_table(figures), ""]
    if 0 < len(section.head_to_head) <= SHOWN_PAIRS:
        matrix = head_to_head_columns(section, MARKDOWN)
        lines += [f"Head to head: {head_to_head_note(section)}", "", *_markdown_table(matrix), ""]
    if len(section.prompt_sets) > 1:
        sets = prompt_set_columns(section)
        lines += ["Own held-out mean by prompt set:", "", *_markdown_table(sets), ""]
    (_, names), *beside = panel_columns(section)
    if beside:
        table = _markdown_table([("method", names), *beside])
        lines += ["Beside the win rates (see below):", "", *table, ""]
    return [*lines, *(f"- {note}" for note in section_notes(section, MARKDOWN)), ""]


def _markdown_table(columns: Iterable[Column]) -> list[str]:
    header, cells = zip(*columns, strict=True)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *zip(*cells, strict=True))]
