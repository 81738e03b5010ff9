"""Finding images of a run by prompt, method and score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from bench.leaderboard.names import called, shortened
from bench.leaderboard.opening import Opened, cells_of
from bench.leaderboard.results import Cell, CellResult, PromptSetScores
from bench.lib.canonical_json import sha256
from bench.lib.errors import BenchError, UnknownNameError
from bench.outputs.score_table import image_paths
from bench.recipe.prompt_table import PromptTable
from bench.statistics.model import Floats


class Order(StrEnum):
    """Which images come first."""

    BEST = "best"
    """Those that lead the base's image by most, on the average over scorers."""
    WORST = "worst"
    """Those that trail it by most."""
    DISPUTED = "disputed"
    """Those over which the scorers differ most: the standard deviation of their leads."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One image of a run."""

    method: str
    """As tables call it."""
    base: bool
    train_seed: int | None
    """None: nothing was trained."""
    image_seed: int
    prompt_set: str
    row: int
    prompt: str
    groups: Mapping[str, str]
    scores: Mapping[str, float]
    base_scores: Mapping[str, float]
    """Of the base's image of the same prompt and noise."""
    lead: float
    """Mean over scorers of (score - base's score) in standard deviations of the base's scores; for
    the base itself, of (score - base's mean)."""
    dispute: float
    """Standard deviation of that over scorers; 0 with one."""
    image: str
    """Path below the store; '' if it is not known."""
    base_image: str

    @property
    def where(self) -> str:
        """The prompt's place: "parti 12"."""
        return f"{self.prompt_set} {self.row}"

    @property
    def made_by(self) -> str:
        """What made it: "dpo, train seed 0, image seed 1"."""
        trained = "" if self.train_seed is None else f", train seed {self.train_seed}"
        return f"{self.method}{trained}, image seed {self.image_seed}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Which images are asked for."""

    prompt: str | None = None
    """A part of the prompt, whatever its case."""
    row: int | None = None
    prompt_set: str | None = None
    methods: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    order: Order | None = None
    """None: prompt set, row, method, seeds."""


def find(opened: Opened, question: Question) -> list[Found]:
    """The images of a run that a question is about, in its order.

    Raises:
        BenchError: a method, scorer, prompt set or row is unknown, or no prompt is meant.
    """
    part = opened.only(prompt_set=question.prompt_set, scorers=question.scorers)
    chosen = _chosen(part, question.methods)
    names = _names(part)
    rows = _rows(part, question)
    found = [
        image
        for cell in chosen
        for image in _of_cell(part, cell, _base(part, cell), names[cell.identity], rows)
    ]
    if not found:
        raise BenchError(f"{opened.folder}: no scorer has scored these images")
    if question.order is Order.DISPUTED and len({s for image in found for s in image.scores}) < 2:
        raise BenchError("--sort disputed: needs two scorers or more that may differ")
    match question.order:
        case Order.BEST:
            return sorted(found, key=lambda image: -image.lead)
        case Order.WORST:
            return sorted(found, key=lambda image: image.lead)
        case Order.DISPUTED:
            return sorted(found, key=lambda image: -image.dispute)
    return sorted(
        found,
        key=lambda f: (f.prompt_set, f.row, not f.base, f.method, f.train_seed or 0, f.image_seed),
    )


def finished_methods(opened: Opened) -> list[str]:
    """Specs of the methods that have a finished cell, the base's aside."""
    done = (cell for cell in opened.cells.values() if isinstance(cell, CellResult))
    return list(dict.fromkeys(cell.method for cell in done if not cell.base))


def _names(opened: Opened) -> dict[str, str]:
    """Identity of a cell -> what its method is called; two methods never share a name."""
    cells = opened.cells.values()
    short = shortened(cell.method for cell in cells)
    keys = {c.identity: (c.method, c.variant, "" if c.base else c.protocol.digest) for c in cells}
    often = Counter(method for method, *_ in set(keys.values()))

    def told_apart(cell: Cell) -> str:
        apart = "" if often[cell.method] == 1 else f" {sha256(keys[cell.identity])[:8]}"
        return short[cell.method] + apart

    names = called((keys[cell.identity], cell.label, told_apart(cell)) for cell in cells)
    return {identity: names[key] for identity, key in keys.items()}


def _chosen(opened: Opened, methods: Sequence[str]) -> list[CellResult]:
    if not methods:
        return [cell for cell in opened.cells.values() if isinstance(cell, CellResult)]
    found = [cell for name in methods for cell in cells_of(opened.cells, name, opened.folder)]
    return list({cell.identity: cell for cell in found}.values())


def _base(opened: Opened, cell: CellResult) -> CellResult:
    """The untouched backbone that was evaluated in the same way."""
    for other in opened.cells.values():
        if (
            isinstance(other, CellResult)
            and other.base
            and other.evaluation.digest == cell.evaluation.digest
        ):
            return other
    raise BenchError(f"{opened.folder}: no result of the untouched backbone beside {cell.method}")


def _rows(opened: Opened, question: Question) -> dict[str, frozenset[int]]:
    """Hash of prompts -> the rows that are meant."""
    named = {(n, d) for c in opened.cells.values() for n, d in c.evaluation.prompts.items()}
    tables = {digest: _table(opened, name, digest) for name, digest in sorted(named)}
    if question.row is not None:
        longest = max(len(table.texts) for table in tables.values())
        if not 0 <= question.row < longest:
            raise BenchError(
                f"--row {question.row}: {opened.folder} has the rows 0 to {longest - 1:,}"
            )
    rows = {digest: frozenset(_meant(table, question)) for digest, table in tables.items()}
    if not any(rows.values()):
        texts = {text for table in tables.values() for text in table.texts}
        raise UnknownNameError(f"prompt of {opened.folder}", question.prompt or "", texts)
    return rows


def _meant(table: PromptTable, question: Question) -> Iterable[int]:
    wanted = (question.prompt or "").casefold()
    for row, text in enumerate(table.texts):
        if question.row in (None, row) and wanted in text.casefold():
            yield row


def _table(opened: Opened, name: str, digest: str) -> PromptTable:
    table = opened.prompts.get(digest)
    if table is None:
        raise BenchError(
            f"{opened.folder}: no file in prompts/ holds the prompts of {name!r} with hash "
            f"{digest[:12]}"
        )
    return table


def _of_cell(
    opened: Opened,
    cell: CellResult,
    base: CellResult,
    name: str,
    rows: Mapping[str, frozenset[int]],
) -> Iterator[Found]:
    bases = {part.prompt_set: part for part in base.evaluations}
    for part in cell.evaluations:
        other = bases[part.prompt_set]
        scorers = sorted(part.scores.keys() & other.scores.keys())
        if not scorers:
            continue
        leads = np.stack([_leads(part, other, scorer, own=cell.base) for scorer in scorers])
        lead, dispute = leads.mean(axis=0), leads.std(axis=0)
        table, images = opened.prompts[part.prompts_sha256], len(part.image_seeds)
        files, base_files = image_paths(part), image_paths(other)
        for row in sorted(rows[part.prompts_sha256]):
            for number, seed in enumerate(part.image_seeds):
                i = row * images + number
                yield Found(
                    method=name,
                    base=cell.base,
                    train_seed=cell.seed if cell.training else None,
                    image_seed=seed,
                    prompt_set=part.prompt_set,
                    row=row,
                    prompt=table.texts[row],
                    groups=table.groups[row],
                    scores={s: part.scores[s][i] for s in scorers},
                    base_scores={s: other.scores[s][i] for s in scorers},
                    lead=float(lead[i]),
                    dispute=float(dispute[i]),
                    image=files[i],
                    base_image=base_files[i],
                )


def _leads(part: PromptSetScores, base: PromptSetScores, scorer: str, *, own: bool) -> Floats:
    """[images]: by how many standard deviations of the base's scores each image leads the base."""
    theirs = np.array(base.scores[scorer])
    spread = float(theirs.std()) or 1.0
    against = theirs.mean() if own else theirs
    leads: Floats = (np.array(part.scores[scorer]) - against) / spread
    return leads


def existing(store: Path, image: str) -> Path | None:
    """The file of an image in a store; None if its place is not known or nothing is there."""
    path = store / image
    return path if image and path.is_file() else None
