"""From result files to standings: compare with the base, pool train seeds, rank."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bench.leaderboard.names import shortened
from bench.leaderboard.protocol import Protocol, differences, headings
from bench.leaderboard.results import (
    Budget,
    Cell,
    CellFailure,
    CellResult,
    Cost,
    PromptSetScores,
    load_cells,
    load_prompts,
)
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from bench.statistics import intervals as statistics
from bench.statistics.intervals import Floats, WinRate

HELD_OUT = "held-out"
"""Stands for the held-out mean where a scorer's name is expected."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under one protocol, over one or all of its train seeds."""

    method: str
    """Its whole spec."""
    variant: str = ""
    """Tells methods of one spec apart that were not made of the same; '' where there is one."""
    shown: str
    """What tables call it: the spec with long paths cut, and the variant."""
    label: str
    base: bool = False
    """True: the untouched backbone; it stands at 50% by definition and has no win rates."""
    seeds: tuple[int, ...] = ()
    """Train seeds that finished; () where all failed."""
    in_loop: tuple[str, ...] = ()
    scores: Mapping[str, WinRate] = field(default_factory=dict)
    """scorer -> win rate; a scorer missing here is a gap."""
    held_out: WinRate | None = None
    """Mean over `held_out_scorers`; None where there are none."""
    held_out_scorers: tuple[str, ...] = ()
    budget: Budget | None
    """Steps and pairs of one seed (kept and dropped: of the lowest seed)."""
    cost: Cost | None
    """Means over seeds; memory is the maximum."""
    provenance: Mapping[str, tuple[str, ...]]
    """"device", "torch", ... -> on what its seeds were made."""
    failures: tuple[str, ...] = ()
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
    variant: str
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
    """All methods under one protocol, best first."""

    heading: str
    """Names of backbone and pairs, and in what it differs from sections of the same names."""
    differs: str
    """All in which it differs from those, in words; '' where there are none."""
    protocol: str
    """Digest of all that its cells have in common."""
    evaluation: str
    """Digest of what was evaluated how: sections that share it share their base."""
    backbone: str
    pairs: str
    """'' where nothing was trained."""
    recipes: tuple[str, ...]
    scorers: tuple[str, ...]
    """Columns: by name, those declared held out last."""
    declared_held_out: tuple[str, ...]
    rows: tuple[Row, ...]
    seed_rows: tuple[Row, ...]
    """The same rows, one a train seed."""
    groups: tuple[GroupRow, ...]
    prompt_sets: Mapping[str, int]
    """prompt set -> prompts."""
    images_per_prompt: int
    distinct_prompts: int
    minimum_detectable_effect: float
    """Distance from 50% at which a win rate over so many prompts is found with 80% power."""
    variants: tuple[str, ...]
    """In what methods of one spec differ, a sentence each."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A whole board."""

    sections: tuple[Section, ...]


@dataclass(frozen=True, order=True)
class _Name:
    """What tells one method of a section from the others, and what tables call it."""

    method: str
    variant: str
    shown: str


@dataclass(frozen=True)
class _Compared:
    """The cells of one method, in order of train seed, and their outcomes against the base."""

    cells: tuple[CellResult, ...]
    failures: tuple[CellFailure, ...]
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
    """Compare every result of a board with its base and rank the methods.

    Raises:
        BenchError: A file is invalid, a base is missing, or cells contradict each other.
    """
    return compare(load_cells(board), load_prompts(board))


def compare(cells: Mapping[Path, Cell], prompts: Mapping[str, PromptTable]) -> Tables:
    """As `build`, of cells and the prompts that they name, by hash."""
    sections = _sections(cells)
    titles = [_title(section) for section in sections]
    protocols = [protocol for protocol, _ in sections]
    named = zip(sections, headings(titles, protocols), strict=True)
    built = (_section(protocol, mine, cells, prompts, names) for (protocol, mine), names in named)
    return Tables(sections=tuple(sorted(built, key=_place)))


_Cells: TypeAlias = Mapping[Path, Cell]


def _sections(cells: _Cells) -> list[tuple[Protocol, _Cells]]:
    """The cells of each protocol.

    What was not trained is ranked beside everything that was evaluated in the same way.
    """
    protocols = {cell.protocol.digest: cell.protocol for cell in cells.values()}
    trained = {p.evaluation.digest for p in protocols.values() if p.training}

    def belongs(cell: Cell, protocol: Protocol) -> bool:
        if cell.training:
            return cell.protocol.digest == protocol.digest
        return cell.evaluation.digest == protocol.evaluation.digest

    return [
        (protocol, {path: cell for path, cell in cells.items() if belongs(cell, protocol)})
        for _, protocol in sorted(protocols.items())
        if protocol.training or protocol.evaluation.digest not in trained
    ]


def _title(section: tuple[Protocol, _Cells]) -> str:
    protocol, cells = section
    names = shortened({cell.backbone for cell in cells.values()})
    backbone = " or ".join(sorted(names.values()))
    what = f"pairs of {_pairs(cells)}" if protocol.training else "nothing trained"
    return f"{backbone}, {what}"


def _pairs(cells: _Cells) -> str:
    return " or ".join(sorted({cell.pairs for cell in cells.values() if cell.training}))


def _place(section: Section) -> tuple[str, str, list[tuple[int, str]], str]:
    # Numbers in headings by their value: 3 steps before 10.
    words = re.findall(r"\d+|\D+", section.heading)
    heading = [(int(word) if word.isdecimal() else -1, word) for word in words]
    return section.backbone, section.pairs, heading, section.protocol


def _section(
    protocol: Protocol,
    cells: _Cells,
    board: _Cells,
    prompts: Mapping[str, PromptTable],
    names: tuple[str, str],
) -> Section:
    path, base = _base(cells, board)
    tables = _prompt_tables(path, base, prompts)
    texts = [text for table in tables.values() for text in table.texts]
    short = shortened(cell.method for cell in cells.values())
    methods = _methods(cells, short)
    compared = {name: _compare(mine, base) for name, mine in methods.items()}
    by_seed = (
        (name, _compare({path: cell}, base))
        for name, mine in methods.items()
        for path, cell in mine.items()
    )
    first = Row(
        method=base.method,
        shown=short[base.method],
        label=base.label,
        base=True,
        budget=base.budget,
        cost=base.cost,
        provenance=_provenance([base]),
    )
    shown = [base, *(cell for entry in compared.values() for cell in entry.cells)]
    declared = tuple(sorted({scorer for cell in shown for scorer in cell.held_out}))
    scorers = {s for cell in shown for part in cell.evaluations for s in part.scores}
    heading, differs = names
    return Section(
        heading=heading,
        differs=differs,
        protocol=protocol.digest,
        evaluation=protocol.evaluation.digest,
        backbone=base.backbone,
        pairs=_pairs(cells),
        recipes=tuple(sorted({cell.recipe for cell in cells.values()})),
        scorers=tuple(sorted(scorers, key=lambda scorer: (scorer in declared, scorer))),
        declared_held_out=declared,
        rows=_ranked([first, *(_row(name, entry, texts) for name, entry in compared.items())]),
        seed_rows=_ranked([first, *(_row(name, entry, texts) for name, entry in by_seed)]),
        groups=tuple(_group_rows(compared, tables, texts)),
        prompt_sets={name: len(table.texts) for name, table in tables.items()},
        images_per_prompt=len(base.evaluation.image_seeds),
        distinct_prompts=len(set(texts)),
        minimum_detectable_effect=statistics.minimum_detectable_effect(len(set(texts))),
        variants=tuple(_variants(methods)),
    )


def _methods(cells: _Cells, short: Mapping[str, str]) -> dict[_Name, dict[Path, Cell]]:
    """The cells of each method, named by the variant too where a spec has several."""
    others = {path: cell for path, cell in cells.items() if not cell.base}
    often = Counter(method for method, _ in {(c.method, c.variant) for c in others.values()})
    methods: dict[_Name, dict[Path, Cell]] = {}
    for path, cell in others.items():
        variant = cell.variant[:8] if often[cell.method] > 1 else ""
        shown = f"{short[cell.method]} #{variant}".removesuffix(" #")
        methods.setdefault(_Name(cell.method, variant, shown), {})[path] = cell
    return methods


def _variants(methods: Mapping[_Name, Mapping[Path, Cell]]) -> Iterator[str]:
    """What two methods of one spec do not share, each compared with the first."""
    first: dict[str, _Name] = {}
    for name in sorted(methods):
        other = first.setdefault(name.method, name)
        if other != name:
            ours, theirs = (next(iter(methods[of].values())) for of in (name, other))
            what = differences(_made_of(ours), _made_of(theirs))
            both = f"#{name.variant} and #{other.variant}"
            yield f"Of the spec {name.method}, {both} differ in {', '.join(what)}"


def _made_of(cell: Cell) -> dict[str, Any]:
    return {"method": cell.described, "label_scorers": cell.label_scorers}


def _base(cells: _Cells, board: _Cells) -> tuple[Path, CellResult]:
    """The base of a section; its images depend on neither pairs nor train seed."""
    bases = [(path, cell) for path, cell in cells.items() if cell.base]
    for path, cell in sorted(bases):
        if isinstance(cell, CellResult):
            return path, cell
    path, cell = next(iter(cells.items()))
    why = "".join(f"; {p}: {_line(c.reason)}" for p, c in bases if isinstance(c, CellFailure))
    others = {p: c for p, c in board.items() if c.base and isinstance(c, CellResult)}
    for other, base in sorted(others.items())[:1] if not why else ():
        what = differences(cell.evaluation, base.evaluation)
        why = f"; {other} was made differently: {', '.join(what)}"
    raise BenchError(
        f"{path}: there is no result of the untouched backbone {cell.backbone!r} that was "
        f"evaluated in the same way{why}"
    )


def _parts(cell: CellResult) -> list[PromptSetScores]:
    """The cell's evaluations in the order of prompt-set names, whatever the file's order."""
    return sorted(cell.evaluations, key=lambda part: part.prompt_set)


def _prompt_tables(
    path: Path, base: CellResult, prompts: Mapping[str, PromptTable]
) -> dict[str, PromptTable]:
    """Prompt set -> its prompts, in the order of names."""
    tables = {}
    for part in _parts(base):
        table = prompts.get(part.prompts_sha256)
        if table is None or len(table.texts) != part.prompts:
            raise BenchError(
                f"{path}: no file in prompts/ holds the {part.prompts} prompts of "
                f"{part.prompt_set!r} with hash {part.prompts_sha256[:12]}"
            )
        tables[part.prompt_set] = table
    return tables


def _compare(cells: _Cells, base: CellResult) -> _Compared:
    """Outcomes of one method's cells.

    A scorer is compared only where every cell and the base have it for every prompt set.
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
    everywhere = set.intersection(
        *(set(part.scores) for cell in (base, *results) for part in cell.evaluations)
    )
    outcomes = {
        scorer: np.stack(
            [statistics.outcomes(_scores(cell, scorer), _scores(base, scorer)) for cell in results]
        )
        for scorer in sorted(everywhere if results else ())
    }
    failures = tuple(cell for _, cell in ordered if isinstance(cell, CellFailure))
    return _Compared(results, failures, outcomes)


def _scores(cell: CellResult, scorer: str) -> Floats:
    """[prompts of all sets, images]."""
    parts = [np.array(p.scores[scorer]).reshape(p.prompts, -1) for p in _parts(cell)]
    return np.concatenate(parts)


def _row(name: _Name, compared: _Compared, texts: list[str]) -> Row:
    cells, failures = compared.cells, compared.failures
    rates = {s: statistics.win_rate(outcomes, texts) for s, outcomes in compared.columns()}
    held_out = rates.pop(HELD_OUT, None)
    return Row(
        method=name.method,
        variant=name.variant,
        shown=name.shown,
        label=next(cell.label for cell in (*cells, *failures)),
        seeds=tuple(cell.seed for cell in cells),
        in_loop=compared.in_loop,
        scores=rates,
        held_out=held_out,
        held_out_scorers=compared.held_out_scorers,
        budget=cells[0].budget if cells else None,
        cost=_mean_cost([cell.cost for cell in cells]) if cells else None,
        provenance=_provenance(cells),
        failures=tuple(f"train seed {cell.seed}: {_line(cell.reason)}" for cell in failures),
    )


def _provenance(cells: Sequence[CellResult]) -> dict[str, tuple[str, ...]]:
    keys = sorted({key for cell in cells for key in cell.provenance})
    return {
        key: tuple(sorted({str(cell.provenance.get(key, "unknown")) for cell in cells}))
        for key in keys
    }


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    mean: dict[str, Any] = {
        of.name: sum(getattr(cost, of.name) for cost in costs) / len(costs) for of in fields(Cost)
    }
    mean |= {name: round(mean[name]) for name in ("train_nfe", "sample_nfe")}
    return Cost(**{**mean, "peak_memory_mb": max(cost.peak_memory_mb for cost in costs)})


def _ranked(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Best held-out win rate first, rows without one last, equals by name and seed."""

    def key(row: Row) -> tuple[bool, float, str, str, tuple[int, ...], tuple[str, ...]]:
        place = row.standing is None, -(row.standing or 0.0)
        return (*place, row.method, row.variant, row.seeds, row.failures)

    return tuple(sorted(rows, key=key))


def _group_rows(
    compared: Mapping[_Name, _Compared], tables: Mapping[str, PromptTable], texts: Sequence[str]
) -> Iterator[GroupRow]:
    # Groups are the outer loop because all methods share the resamples of a group.
    for (prompt_set, dimension, group), rows in _groups(tables):
        for name, entry in sorted(compared.items(), key=lambda item: item[0]):
            for scorer, outcomes in entry.columns():
                yield GroupRow(
                    method=name.method,
                    variant=name.variant,
                    prompt_set=prompt_set,
                    dimension=dimension,
                    group=group,
                    scorer=scorer,
                    in_loop=scorer in entry.in_loop,
                    result=statistics.win_rate(outcomes[:, rows], [texts[row] for row in rows]),
                )


def _groups(tables: Mapping[str, PromptTable]) -> list[tuple[tuple[str, str, str], list[int]]]:
    """Every prompt set, then each of its groups, with its rows among the prompts of all sets."""
    prompts = ((name, groups) for name, table in tables.items() for groups in table.groups)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for row, (name, groups) in enumerate(prompts):
        for dimension, group in (("", ""), *groups.items()):
            rows.setdefault((name, dimension, group), []).append(row)
    return sorted(rows.items())


def _line(text: str) -> str:
    return " ".join(text.split())
