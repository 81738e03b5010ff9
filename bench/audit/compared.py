"""The methods of a run as an audit compares them: cells, outcomes and prompts, pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.audit.records import AuditKey, Method
from bench.audit.sampling import Floats
from bench.leaderboard.compared import cell_scores, common_scorers, prompt_tables
from bench.leaderboard.names import shortened
from bench.leaderboard.results import CellResult, load_cells, load_prompts
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.wording import listed
from bench.recipe.prompt_table import PromptTable
from bench.statistics.model import Design, design, outcomes


@dataclass(frozen=True)
class Compared:
    """The cells of some methods under one protocol, with their prompts."""

    protocol: str
    """Digest."""
    methods: tuple[Method, ...]
    cells: Mapping[str, tuple[Path, CellResult]]
    """identity -> its file and the cell."""
    tables: Mapping[str, PromptTable]
    """prompt set -> its prompts, in the order of names."""
    image_seeds: tuple[int, ...]
    """Of all images that there are."""

    def pair(self, first: int, second: int) -> Pairing:
        """Two of the methods, prompt by prompt.

        Raises:
            BenchError: they have no train seed or no scorer in common.
        """
        one, other = self.methods[first], self.methods[second]
        seeds = _common_seeds(one, other)
        if not seeds:
            raise BenchError(
                f"{one.shown} and {other.shown} have no train seed in common (they have "
                f"{_seeds(one)} and {_seeds(other)}); train them with the same seeds"
            )
        both = [
            (self.cells[one.cells[seed]][1], self.cells[other.cells[seed]][1]) for seed in seeds
        ]
        scorers = tuple(common_scorers([cell for cells in both for cell in cells]))
        if not scorers:
            raise BenchError(
                f"no scorer has scored all images of both {one.shown} and {other.shown}"
            )
        in_loop = {name for cells in both for cell in cells for name in cell.in_loop}
        held_out = tuple(name for name in scorers if name not in in_loop)
        outcomes = {
            name: np.stack([_outcomes(ours, theirs, name) for ours, theirs in both], axis=1)
            for name in scorers
        }
        return Pairing(tuple(map(int, seeds)), outcomes, held_out or scorers)

    @cached_property
    def rows(self) -> list[tuple[str, int]]:
        """Prompt set and row of every prompt, in the order of outcomes."""
        return [(name, row) for name, t in self.tables.items() for row in range(len(t.texts))]

    @cached_property
    def texts(self) -> list[str]:
        """Prompts, in the same order."""
        return [text for table in self.tables.values() for text in table.texts]

    @cached_property
    def design(self) -> Design:
        """Which prompts are one draw."""
        return design(self.texts, [name for name, _ in self.rows])

    @cached_property
    def weights(self) -> Floats:
        """[prompts]: how much each counts, every prompt set alike; they sum to 1."""
        stratum = self.design.stratum
        sizes = np.bincount(stratum)
        return np.asarray(1.0 / (len(sizes) * sizes[stratum]))


@dataclass(frozen=True)
class Pairing:
    """Two methods, compared by scorers."""

    train_seeds: tuple[int, ...]
    """That both have."""
    outcomes: Mapping[str, Floats]
    """scorer -> [prompts, train seeds, image seeds]: 1 where the first wins, 0.5 for a tie."""
    judges: tuple[str, ...]
    """Scorers held out for both methods; all where there are none."""

    def predictions(self) -> Floats:
        """[prompts, train seeds, image seeds]: mean outcome over the judges."""
        return np.asarray(np.mean([self.outcomes[name] for name in self.judges], axis=0))


def load(run: Path, names: Sequence[str] = (), protocol: str = "") -> Compared:
    """The methods of a run's or board's folder that an audit compares.

    Args:
        run: the folder.
        names: specs, labels or shown names of methods, in the order wanted; all if none.
        protocol: the start of a digest, where the folder holds results of several.

    Raises:
        BenchError: the folder is no run's, or does not say which results are meant.
    """
    cells = _finished(run)
    digest = _protocol(run, cells, protocol)
    trained = {p: c for p, c in cells.items() if c.protocol.digest == digest}
    evaluation = next(iter(trained.values())).evaluation.digest
    mine = {
        path: cell
        for path, cell in cells.items()
        if path in trained or (cell.training is None and cell.evaluation.digest == evaluation)
    }
    methods = _chosen(run, _methods(mine), names)
    if len(methods) < 2:
        raise BenchError(f"{run}: holds results of one method; an audit compares two or more")
    first = next(iter(mine.values()))
    return Compared(
        protocol=digest,
        methods=methods,
        cells={cell.identity: (path, cell) for path, cell in mine.items()},
        tables=prompt_tables(run, first, load_prompts(run)),
        image_seeds=tuple(first.evaluation.image_seeds),
    )


def of_key(run: Path, key: AuditKey) -> Compared:
    """What an audit compared, from the run that it was made from.

    Raises:
        BenchError: the folder is no run's, or lacks what was compared; says what.
    """
    cells = {cell.identity: (path, cell) for path, cell in _finished(run).items()}
    for method in key.methods:
        for seed, identity in method.cells.items():
            if identity not in cells:
                raise BenchError(
                    f"{run}: holds no result of {method.shown} (train seed {seed}) as the audit "
                    f"{key.audit} compared it; give the run that the audit was made from"
                )
    mine = {i: cells[i] for method in key.methods for i in method.cells.values()}
    first = next(cell for _, cell in mine.values())
    tables = prompt_tables(run, first, load_prompts(run))
    if dict(key.prompts) != {name: table.sha256 for name, table in tables.items()}:
        raise BenchError(f"{run}: its prompts are not those of the audit {key.audit}")
    return Compared(
        protocol=key.protocol,
        methods=key.methods,
        cells=mine,
        tables=tables,
        image_seeds=tuple(first.evaluation.image_seeds),
    )


def _finished(run: Path) -> dict[Path, CellResult]:
    if not (run / "results").is_dir():
        raise BenchError(
            f"{run}: is no run's folder, which has results/; name what `bench run` wrote"
        )
    return {path: cell for path, cell in load_cells(run).items() if isinstance(cell, CellResult)}


def _protocol(run: Path, cells: Mapping[Path, CellResult], asked: str) -> str:
    """The protocol whose cells are meant: what was trained if anything was."""
    trained = {c.protocol.digest for c in cells.values() if c.training}
    known = sorted(trained or {c.protocol.digest for c in cells.values()})
    if not known:
        raise BenchError(f"{run}: holds no finished results")
    matching = [digest for digest in known if digest.startswith(asked)]
    if len(matching) == 1:
        return matching[0]
    short = [digest[:12] for digest in known]
    if asked and not matching:
        raise UnknownNameError("protocol", asked, short)
    raise BenchError(
        f"{run}: holds results of {len(known)} protocols; name one with --protocol "
        f"({listed(short)}), as leaderboard.csv has them"
    )


def _methods(cells: Mapping[Path, CellResult]) -> list[tuple[Method, str]]:
    """Every method with its label, the base last, so that rates are of methods over it."""
    short = shortened(cell.method for cell in cells.values())
    kinds = {(c.base, c.method, c.variant): c.label for c in cells.values()}
    often = Counter(method for _, method, _ in kinds)
    seeds = sorted({str(c.seed) for c in cells.values() if c.training}, key=int)
    methods = []
    for (base, method, variant), label in sorted(kinds.items(), key=lambda kind: kind[0]):
        own = [
            c for c in cells.values() if (c.base, c.method, c.variant) == (base, method, variant)
        ]
        by_seed = {str(c.seed): c.identity for c in sorted(own, key=lambda c: c.seed)}
        if all(c.training is None for c in own):
            # Its images depend on no train seed: it stands beside every one.
            by_seed = dict.fromkeys(seeds or by_seed, own[0].identity)
        shown = f"{short[method]} #{variant[:8]}" if often[method] > 1 else short[method]
        named = Method(method=method, variant=variant, shown=shown, base=base, cells=by_seed)
        methods.append((named, label))
    return methods


def _chosen(
    run: Path, methods: Sequence[tuple[Method, str]], names: Sequence[str]
) -> tuple[Method, ...]:
    if not names:
        return tuple(method for method, _ in methods)
    chosen: list[Method] = []
    for name in names:
        found = [m for m, label in methods if name in (m.shown, m.method, label)]
        if not found:
            raise UnknownNameError(f"method of {run}", name, [m.shown for m, _ in methods])
        if len(found) > 1:
            several = listed(m.shown for m in found)
            raise BenchError(f"--methods {name} may be {several}; write out which")
        if found[0] in chosen:
            raise BenchError(f"--methods names {name} twice")
        chosen += found
    return tuple(chosen)


def _common_seeds(one: Method, other: Method) -> list[str]:
    return [seed for seed in one.cells if seed in other.cells]


def _seeds(method: Method) -> str:
    return " and ".join(method.cells)


def _outcomes(ours: CellResult, theirs: CellResult, scorer: str) -> Floats:
    """[prompts, image seeds]."""
    return outcomes(cell_scores(ours, scorer), cell_scores(theirs, scorer))
