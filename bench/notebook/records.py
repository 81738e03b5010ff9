"""What `bench.run`, `bench.compare` and `bench.load` give: records with pandas frames."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from bench.comparison.comparing import Pair
    from bench.leaderboard.opening import Opened
    from bench.leaderboard.standings import Row, Section
    from bench.statistics.model import WinRate


@dataclass(frozen=True, kw_only=True)
class Board:
    """Results of one folder: which method is better, by how much, at what cost.

    A notebook shows it as its answer and leaderboard.
    """

    folder: Path
    """Holds its result files, tables and pictures."""
    opened: Opened = field(repr=False, compare=False)
    """Its result files; private."""

    @property
    def answer(self) -> str:
        """Which method is better, in a sentence or two; of several protocols, one after another."""
        return " ".join(section.answer for section in self._sections)

    @property
    def methods(self) -> tuple[str, ...]:
        """Specs of the methods, the base's aside, best first."""
        rows = [row for section in self._sections for row in section.rows if not row.base]
        return tuple(dict.fromkeys(row.method for row in rows))

    @property
    def failures(self) -> tuple[str, ...]:
        """Why cells are missing, a sentence each."""
        rows = [row for section in self._sections for row in section.rows]
        return tuple(f"{row.method}: {reason}" for row in rows for reason in row.failures)

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """A row a method, the base among them, best first in each section.

        Columns: section, method, label, base, rank_best and rank_worst (None: not ranked), letters
        (rows that share one are not separated), estimand ("method" or "checkpoint"), train_seeds;
        win_rate, low, high and p_value against the base, in [0, 1], over the scorers that are held
        out for every method, and adjusted_p among all pairs; for each scorer its win rate, and its
        interval as `<scorer>.low` and `<scorer>.high`; seconds, train_nfe, sample_nfe,
        peak_memory_mb.
        """
        import pandas as pd

        lines = [_line(section, row) for section in self._sections for row in section.rows]
        return pd.DataFrame(lines)

    @cached_property
    def head_to_head(self) -> pd.DataFrame:
        """A row a pair of methods: win rate of `method` over `other`, and whether it is separated.

        Columns: section, method, other, win_rate, low, high, adjusted_p, separated. The intervals
        of methods of two train seeds or more hold for all pairs of a section at once.
        """
        import pandas as pd

        columns = ["section", "method", "other", *_RATE, "adjusted_p", "separated"]
        lines = [
            {
                "section": section.heading,
                "method": pair.method,
                "other": pair.other,
                **_rate(pair.rate),
                "adjusted_p": pair.adjusted_p,
                "separated": pair.separated,
            }
            for section in self._sections
            for pair in section.head_to_head
        ]
        return pd.DataFrame(lines, columns=columns)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """A row a method, scorer and group of prompts; descriptive.

        Columns: section, method, prompt_set, dimension ('' for the whole set), group, scorer,
        in_loop, prompts, win_rate, low, high.
        """
        import pandas as pd

        columns = ["section", "method", "prompt_set", "dimension", "group", "scorer", "in_loop"]
        lines = [
            {
                "section": section.heading,
                **{name: getattr(row, name) for name in columns[1:]},
                "prompts": row.result.prompts,
                **_rate(row.result),
            }
            for section in self._sections
            for row in section.groups
        ]
        return pd.DataFrame(lines, columns=[*columns, "prompts", *_RATE])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row an image and scorer.

        Columns: method, label, base, train_seed, prompt_set, prompt_row, image_seed, scorer,
        in_loop, prompt, `group.<dimension>`, score, image (below the store; '' if not known),
        protocol, cell.
        """
        from bench.outputs.score_table import score_table

        return score_table(self.opened.cells, self.opened.prompts)

    @property
    def _sections(self) -> tuple[Section, ...]:
        return self.opened.tables.sections

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        return f"<p>{html.escape(self.answer)}</p>{_short(self.leaderboard).to_html(index=False)}"


@dataclass(frozen=True, kw_only=True)
class RunResult(Board):
    """What a run has left in its folder, earlier runs there included."""

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Folders of the trained weights, with their model cards."""
        return tuple(sorted(p.parent for p in self.folder.glob("checkpoints/*/README.md")))

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML."""
        return (self.folder / "recipe.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Comparison(Board):
    """Images of several origins over the same prompts: win rates of these images alone."""

    base: str
    """Against which `leaderboard` is."""
    scorers: tuple[str, ...]
    """Over which pairs are compared."""
    notes: tuple[str, ...]
    """What was left out, and what is not known."""
    pairs: tuple[Pair, ...] = field(repr=False, compare=False)
    """Every pair; private."""

    @cached_property
    def head_to_head(self) -> pd.DataFrame:
        """A row a pair, the base's too: how often `method` wins over `other`.

        Columns: method, other, win_rate, low, high, prompts. Intervals are over prompts and hold
        for all pairs at once.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "method": pair.name,
                "other": pair.other,
                **_rate(pair.rate),
                "prompts": pair.rate.prompts,
            }
            for pair in self.pairs
        )


_RATE = ("win_rate", "low", "high")


def _rate(rate: WinRate | None, prefix: str = "") -> dict[str, float | None]:
    return {f"{prefix}{name}": getattr(rate, name) if rate else None for name in _RATE}


def _line(section: Section, row: Row) -> dict[str, Any]:
    """A row of the leaderboard."""
    best, worst = row.rank_set or (None, None)
    line: dict[str, Any] = {
        "section": section.heading,
        "method": row.method,
        "label": row.label,
        "base": row.base,
        "rank_best": best,
        "rank_worst": worst,
        "letters": row.letters,
        "estimand": str(row.estimand) if row.estimand else "",
        "train_seeds": len(row.seeds),
        **_rate(row.common),
        "p_value": row.common.p_value if row.common else None,
        "adjusted_p": row.adjusted_p,
    }
    for scorer in section.scorers:
        rate = row.scores.get(scorer)
        line |= {scorer: rate.win_rate if rate else None}
        line |= {f"{scorer}.low": rate.low if rate else None}
        line |= {f"{scorer}.high": rate.high if rate else None}
    return line | dict(_costs(row))


def _costs(row: Row) -> Iterator[tuple[str, float | None]]:
    cost = row.cost
    yield "seconds", cost.label_seconds + cost.train_seconds if cost else None
    for name in ("train_nfe", "sample_nfe", "peak_memory_mb"):
        yield name, getattr(cost, name) if cost else None


def _short(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a reader needs first."""
    wanted = ("method", "rank_best", "rank_worst", *_RATE, "seconds")
    present = [name for name in wanted if name in frame.columns and frame[name].notna().any()]
    return frame[present].round(3)
