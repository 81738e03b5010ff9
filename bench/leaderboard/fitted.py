"""Tables that fit a terminal of any width: beside the names, as many columns as there is room."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bench.leaderboard.names import LINE

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table

Column: TypeAlias = tuple[str, Sequence[str]]
"""A heading, and what stands under it for each row."""


@dataclass(frozen=True)
class Fitted:
    """Columns beside the rows' names, in as many tables as the terminal's width asks for.

    A figure that is cut off at the edge would be another figure.
    """

    names: Sequence[str]
    columns: Sequence[Column]
    heading: str = "method"
    """Of the names."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """As rich asks for it."""
        unbounded = options.update(max_width=10_000)
        columns = list(self.columns)

        def fits(count: int) -> bool:
            table = self._table(columns[:count])
            return console.measure(table, options=unbounded).minimum <= options.max_width

        while columns:
            count = next((n for n in range(len(columns), 1, -1) if fits(n)), 1)
            yield self._table(columns[:count])
            del columns[:count]

    def _table(self, columns: Sequence[Column]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        def widest(texts: Iterable[str]) -> int:
            return max(len(line) for text in texts for line in text.split("\n"))

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(
            Text(self.heading), overflow="fold", min_width=min(widest(self.names), LINE)
        )
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
