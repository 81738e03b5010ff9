"""From result files to standings: compare with the base, pool train seeds, rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError
from bench.evaluation import statistics
from bench.evaluation.statistics import Floats, WinRate
from bench.leaderboard.results import (
    Budget,
    Cell,
    CellFailure,
    CellResult,
    Cost,
    PromptSetScores,
    PromptTable,
    load_cells,
    load_prompts,
)

HELD_OUT = "held-out"
"""Stands for the held-out mean where a scorer's name is expected."""

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one backbone and preference set, over one or all of its train seeds."""

    method: str
    label: str
    base: bool
    """True: the untouched backbone; it stands at 50% by definition and has no win rates."""
    seeds: tuple[int, ...]
    """Train seeds that finished; () where all failed."""
    in_loop: tuple[str, ...]
    scores: Mapping[str, WinRate]
    """scorer -> win rate; a scorer missing here is a gap."""
    held_out: WinRate | None
    """Mean over `held_out_scorers`; None where there are none."""
    held_out_scorers: tuple[str, ...]
    budget: Budget | None
    """Steps and pairs of one seed (kept and dropped: of the lowest seed)."""
    cost: Cost | None
    """Means over seeds; memory is the maximum."""
    failures: tuple[str, ...]
    """Why seeds are missing."""

    @property
    def standing(self) -> float | None:
        """What rows are ranked by: the held-out win rate, 0.5 for the base."""
        if self.base:
            return 0.5
        return self.held_out.win_rate if self.held_out else None


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A win rate on part of the prompts, all train seeds of a method pooled."""

    method: str
    prompt_set: str
    dimension: str
    """What the group is a value of, e.g. "category"; '' for the whole prompt set."""
    group: str
    scorer: str
    """A scorer's name or `HELD_OUT`."""
    in_loop: bool
    result: WinRate


@dataclass(frozen=True, kw_only=True)
class Section:
    """All methods on one backbone and preference set, best first."""

    backbone: str
    pairs: str
    recipes: tuple[str, ...]
    scorers: tuple[str, ...]
    """Columns: by name, those declared held out last."""
    declared: tuple[str, ...]
    """Scorers declared held out."""
    rows: tuple[Row, ...]
    seed_rows: tuple[Row, ...]
    """The same rows, one a train seed."""
    groups: tuple[GroupRow, ...]
    prompt_sets: Mapping[str, int]
    """prompt set -> prompts."""
    images: int
    """Image seeds a prompt."""
    distinct_prompts: int


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A whole board."""

    sections: tuple[Section, ...]


@dataclass(frozen=True)
class _Compared:
    """The finished cells of one method and their outcomes against the base."""

    cells: tuple[CellResult, ...]
    outcomes: Mapping[str, Floats]
    """scorer -> [train seeds, prompts, images]."""

    @property
    def in_loop(self) -> tuple[str, ...]:
        return tuple(sorted({scorer for cell in self.cells for scorer in cell.in_loop}))

    @property
    def held_out_scorers(self) -> tuple[str, ...]:
        return tuple(scorer for scorer in self.outcomes if scorer not in self.in_loop)

    def columns(self) -> Iterator[tuple[str, Floats]]:
        """Each scorer's outcomes, then those of the held-out mean."""
        yield from self.outcomes.items()
        if self.held_out_scorers:
            # Side by side like further images of a prompt: the mean is over scorers, and
            # resampling prompts keeps what the scorers have in common.
            held = [self.outcomes[scorer] for scorer in self.held_out_scorers]
            yield HELD_OUT, np.concatenate(held, axis=2)


def build(board: Path) -> Tables:
    """Compare every result with its base and rank the methods.

    Raises:
        BenchError: A file is invalid, a base is missing, or cells cannot be compared.
    """
    cells = load_cells(board)
    prompts = load_prompts(board)
    covered = {cell.backbone for cell in cells.values() if not cell.untrained}
    keys = {
        (cell.backbone, cell.pairs)
        for cell in cells.values()
        if not cell.untrained or cell.backbone not in covered
    }
    return Tables(sections=tuple(_section(*key, cells, prompts) for key in sorted(keys)))


def _section(
    backbone: str, pairs: str, cells: Mapping[Path, Cell], prompts: Mapping[str, PromptTable]
) -> Section:
    base_path, base = _base(backbone, pairs, cells)
    tables = _prompt_tables(base_path, base, prompts)
    texts = [text for table in tables for text in table.texts]
    methods: dict[str, dict[Path, Cell]] = {}
    for path, cell in cells.items():
        if (cell.backbone, cell.pairs, cell.untrained) == (backbone, pairs, False):
            methods.setdefault(cell.method, {})[path] = cell
    rows, seed_rows = [_base_row(base)], [_base_row(base)]
    compared: dict[str, _Compared] = {}
    for method, mine in methods.items():
        results = {path: cell for path, cell in mine.items() if isinstance(cell, CellResult)}
        failures = [cell for cell in mine.values() if isinstance(cell, CellFailure)]
        if results:
            compared[method] = _compare(results, base_path, base)
        rows.append(_row(compared.get(method), failures, texts))
        seed_rows += [
            _row(_compare({path: cell}, base_path, base), [], texts)
            for path, cell in results.items()
        ]
        seed_rows += [_row(None, [failure], texts) for failure in failures]
    shown = [base, *(cell for entry in compared.values() for cell in entry.cells)]
    declared = tuple(sorted({scorer for cell in shown for scorer in cell.held_out}))
    scorers = {s for cell in shown for part in cell.evaluations for s in part.scores}
    everyone = [cell for mine in methods.values() for cell in mine.values()]
    return Section(
        backbone=backbone,
        pairs=pairs,
        recipes=tuple(sorted({cell.recipe for cell in [base, *everyone]})),
        scorers=tuple(sorted(scorers, key=lambda scorer: (scorer in declared, scorer))),
        declared=declared,
        rows=_ranked(rows),
        seed_rows=_ranked(seed_rows),
        groups=tuple(_group_rows(compared, base, tables)),
        prompt_sets={part.prompt_set: part.prompts for part in _parts(base)},
        images=len(base.evaluations[0].image_seeds),
        distinct_prompts=len(set(texts)),
    )


def _base(backbone: str, pairs: str, cells: Mapping[Path, Cell]) -> tuple[Path, CellResult]:
    """The base result of a backbone; its images depend on neither pairs nor train seed."""
    bases = [(p, c) for p, c in cells.items() if c.backbone == backbone and c.untrained]
    done = [(path, cell) for path, cell in bases if isinstance(cell, CellResult)]
    if done:
        return min(done, key=lambda item: (item[1].pairs != pairs, item[1].pairs, item[1].seed))
    paths = [path for path, cell in cells.items() if cell.backbone == backbone]
    why = "".join(f"; {p}: {_line(c.reason)}" for p, c in bases if isinstance(c, CellFailure))
    msg = f"{paths[0]}: there is no result of the untouched backbone {backbone!r}{why}"
    raise BenchError(msg)


def _parts(cell: CellResult) -> list[PromptSetScores]:
    """The cell's evaluations in the order of prompt-set names, whatever the file's order."""
    return sorted(cell.evaluations, key=lambda part: part.prompt_set)


def _prompt_tables(
    path: Path, base: CellResult, prompts: Mapping[str, PromptTable]
) -> list[PromptTable]:
    tables = []
    for part in _parts(base):
        table = prompts.get(part.prompts_sha256)
        if table is None or len(table.texts) != part.prompts:
            msg = (
                f"{path}: no file in prompts/ holds the {part.prompts} prompts of "
                f"{part.prompt_set!r} with hash {part.prompts_sha256[:12]}"
            )
            raise BenchError(msg)
        tables.append(table)
    return tables


def _compare(results: Mapping[Path, CellResult], base_path: Path, base: CellResult) -> _Compared:
    """Outcomes of one method's cells, in order of train seed.

    A scorer is compared only where every cell and the base have it for every prompt set.
    """
    ordered = sorted(results, key=lambda path: results[path].seed)
    first = results[ordered[0]].budget
    for path in ordered:
        _check_comparable(path, results[path], base_path, base)
        budget = results[path].budget
        if (budget.steps, budget.pairs_seen) != (first.steps, first.pairs_seen):
            msg = f"{ordered[0]} and {path} are seeds of one method but differ in budget"
            raise BenchError(msg)
    cells = tuple(results[path] for path in ordered)
    everywhere = set.intersection(
        *(set(part.scores) for cell in (base, *cells) for part in cell.evaluations)
    )
    outcomes = {
        scorer: np.stack(
            [statistics.outcomes(_scores(cell, scorer), _scores(base, scorer)) for cell in cells]
        )
        for scorer in sorted(everywhere)
    }
    return _Compared(cells, outcomes)


def _check_comparable(path: Path, cell: CellResult, base_path: Path, base: CellResult) -> None:
    """Raise `BenchError` unless both made images of the same prompts in the same way."""

    def images(of: CellResult) -> list[tuple[Any, ...]]:
        return [(p.prompt_set, p.prompts_sha256, p.prompts, p.image_seeds) for p in _parts(of)]

    for what, ours, theirs in (
        ("start weights", cell.backbone_fingerprint, base.backbone_fingerprint),
        ("sampling settings", dict(cell.sampling), dict(base.sampling)),
        ("prompt sets or image seeds", images(cell), images(base)),
    ):
        if ours != theirs:
            msg = (
                f"{path} cannot be compared with its base {base_path}: "
                f"different {what} ({ours} against {theirs})"
            )
            raise BenchError(msg)


def _scores(cell: CellResult, scorer: str) -> Floats:
    """[prompts of all sets, images]."""
    parts = [np.array(p.scores[scorer]).reshape(p.prompts, -1) for p in _parts(cell)]
    return np.concatenate(parts)


def _base_row(base: CellResult) -> Row:
    return Row(
        method=base.method,
        label=base.label,
        base=True,
        seeds=(),
        in_loop=(),
        scores={},
        held_out=None,
        held_out_scorers=(),
        budget=base.budget,
        cost=base.cost,
        failures=(),
    )


def _row(compared: _Compared | None, failures: Sequence[CellFailure], texts: list[str]) -> Row:
    cells: Sequence[Cell] = compared.cells if compared else failures
    rates = {s: statistics.win_rate(o, texts) for s, o in compared.columns()} if compared else {}
    held_out = rates.pop(HELD_OUT, None)
    return Row(
        method=cells[0].method,
        label=cells[0].label,
        base=False,
        seeds=tuple(cell.seed for cell in compared.cells) if compared else (),
        in_loop=compared.in_loop if compared else (),
        scores=rates,
        held_out=held_out,
        held_out_scorers=compared.held_out_scorers if compared else (),
        budget=compared.cells[0].budget if compared else None,
        cost=_mean_cost([cell.cost for cell in compared.cells]) if compared else None,
        failures=tuple(
            f"train seed {failure.seed}: {_line(failure.reason)}"
            for failure in sorted(failures, key=lambda failure: failure.seed)
        ),
    )


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    n = len(costs)
    return Cost(
        label_seconds=sum(cost.label_seconds for cost in costs) / n,
        train_seconds=sum(cost.train_seconds for cost in costs) / n,
        sample_seconds=sum(cost.sample_seconds for cost in costs) / n,
        score_seconds=sum(cost.score_seconds for cost in costs) / n,
        train_nfe=round(sum(cost.train_nfe for cost in costs) / n),
        sample_nfe=round(sum(cost.sample_nfe for cost in costs) / n),
        peak_memory_mb=max(cost.peak_memory_mb for cost in costs),
    )


def _ranked(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Best held-out win rate first, rows without one last, equals by name and seed."""

    def key(row: Row) -> tuple[bool, float, str, tuple[int, ...], tuple[str, ...]]:
        standing = row.standing
        return (standing is None, -(standing or 0.0), row.method, row.seeds, row.failures)

    return tuple(sorted(rows, key=key))


def _group_rows(
    compared: Mapping[str, _Compared], base: CellResult, tables: Sequence[PromptTable]
) -> Iterator[GroupRow]:
    texts = np.array([text for table in tables for text in table.texts], dtype=object)
    names = [part.prompt_set for part in _parts(base)]
    # Groups are the outer loop because all methods share the resamples of a group.
    for (prompt_set, dimension, group), mask in _masks(names, tables):
        for method in sorted(compared):
            entry = compared[method]
            for scorer, outcomes in entry.columns():
                yield GroupRow(
                    method=method,
                    prompt_set=prompt_set,
                    dimension=dimension,
                    group=group,
                    scorer=scorer,
                    in_loop=scorer in entry.in_loop,
                    result=statistics.win_rate(outcomes[:, mask], list(texts[mask])),
                )


def _masks(
    names: Sequence[str], tables: Sequence[PromptTable]
) -> Iterator[tuple[tuple[str, str, str], Mask]]:
    """Every prompt set, then each of its groups, as a mask over the prompts of all sets."""
    total = sum(len(table.texts) for table in tables)
    start = 0
    for name, table in zip(names, tables, strict=True):
        members: dict[tuple[str, str], list[int]] = {("", ""): list(range(len(table.texts)))}
        for index, groups in enumerate(table.groups):
            for item in groups.items():
                members.setdefault(item, []).append(index)
        for (dimension, group), indices in sorted(members.items()):
            mask = np.zeros(total, dtype=np.bool_)
            mask[[start + index for index in indices]] = True
            yield (name, dimension, group), mask
        start += len(table.texts)


def _line(text: str) -> str:
    return " ".join(text.split())
