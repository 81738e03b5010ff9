"""What the report shows of a section: pure functions from standings to small records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.leaderboard.columns import PLAIN
from bench.leaderboard.notes import section_notes
from bench.leaderboard.results import Cell, CellResult
from bench.leaderboard.signature import signature
from bench.leaderboard.standings import HELD_OUT, GroupRow, Row, Section, names_of_rows
from bench.lib.escaping import printable
from bench.report import beside, words
from bench.report.beside import Table
from bench.statistics.model import Estimand, WinRate

FEW = 50
"""Groups of fewer prompts are described and not tested."""
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method on the board."""

    name: str
    """Its label, or its spec; no two lines share one."""
    spec: str
    base: bool
    rank: str
    """"1", "1 to 3", or "–" where nothing ranks it."""
    letters: str
    rate: WinRate | None
    """What the board compares it by; None for the base and for gaps."""
    adjusted_p: float | None
    """Against the base, among all pairs."""
    scores: tuple[WinRate | None, ...]
    """For each scorer of the section."""
    in_loop: tuple[str, ...]
    seconds: float | None
    """Of labelling and training, on one device; None where nothing was trained."""
    train_nfe: int | None
    sample_nfe: int | None
    memory_mb: float | None
    marks: tuple[str, ...]
    failures: tuple[str, ...]
    signature: str

    @property
    def verdict(self) -> str:
        """Whether it is better or worse than the base, or that is open.

        Where pairs are tested, all pairs considered: what the answer says and what is coloured
        are one.
        """
        if self.rate is None or self.rate.low <= 0.5 <= self.rate.high:
            return "open"
        if self.adjusted_p is not None and self.adjusted_p >= ALPHA:
            return "open"
        return "better" if self.rate.low > 0.5 else "worse"


@dataclass(frozen=True, kw_only=True)
class Group:
    """A win rate on some of the prompts."""

    method: str
    prompt_set: str
    label: str
    rate: WinRate

    @property
    def descriptive(self) -> bool:
        """Whether it is of too few prompts for more than a description."""
        return self.rate.prompts < FEW


@dataclass(frozen=True, kw_only=True)
class Duel:
    """How often one method wins over another; the interval holds for all pairs at once."""

    rate: float
    low: float
    high: float
    adjusted_p: float | None
    separated: bool
    """Whether the two differ, all pairs considered."""

    @property
    def reversed(self) -> Duel:
        """The same, seen by the other."""
        return replace(self, rate=1 - self.rate, low=1 - self.high, high=1 - self.low)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All pairs; a row wins over a column."""

    names: tuple[str, ...]
    rows: tuple[tuple[Duel | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A method's mean win rate by the scorers that trainings read, and by those held out."""

    method: str
    seed: int | None
    """None: all of them."""
    proxy: float
    gold: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one training said of itself."""

    method: str
    seed: int
    values: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class SectionView:
    """Everything that the report says of one protocol."""

    id: str
    heading: str
    answer: str
    evidence: tuple[tuple[str, str], ...]
    """What the answer rests on: a word and its value."""
    ranked_by: tuple[str, ...]
    unranked_because: str
    lines: tuple[Line, ...]
    scorers: tuple[str, ...]
    """Those that methods are compared by first."""
    declared_held_out: tuple[str, ...]
    prompt_sets: tuple[str, ...]
    groups: tuple[Group, ...]
    matrix: Matrix | None
    proxies: tuple[Proxy, ...]
    curves: tuple[Curve, ...]
    panels: tuple[Table, ...]
    """What lies beside the win rates: sizes, joint wins, looks, strengths."""
    agreement: Table | None
    costs: Table
    versions: Table
    notes: tuple[str, ...]

    @property
    def trained(self) -> tuple[Line, ...]:
        """Without the base; a method's colour is its place here."""
        return tuple(line for line in self.lines if not line.base)

    @property
    def ranked_by_words(self) -> str:
        """By whom the win rates on the first screen were judged."""
        if not self.ranked_by:
            return "mean over each method's own held-out scorers, not one ranking"
        names = ", ".join(self.ranked_by)
        return f"judged by {names}" if len(self.ranked_by) == 1 else f"mean over {names}"

    @property
    def axis(self) -> tuple[float, float]:
        """Ends of the board's axis in percent: every interval and the base lie within."""
        rates = [line.rate for line in self.lines if line.rate]
        low = min([0.45, *(rate.low for rate in rates)])
        high = max([0.55, *(rate.high for rate in rates)])
        return max(0.0, 100 * low - 1.5), min(100.0, 100 * high + 1.5)


def section_view(section: Section, cells: Mapping[Path, Cell], number: int) -> SectionView:
    """The view of one section.

    Args:
        section: of the standings.
        cells: the results that the standings were made from.
        number: of the section on its page, from 0.
    """
    names = _names(section.rows)
    signed = _signatures(section, cells)
    lines = tuple(
        _line(section, row, names[row.method, row.variant], signed.get(row.key, ""))
        for row in section.rows
    )
    return SectionView(
        id=f"s{number}",
        heading=printable(section.heading),
        answer=printable(section.answer),
        evidence=tuple(_evidence(section)),
        ranked_by=tuple(map(printable, section.ranked_by)),
        unranked_because=printable(section.unranked_because),
        lines=lines,
        scorers=_scorers(section),
        declared_held_out=section.declared_held_out,
        prompt_sets=tuple(section.prompt_sets),
        groups=tuple(_groups(section, names)),
        matrix=_matrix(section, names),
        proxies=tuple(_proxies(section, names)),
        curves=tuple(_curves(section, names, cells)),
        panels=tuple(beside.panels(section, names)),
        agreement=beside.agreement(section),
        costs=_costs(lines),
        versions=_versions(section, names),
        notes=tuple(section_notes(section, PLAIN)),
    )


Names = Mapping[tuple[str, str], str]
"""Method and variant -> what the report calls it."""


def _names(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    return {key: printable(name) for key, name in names_of_rows(rows).items()}


def _line(section: Section, row: Row, name: str, signed: str) -> Line:
    cost = row.cost
    trained = cost if cost and not row.base and row.budget and row.budget.steps else None
    return Line(
        name=name,
        spec=printable(row.shown),
        base=row.base,
        rank=_rank(row),
        letters=row.letters,
        rate=row.common or row.held_out,
        adjusted_p=row.adjusted_p,
        scores=tuple(row.scores.get(scorer) for scorer in _scorers(section)),
        in_loop=row.in_loop,
        seconds=trained.label_seconds + trained.train_seconds if trained else None,
        train_nfe=trained.train_nfe if trained else None,
        sample_nfe=cost.sample_nfe if cost else None,
        memory_mb=trained.peak_memory_mb if trained else None,
        marks=tuple(map(printable, row.panel.marks)) if row.panel else (),
        failures=tuple(map(printable, row.failures)),
        signature=signed,
    )


def _scorers(section: Section) -> tuple[str, ...]:
    """Those that methods are compared by first."""
    others = (scorer for scorer in section.scorers if scorer not in section.ranked_by)
    return (*section.ranked_by, *others)


def _rank(row: Row) -> str:
    if row.rank_set is None:
        return words.GAP
    first, last = row.rank_set
    return str(first) if first == last else f"{first} to {last}"


def _evidence(section: Section) -> Iterator[tuple[str, str]]:
    prompts = sum(section.prompt_sets.values())
    distinct = section.distinct_prompts
    sets = len(section.prompt_sets)
    of = f"{sets} prompt sets" if sets > 1 else printable(next(iter(section.prompt_sets)))
    same = "" if distinct == prompts else f", {distinct:,} distinct"
    yield "prompts", f"{prompts:,}{same}, of {of}"
    images = section.images_per_prompt
    yield "images", f"{images} a prompt, the same noise for every method"
    seeds = sorted({len(row.seeds) for row in section.rows if row.seeds and not row.base})
    if seeds:
        several = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        yield "train seeds", several
    yield "speaks of", _speaks_of(section)
    if section.ranked_by:
        yield "judged by", ", ".join(map(printable, section.ranked_by))
    yield "pairs", printable(section.pairs) or "nothing was trained"


def _speaks_of(section: Section) -> str:
    kinds = {row.estimand for row in section.rows if not row.base and row.seeds}
    if kinds == {Estimand.METHOD}:
        return "the method: over train seeds, prompts and noise"
    if kinds == {Estimand.CHECKPOINT}:
        return "these checkpoints: another training may differ"
    return "methods, and single checkpoints where there is one train seed"


def _groups(section: Section, names: Names) -> Iterator[Group]:
    judge = section.ranked_by[0] if len(section.ranked_by) == 1 else HELD_OUT
    order = {key: place for place, key in enumerate(names)}

    def place(row: GroupRow) -> tuple[str, str, str, int]:
        return row.prompt_set, row.dimension, row.group, order[row.method, row.variant]

    for row in sorted((row for row in section.groups if row.scorer == judge), key=place):
        what = f"{row.dimension}: {row.group}" if row.dimension else "all prompts"
        yield Group(
            method=names[row.method, row.variant],
            prompt_set=printable(row.prompt_set),
            label=f"{printable(what)} (n={row.result.prompts:,})",
            rate=row.result,
        )


def _matrix(section: Section, names: Names) -> Matrix | None:
    duels: dict[tuple[str, str], Duel] = {}
    for pair in section.head_to_head:
        one, other = names[pair.method, pair.variant], names[pair.other, pair.other_variant]
        duel = Duel(
            rate=pair.rate.win_rate,
            low=pair.rate.low,
            high=pair.rate.high,
            adjusted_p=pair.adjusted_p,
            separated=pair.separated,
        )
        duels |= {(one, other): duel, (other, one): duel.reversed}
    if not duels:
        return None
    met = {name for pair in duels for name in pair}
    order = tuple(name for name in names.values() if name in met)
    return Matrix(names=order, rows=tuple(tuple(duels.get((a, b)) for b in order) for a in order))


def _proxies(section: Section, names: Names) -> Iterator[Proxy]:
    gold = section.declared_held_out
    proxies = sorted({s for row in section.rows for s in row.in_loop} - {*gold})
    if not gold or not proxies:
        return
    several = [(row, None) for row in section.rows]
    single = [(row, row.seeds[0]) for row in section.seed_rows if row.seeds]
    for row, seed in (*several, *single):
        known = [row.scores[s].win_rate for s in proxies if s in row.scores]
        held = [row.scores[s].win_rate for s in gold if s in row.scores]
        if not row.base and len(known) == len(proxies) and len(held) == len(gold):
            yield Proxy(
                method=names[row.method, row.variant],
                seed=seed,
                proxy=float(np.mean(known)),
                gold=float(np.mean(held)),
            )


def _curves(section: Section, names: Names, cells: Mapping[Path, Cell]) -> Iterator[Curve]:
    for _, cell in sorted(cells_of(section, cells)):
        if isinstance(cell, CellResult) and cell.curve:
            name = name_of(cell, section, names)
            yield Curve(method=name, seed=cell.seed, values=cell.curve)


def cells_of(section: Section, cells: Mapping[Path, Cell]) -> list[tuple[Path, Cell]]:
    """The cells that stand in a section."""
    return [
        (path, cell)
        for path, cell in cells.items()
        if cell.protocol.digest == section.protocol
        or (not cell.training and cell.evaluation.digest == section.evaluation)
    ]


def name_of(cell: Cell, section: Section, names: Names | None = None) -> str:
    """What the report calls the method of a cell."""
    known = _names(section.rows) if names is None else names
    return next(
        name
        for (method, variant), name in known.items()
        if method == cell.method and cell.variant.startswith(variant)
    )


def _signatures(section: Section, cells: Mapping[Path, Cell]) -> dict[tuple[str, str], str]:
    """Method and variant -> signature of the win rate that it is compared by."""
    own = (cell.protocol for _, cell in cells_of(section, cells))
    protocol = next((each for each in own if each.digest == section.protocol), None)
    if protocol is None:
        return {}
    return {
        (row.method, row.variant): signature(
            protocol, judges, prompts=section.prompt_sets, seeds=row.seeds
        )
        for row in section.rows
        if row.seeds and not row.base and (judges := section.ranked_by or row.held_out_scorers)
    }


def _costs(lines: Iterable[Line]) -> Table:
    rows = tuple(
        (
            line.name,
            words.GAP if line.seconds is None else f"{words.rounded(line.seconds):,.0f}",
            words.GAP if line.train_nfe is None else f"{line.train_nfe:,}",
            words.GAP if line.sample_nfe is None else f"{line.sample_nfe:,}",
            words.GAP if line.memory_mb is None else f"{line.memory_mb:,.0f}",
        )
        for line in lines
    )
    return Table(
        title="Costs",
        note="Seconds of one device, for labelling, encoding and training; mean over train seeds. "
        "NFE: latents through the denoiser, in training and for all images. Memory: peak.",
        headings=("method", "seconds", "train NFE", "sample NFE", "memory (MB)"),
        rows=rows,
    )


def _versions(section: Section, names: Names) -> Table:
    made: dict[tuple[str, str], list[str]] = {}
    for row in section.rows:
        for key, values in row.provenance.items():
            made.setdefault((key, ", ".join(values)), []).append(names[row.method, row.variant])
    everyone = sum(1 for row in section.rows if row.provenance)
    rows = tuple(
        (printable(key), printable(value), "all" if len(of) == everyone else ", ".join(of))
        for (key, value), of in sorted(made.items())
    )
    return Table(
        title="Made with",
        note="Versions and devices that the results were made with.",
        headings=("what", "version", "methods"),
        rows=rows,
    )
