"""Parts of a board for a terminal: win rates by group of prompts, and every pair of methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from bench.leaderboard.fitted import Column, Fitted
from bench.leaderboard.names import wrapped
from bench.leaderboard.standings import HELD_OUT, GroupRow, Section, names_of_rows
from bench.lib.errors import UnknownNameError
from bench.lib.escaping import printable
from bench.lib.wording import listed

if TYPE_CHECKING:
    from rich.console import Group

FEW = 50
"""Prompts of a group below which its win rates only describe."""
_GAP = "–"


class Rate(Protocol):
    """What is printed of a win rate."""

    @property
    def win_rate(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


Matrix: TypeAlias = Mapping[tuple[str, str], Rate]
"""(row, column) -> how often the row wins over the column."""


@dataclass(frozen=True)
class Turned:
    """The win rate of the other side: as often as one does not win, the other does."""

    of: Rate

    @property
    def win_rate(self) -> float:
        """Of the other."""
        return 1 - self.of.win_rate

    @property
    def low(self) -> float:
        """Of the other."""
        return 1 - self.of.high

    @property
    def high(self) -> float:
        """Of the other."""
        return 1 - self.of.low


def matrix(rates: Matrix, names: Sequence[str]) -> Fitted:
    """How often the method of a row wins over that of a column, with its interval."""
    columns: list[Column] = [
        (printable(other), [_cell(rates, name, other) for name in names]) for other in names
    ]
    return Fitted([_name(name) for name in names], columns, "wins of ... over")


def _cell(rates: Matrix, name: str, other: str) -> str:
    if name == other:
        return ""
    if (rate := rates.get((name, other))) is not None:
        return _rate(rate)
    back = rates.get((other, name))
    return _rate(Turned(back)) if back is not None else _GAP


def by_group(section: Section, scorer: str | None = None) -> Group:
    """A table for each dimension of each prompt set: a row a group, a column a method.

    Args:
        section: of a board.
        scorer: whose win rates; None: the mean over scorers that are held out.

    Raises:
        UnknownNameError: the section has no such scorer.
    """
    from rich.console import Group
    from rich.text import Text

    if scorer is not None and scorer not in section.scorers:
        raise UnknownNameError("scorer", scorer, section.scorers)
    parts: list[Text | Fitted] = []
    for (prompt_set, dimension), rows in _dimensions(section, scorer or HELD_OUT).items():
        what = f"{prompt_set} by {dimension}" if dimension else prompt_set
        parts.append(Text(f"{printable(what)}: {scorer or 'held-out mean'}", style="bold"))
        parts.append(_group_table(section, rows))
        few = [name for name, n in _counts(rows).items() if n < FEW]
        if few and dimension:
            parts.append(Text(f"- Under {FEW} prompts, so no more than described: {listed(few)}."))
    if not parts:
        parts.append(Text("No prompt is in a group."))
    return Group(*parts)


def _dimensions(section: Section, scorer: str) -> dict[tuple[str, str], list[GroupRow]]:
    found: dict[tuple[str, str], list[GroupRow]] = {}
    for row in section.groups:
        if row.scorer == scorer:
            found.setdefault((row.prompt_set, row.dimension), []).append(row)
    return dict(sorted(found.items()))


def _counts(rows: Sequence[GroupRow]) -> dict[str, int]:
    return {row.group or "all": row.result.prompts for row in rows}


def _group_table(section: Section, rows: Sequence[GroupRow]) -> Fitted:
    rates = {(row.method, row.variant, row.group or "all"): row.result for row in rows}
    counts = _counts(rows)
    names = names_of_rows(section.rows)

    def columns() -> Iterator[Column]:
        yield "prompts", [f"{n:,}" for n in counts.values()]
        for row in section.rows:
            if not row.base:
                found = (rates.get((row.method, row.variant, group)) for group in counts)
                yield names[row.key], [_rate(r) if r else _GAP for r in found]

    return Fitted([_name(group) for group in counts], list(columns()), "group")


def _rate(rate: Rate) -> str:
    return f"{100 * rate.win_rate:.1f}%\n[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def _name(text: str) -> str:
    return "\n".join(wrapped(printable(text)))
