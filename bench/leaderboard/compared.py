"""One method's cells beside the base's: what all comparisons of a section are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.leaderboard.results import Cell, CellFailure, CellResult, PromptSetScores
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from bench.statistics import model
from bench.statistics.model import Design, Floats


@dataclass(frozen=True)
class Compared:
    """The cells of one method, in order of train seed, and their scores beside the base's."""

    cells: tuple[CellResult, ...]
    scores: Mapping[str, Floats]
    """scorer -> [train seeds, prompts, images], where every cell and the base have it for every
    prompt set."""
    outcomes: Mapping[str, Floats] = field(default_factory=dict)
    """scorer -> outcomes against the base, as `scores`; none for the base itself."""
    failures: tuple[CellFailure, ...] = ()

    @property
    def in_loop(self) -> tuple[str, ...]:
        """Scorers that the training of a cell read."""
        return tuple(sorted({scorer for cell in self.cells for scorer in cell.in_loop}))

    @property
    def held_out_scorers(self) -> tuple[str, ...]:
        """The others."""
        return tuple(scorer for scorer in self.scores if scorer not in self.in_loop)

    def mean(self, scorers: Sequence[str]) -> Floats | None:
        """Outcomes of scorers side by side, like further images of a prompt; None of none."""
        if not scorers or not self.cells:
            return None
        return np.concatenate([self.outcomes[scorer] for scorer in scorers], axis=2)


@dataclass(frozen=True)
class Player:
    """One method's scores by the scorers that all methods have held out."""

    method: str
    variant: str
    scores: Mapping[int, Floats]
    """train seed -> [prompts, images and scorers]."""


def players(
    compared: Mapping[tuple[str, str], Compared], base: Compared, scorers: Sequence[str]
) -> tuple[list[Player], Floats]:
    """The methods by (spec, variant), and the base's scores [prompts, images and scorers].

    Args:
        compared: methods of one cell or more.
        base: what they are compared with.
        scorers: held out for all of them; with none there is no player.
    """
    if not scorers:
        return [], np.zeros((0, 0))

    def of(entry: Compared, number: int) -> Floats:
        return np.concatenate([entry.scores[s][number] for s in scorers], axis=1)

    found = [
        Player(*name, {cell.seed: of(entry, number) for number, cell in enumerate(entry.cells)})
        for name, entry in compared.items()
    ]
    return found, of(base, 0)


def common_held_out(compared: Iterable[Compared]) -> tuple[str, ...]:
    """The scorers that are held out for every method that finished."""
    held = [set(entry.held_out_scorers) for entry in compared if entry.cells]
    return tuple(sorted(set.intersection(*held))) if held else ()


def prompt_tables(
    where: Path, base: CellResult, prompts: Mapping[str, PromptTable]
) -> dict[str, PromptTable]:
    """Prompt set -> its prompts, in the order of names.

    Raises:
        BenchError: a table is missing; the message names `where`.
    """
    tables = {}
    for part in parts(base):
        table = prompts.get(part.prompts_sha256)
        if table is None or len(table.texts) != part.prompts:
            raise BenchError(
                f"{where}: no file in prompts/ holds the {part.prompts} prompts of "
                f"{part.prompt_set!r} with hash {part.prompts_sha256[:12]}"
            )
        tables[part.prompt_set] = table
    return tables


def design_of(tables: Mapping[str, PromptTable]) -> Design:
    """Which of all prompts are one draw, and which a set."""
    texts = [text for table in tables.values() for text in table.texts]
    return model.design(texts, [name for name, table in tables.items() for _ in table.texts])


def untouched(base: CellResult) -> Compared:
    """The base, as one training."""
    scores = {scorer: cell_scores(base, scorer)[None] for scorer in common_scorers([base])}
    return Compared(cells=(base,), scores=scores)


def compare(cells: Mapping[Path, Cell], base: CellResult) -> Compared:
    """One method's cells against the base.

    Raises:
        BenchError: two were trained on different budgets.
    """
    ordered = sorted(cells.items(), key=lambda item: item[1].seed)
    finished = [(path, cell) for path, cell in ordered if isinstance(cell, CellResult)]
    for path, cell in finished:
        first, budget = finished[0][1].budget, cell.budget
        if (budget.steps, budget.pairs_seen) != (first.steps, first.pairs_seen):
            raise BenchError(
                f"{finished[0][0]} and {path} are seeds of one method but differ in budget"
            )
    results = tuple(cell for _, cell in finished)
    scores = {
        scorer: np.stack([cell_scores(cell, scorer) for cell in results])
        for scorer in (common_scorers([base, *results]) if results else ())
    }
    outcomes = {
        scorer: np.stack([model.outcomes(one, cell_scores(base, scorer)) for one in values])
        for scorer, values in scores.items()
    }
    failures = tuple(cell for _, cell in ordered if isinstance(cell, CellFailure))
    return Compared(results, scores, outcomes, failures)


def parts(cell: CellResult) -> list[PromptSetScores]:
    """The cell's evaluations in the order of prompt-set names, whatever the file's order."""
    return sorted(cell.evaluations, key=lambda part: part.prompt_set)


def common_scorers(cells: Sequence[CellResult]) -> list[str]:
    """Those that have scored every image of all cells."""
    return sorted(
        set.intersection(*(set(part.scores) for cell in cells for part in cell.evaluations))
    )


def cell_scores(cell: CellResult, scorer: str) -> Floats:
    """[prompts of all sets, images]."""
    return np.concatenate([np.array(p.scores[scorer]).reshape(p.prompts, -1) for p in parts(cell)])
