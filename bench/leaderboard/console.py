"""A board for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.leaderboard.columns import (
    PLAIN,
    SHOWN_PAIRS,
    columns,
    head_to_head_columns,
    head_to_head_note,
)
from bench.leaderboard.fitted import Fitted
from bench.leaderboard.names import wrapped
from bench.leaderboard.notes import KEY, section_notes
from bench.leaderboard.standings import Section, Tables, names_of_rows
from bench.lib import escaping

if TYPE_CHECKING:
    from rich.console import Group


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
        if not section.unranked_because and 0 < len(section.head_to_head) <= SHOWN_PAIRS:
            parts.append(Text(f"Head to head: {head_to_head_note(section)}"))
            (_, names), *duels = head_to_head_columns(section, PLAIN)
            parts.append(Fitted(names, duels, "wins of ... over"))
        parts += [Text(f"- {note}") for note in section_notes(section, PLAIN)]
    parts.append(Text(f"- {KEY}"))
    return Group(*parts)


def _console_section(section: Section) -> Fitted:
    called = names_of_rows(section.rows)
    names = ["\n".join(wrapped(escaping.printable(called[row.key]))) for row in section.rows]
    _, *figures = columns(section, PLAIN)
    return Fitted(names, figures)
