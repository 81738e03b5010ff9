"""Opening what lies in a folder: a board or a run, by path or by name, whole or in part."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.leaderboard.answer import answer
from bench.leaderboard.comparing import compare
from bench.leaderboard.names import shortened
from bench.leaderboard.results import Cell, CellResult, load_cells, load_prompts
from bench.leaderboard.standings import Row, Tables
from bench.lib.errors import BenchError, UnknownNameError
from bench.recipe.prompt_table import PromptTable

_RESULTS = "results"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The result files and prompts of a folder, or a part of them."""

    folder: Path
    cells: Mapping[Path, Cell]
    prompts: Mapping[str, PromptTable]
    """By hash of the prompts."""

    @cached_property
    def tables(self) -> Tables:
        """What they come to.

        Raises:
            BenchError: as `comparing.build`.
        """
        return compare(self.cells, self.prompts)

    @cached_property
    def prompt_sets(self) -> tuple[str, ...]:
        """Names of the prompt sets that any cell was evaluated on."""
        return tuple(sorted({name for c in self.cells.values() for name in c.evaluation.prompts}))

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers that were to score any cell's images."""
        return tuple(sorted({name for c in self.cells.values() for name in c.evaluation.scorers}))

    def of(self, methods: Sequence[str]) -> Opened:
        """The base's cells and those of some methods.

        Raises:
            UnknownNameError: there is no such method; says what is close.
        """
        found = [cell for name in methods for cell in cells_of(self.cells, name, self.folder)]
        kept = {cell.identity for cell in found}
        cells = {p: c for p, c in self.cells.items() if c.base or c.identity in kept}
        return dataclasses.replace(self, cells=cells)

    def only(self, *, prompt_set: str | None = None, scorers: Sequence[str] = ()) -> Opened:
        """The same cells, as if they had been evaluated on this prompt set by these scorers alone.

        Args:
            prompt_set: one of `prompt_sets`; None: all.
            scorers: some of `scorers`; none: all.

        Raises:
            UnknownNameError: there is no such prompt set or scorer; says what is close.
        """
        if prompt_set is not None and prompt_set not in self.prompt_sets:
            raise UnknownNameError(f"prompt set of {self.folder}", prompt_set, self.prompt_sets)
        for scorer in scorers:
            if scorer not in self.scorers:
                raise UnknownNameError(f"scorer of {self.folder}", scorer, self.scorers)
        parts = {path: _part(cell, prompt_set, scorers) for path, cell in self.cells.items()}
        return dataclasses.replace(self, cells={p: c for p, c in parts.items() if c is not None})


def open_folder(text: str, roots: Sequence[Path] = ()) -> Opened:
    """Read the board or run that a path names, or a name below one of the roots.

    Raises:
        BenchError: there is none, or a file of it is not valid.
    """
    folder = find_folder(text, roots)
    if folder is None:
        near = sorted(path.parent.name for root in roots for path in root.glob(f"*/{_RESULTS}"))
        known = UnknownNameError("run or board", text, near)
        raise BenchError(
            f"{known} Name a folder with {_RESULTS}/, as `bench run` leaves one"
            if near
            else f"{text}: no folder of a run or board; name one with {_RESULTS}/, as `bench run` "
            f"leaves it"
        )
    return Opened(folder=folder, cells=load_cells(folder), prompts=load_prompts(folder))


def find_folder(text: str, roots: Sequence[Path] = ()) -> Path | None:
    """The folder with result files that a text names; None if there is none."""
    if not text:
        return None
    for folder in (Path(text), *(root / text for root in roots)):
        if (folder / _RESULTS).is_dir():
            return folder
    return None


def of_methods(tables: Tables, wanted: Sequence[str]) -> Tables:
    """The tables with the base and these methods alone; figures stay those of the whole board.

    Raises:
        UnknownNameError: no section has such a method.
    """
    every = [row for section in tables.sections for row in section.rows]
    names = {name for row in every for name in names_of(row.method, row.label, row.shown)}
    for text in wanted:
        if text not in names:
            raise UnknownNameError("method", text, {row.shown for row in every})

    def kept(row: Row) -> bool:
        return row.base or bool(names_of(row.method, row.label, row.shown) & set(wanted))

    sections = []
    for section in tables.sections:
        rows = tuple(filter(kept, section.rows))
        if any(not row.base for row in rows):
            keys = {(row.method, row.variant) for row in rows}
            part = dataclasses.replace(
                section,
                rows=rows,
                seed_rows=tuple(filter(kept, section.seed_rows)),
                groups=tuple(r for r in section.groups if (r.method, r.variant) in keys),
                head_to_head=tuple(
                    pair
                    for pair in section.head_to_head
                    if {(pair.method, pair.variant), (pair.other, pair.other_variant)} <= keys
                ),
            )
            sections.append(dataclasses.replace(part, answer=answer(part)))
    return Tables(sections=tuple(sections))


def cells_of(cells: Mapping[Path, Cell], wanted: str, where: Path) -> list[CellResult]:
    """The finished cells of a method, by its spec, label or name, in order of train seed.

    Raises:
        BenchError: there is no such method, or none of its cells finished.
    """
    short = shortened(cell.method for cell in cells.values())
    found = [
        cell
        for cell in cells.values()
        if wanted in names_of(cell.method, cell.label, short[cell.method])
    ]
    if not found:
        raise UnknownNameError(f"method of {where}", wanted, {c.method for c in cells.values()})
    done = [cell for cell in found if isinstance(cell, CellResult)]
    if not done:
        raise BenchError(
            f"{where}: {wanted} has no finished cell; run the same `bench run` command again"
        )
    return sorted(done, key=lambda cell: (cell.method, cell.variant, cell.seed))


def names_of(method: str, label: str, shown: str) -> set[str]:
    """All that a method may be called: its spec, the spec cut, its label, its bare name."""
    bare = re.split(r"[\[:]", method, maxsplit=1)[0]
    return {method, shown, bare} | ({label} if label else set())


def _part(cell: Cell, prompt_set: str | None, scorers: Iterable[str]) -> Cell | None:
    """The cell as if only this had been evaluated; None where it was not."""
    wanted, evaluation = set(scorers), cell.evaluation
    sets = {n: d for n, d in evaluation.prompts.items() if prompt_set in (None, n)}
    described = {n: d for n, d in evaluation.scorers.items() if not wanted or n in wanted}
    if not sets or not described:
        return None
    smaller = dataclasses.replace(evaluation, prompts=sets, scorers=described)
    if not isinstance(cell, CellResult):
        return dataclasses.replace(cell, evaluation=smaller)
    parts = tuple(
        dataclasses.replace(
            part, scores={name: s for name, s in part.scores.items() if name in described}
        )
        for part in cell.evaluations
        if part.prompt_set in sets
    )
    return dataclasses.replace(cell, evaluation=smaller, evaluations=parts)
