"""From result files to standings: compare with the base and head to head, and rank."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from bench.leaderboard import compared as compared_with
from bench.leaderboard import panels
from bench.leaderboard.answer import answer
from bench.leaderboard.compared import Compared
from bench.leaderboard.names import shortened
from bench.leaderboard.protocol import Protocol, differences, headings
from bench.leaderboard.ranking import Ranking, rank
from bench.leaderboard.results import (
    Cell,
    CellFailure,
    CellResult,
    Cost,
    load_cells,
    load_prompts,
)
from bench.leaderboard.signature import signature
from bench.leaderboard.standings import HELD_OUT, GroupRow, Row, Section, Tables
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from bench.statistics import model
from bench.statistics.model import Design, Floats, WinRate


@dataclass(frozen=True, order=True)
class _Name:
    """What tells one method of a section from the others, and what tables call it."""

    method: str
    variant: str
    shown: str


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
    tables = compared_with.prompt_tables(path, base, prompts)
    design = compared_with.design_of(tables)
    short = shortened(cell.method for cell in cells.values())
    methods = _methods(cells, short)
    untouched = compared_with.untouched(base)
    compared = {name: compared_with.compare(mine, base) for name, mine in sorted(methods.items())}
    by_seed = [
        (name, compared_with.compare({path: cell}, base))
        for name, mine in sorted(methods.items())
        for path, cell in sorted(mine.items(), key=lambda item: item[1].seed)
    ]
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
    ranked_by = compared_with.common_held_out(compared.values())
    by_name = {(name.method, name.variant): e for name, e in compared.items() if e.cells}
    ranking = rank(*compared_with.players(by_name, untouched, ranked_by), design)
    rows = _standing(first, list(_rows(list(compared.items()), design)), ranking)
    strengths, discriminations = panels.strengths(by_name, untouched, design)
    heading, differs = names
    section = Section(
        heading=heading,
        differs=differs,
        protocol=protocol.digest,
        signature=signature(
            protocol,
            scorers,
            prompts={name: len(table.texts) for name, table in tables.items()},
            seeds=sorted({seed for row in rows for seed in row.seeds}),
        ),
        evaluation=protocol.evaluation.digest,
        backbone=base.backbone,
        pairs=_pairs(cells),
        recipes=tuple(sorted({cell.recipe for cell in cells.values()})),
        scorers=tuple(sorted(scorers, key=lambda scorer: (scorer in declared, scorer))),
        declared_held_out=declared,
        ranked_by=ranked_by,
        unranked_because=ranking.unranked_because,
        answer="",
        head_to_head=ranking.pairs,
        strengths=strengths,
        discriminations=discriminations,
        agreement=panels.agreement(list(by_name.values()), untouched, base.evaluation.scorers),
        best_of_many=ranking.best_of_many,
        rows=tuple(
            replace(row, panel=panels.panel(one, untouched, row.scores, ranked_by, design))
            if (one := by_name.get(row.key))
            else row
            for row in rows
        ),
        seed_rows=(first, *_rows(by_seed, design)),
        groups=tuple(_group_rows(compared, tables, design)),
        prompt_sets={name: len(table.texts) for name, table in tables.items()},
        images_per_prompt=len(base.evaluation.image_seeds),
        distinct_prompts=design.distinct,
        variants=tuple(_variants(methods)),
    )
    return replace(section, answer=answer(section))


def _standing(first: Row, rows: Sequence[Row], ranking: Ranking) -> tuple[Row, ...]:
    """The rows with what the comparisons say of them, in their order."""
    base = replace(first, rank_set=ranking.base_rank_set, letters=ranking.base_letters)
    found = iter(ranking.standings)
    finished = bool(ranking.standings)
    placed = [replace(row, **vars(next(found))) if row.seeds and finished else row for row in rows]
    return _ordered([base, *placed])


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


def _rows(compared: Sequence[tuple[_Name, Compared]], design: Design) -> Iterator[Row]:
    """A row for each method (or for each of its train seeds), not yet ranked."""
    entries = [entry for _, entry in compared]
    scorers = sorted({scorer for entry in entries for scorer in entry.outcomes})
    single = {s: _column(entries, design, _of(s)) for s in scorers}
    sets = sorted({entry.held_out_scorers for entry in entries})
    means = {held: _column(entries, design, _mean_of(held)) for held in sets}
    for number, (name, entry) in enumerate(compared):
        cells, failures = entry.cells, entry.failures
        rates = {scorer: column[number] for scorer, column in single.items()}
        yield Row(
            method=name.method,
            variant=name.variant,
            shown=name.shown,
            label=next(cell.label for cell in (*cells, *failures)),
            seeds=tuple(cell.seed for cell in cells),
            in_loop=entry.in_loop,
            scores={scorer: rate for scorer, rate in rates.items() if rate},
            held_out=means[entry.held_out_scorers][number],
            held_out_scorers=entry.held_out_scorers,
            budget=cells[0].budget if cells else None,
            cost=_mean_cost([cell.cost for cell in cells]) if cells else None,
            provenance=_provenance(cells),
            failures=tuple(f"train seed {cell.seed}: {_line(cell.reason)}" for cell in failures),
        )


def _column(
    entries: Sequence[Compared],
    design: Design,
    outcomes: Callable[[Compared], Floats | None],
    rows: Sequence[int] | None = None,
) -> list[WinRate | None]:
    """Win rates of the entries that have such outcomes; their spreads between trainings pool.

    `rows` are the prompts that they are over, which are those of the design; None: all.
    """
    found = {i: results for i, e in enumerate(entries) if (results := outcomes(e)) is not None}
    rates = model.win_rates(
        model.components(results if rows is None else results[:, rows], design)
        for results in found.values()
    )
    placed = dict(zip(found, rates, strict=True))
    return [placed.get(number) for number in range(len(entries))]


def _of(scorer: str) -> Callable[[Compared], Floats | None]:
    return lambda entry: entry.outcomes.get(scorer)


def _mean_of(scorers: tuple[str, ...]) -> Callable[[Compared], Floats | None]:
    """The mean over scorers, of entries for which just these are held out."""

    def mean(entry: Compared) -> Floats | None:
        return entry.mean(scorers) if scorers == entry.held_out_scorers else None

    return mean


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


def _ordered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Best rank first, then by `Row.standing`, rows without one last, equals by name and seed."""

    def key(row: Row) -> tuple[Any, ...]:
        ranks = row.rank_set or (math.inf, math.inf)
        place = row.standing is None, sum(ranks), -(row.standing or 0.0)
        return (*place, row.method, row.variant, row.seeds, row.failures)

    return tuple(sorted(rows, key=key))


def _group_rows(
    compared: Mapping[_Name, Compared], tables: Mapping[str, PromptTable], design: Design
) -> Iterator[GroupRow]:
    names, entries = list(compared), list(compared.values())
    scorers = sorted({scorer for entry in entries for scorer in entry.outcomes})
    for (prompt_set, dimension, group), rows in _groups(tables):
        own = design.of(rows)
        columns = {s: _column(entries, own, _of(s), rows) for s in scorers}
        columns[HELD_OUT] = _column(entries, own, lambda e: e.mean(e.held_out_scorers), rows)
        for number, (name, entry) in enumerate(zip(names, entries, strict=True)):
            for scorer, column in columns.items():
                if result := column[number]:
                    yield GroupRow(
                        method=name.method,
                        variant=name.variant,
                        prompt_set=prompt_set,
                        dimension=dimension,
                        group=group,
                        scorer=scorer,
                        in_loop=scorer in entry.in_loop,
                        result=result,
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
