"""A run's results join a board, or are refused with the place; nothing is half done."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from bench.leaderboard import board as boards
from bench.leaderboard import comparing, results
from bench.leaderboard.board import BOARD, LEDGER, Board, Ledger, Renderer
from bench.leaderboard.protocol import shown
from bench.leaderboard.results import Cell, CellFailure, CellResult
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.files import write_atomic
from bench.recipe.prompt_table import PromptTable

OTHER_BASE = 0.1
"""Mean distance of two bases' scores, in standard deviations over images, beyond which they are not
one base drawn on two devices: wins would be counted against another opponent."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """What has joined a board."""

    files: tuple[str, ...]
    """Result and prompt files, below the board; () where it held all of them."""
    known: int
    """Results that the board held already."""
    notes: tuple[str, ...]
    """What is to be known of those that did not join."""
    deviations: Mapping[str, tuple[str, ...]]
    """Of the new files those that are not as frozen, and in what."""


@dataclass(frozen=True)
class _Coming:
    """The results of a run that a board lacks, by their paths in the run, and those that it has."""

    new: Mapping[Path, Cell]
    known: int
    notes: tuple[str, ...]


def add(
    run: Path,
    folder: Path,
    methods: Sequence[str] = (),
    *,
    as_deviation: bool = False,
    more: Sequence[Renderer] = (),
) -> Added:
    """Copy results and their prompts to a board and build its tables.

    Args:
        run: the folder that a run has written, or another board.
        folder: the board.
        methods: specs, labels or names of methods; () for all. The base always comes along.
        as_deviation: also what is not as the board was frozen, as such.
        more: as for `board.render`.

    Raises:
        BenchError: a file is not valid or contradicts itself, the protocol, the board or its
            ledger; names file and field, ours against theirs. The board is as it was.
    """
    if not (folder / BOARD).exists():
        raise BenchError(
            f"{folder}: has no {BOARD}, which says what may be added; write it by "
            f"`bench leaderboard freeze {run} {folder}`"
        )
    if run.resolve() == folder.resolve():
        raise BenchError(f"{run}: is the board itself; name the folder of a run")
    with _locked(folder / BOARD):
        return _add(run, folder, methods, as_deviation, more)


def chosen(cells: Mapping[Path, Cell], methods: Sequence[str], run: Path) -> dict[Path, Cell]:
    """The cells of some methods, by spec, label or the method's name, and the base.

    Raises:
        BenchError: no cell has such a name; says what is close.
    """
    names = {
        path: {cell.method, cell.label, boards.method_name(path, cell)} - {""}
        for path, cell in cells.items()
    }
    known = {name for of in names.values() for name in of}
    for method in methods:
        if method not in known:
            raise BenchError(f"{run}: {UnknownNameError('method', method, known)}")
    return {
        path: cell
        for path, cell in cells.items()
        if not methods or cell.base or names[path] & set(methods)
    }


def _add(
    run: Path,
    folder: Path,
    methods: Sequence[str],
    as_deviation: bool,
    more: Sequence[Renderer],
) -> Added:
    cells = chosen(results.load_cells(run), methods, run)
    run_prompts = results.load_prompts(run)
    # An `add` that was killed has left its promise in the ledger; this one may keep it.
    bringing: Iterable[results.Record] = (*cells.values(), *run_prompts.values())
    board = boards.load(folder, promised={_name(folder, record) for record in bringing})
    assert board.file is not None
    coming = _coming(cells, board)
    boards.hold_to_protocol(board.file, coming.new, None if as_deviation else set())
    prompts = {**run_prompts, **board.prompts}
    for path, cell in coming.new.items():
        boards.refuse_unsound(path, cell, board.file)
        _refuse_without_prompts(path, cell, prompts, run)
    # By their paths in the run, so that what is refused is found; in the order of the board.
    replaced = {results.record_path(folder, cell) for cell in coming.new.values()}
    stay = {path: cell for path, cell in board.cells.items() if path not in replaced}
    together = dict(
        sorted(
            {**stay, **coming.new}.items(), key=lambda item: results.record_path(folder, item[1])
        )
    )
    boards.refuse_unadmitted(board.file, together, folder)
    built = comparing.compare(together, prompts)

    needed = {d: prompts[d] for cell in coming.new.values() for d in _digests(cell)}
    absent = [table for digest, table in sorted(needed.items()) if digest not in board.prompts]
    files = {_name(folder, table): results.record_text(table).encode() for table in absent}
    # As they are: a file of an older schema stays one.
    files |= {_name(folder, cell): path.read_bytes() for path, cell in coming.new.items()}
    away = {_name(folder, cell): board.file.deviations(cell) for cell in coming.new.values()}
    deviations = {name: what for name, what in away.items() if what}
    ledger = _extended(board.ledger, files, deviations)
    after = replace(
        board,
        ledger=ledger,
        cells={results.record_path(folder, cell): cell for cell in together.values()},
        prompts=prompts,
    )
    tables = {name: text.encode() for name, text in boards.render(after, built, more).items()}
    _put(folder, {LEDGER: ledger.to_json().encode(), **files, **tables})
    return Added(
        files=tuple(sorted(files)), known=coming.known, notes=coming.notes, deviations=deviations
    )


def _coming(cells: Mapping[Path, Cell], board: Board) -> _Coming:
    """What of a run is new to a board."""
    new: dict[Path, Cell] = {}
    known, notes = 0, []
    for path, cell in cells.items():
        place = results.record_path(board.folder, cell)
        other = board.cells.get(place)
        if other is None or _mends(cell, other):
            new[path] = cell
        elif _scores(cell) == _scores(other):
            known += 1
        else:
            notes.append(_stays(path, cell, place, other))
    return _Coming(new, known, tuple(notes))


def _mends(cell: Cell, other: Cell) -> bool:
    """Whether a result comes where the board holds a failure."""
    return isinstance(cell, CellResult) and isinstance(other, CellFailure)


def _scores(cell: Cell) -> dict[tuple[str, str], tuple[float, ...]]:
    """(prompt set, scorer) -> scores; {} of a failure."""
    parts = cell.evaluations if isinstance(cell, CellResult) else ()
    return {(part.prompt_set, name): s for part in parts for name, s in part.scores.items()}


def _stays(path: Path, cell: Cell, place: Path, other: Cell) -> str:
    """Why the board keeps what it has of a cell, in a note.

    Raises:
        BenchError: the two give other figures; only a base that was drawn on another device may
            differ a little.
    """
    if isinstance(cell, CellFailure):
        return f"{path} is a failure; the board keeps {place}"
    ours, theirs = _scores(cell), _scores(other)
    for prompt_set, scorer in sorted(ours.keys() | theirs.keys()):
        where = f"{path}: record.evaluations ({prompt_set}).scores.{scorer}"
        a = np.array(ours.get((prompt_set, scorer), ()))
        b = np.array(theirs.get((prompt_set, scorer), ()))
        if a.shape != b.shape:
            raise BenchError(
                f"{where}: {len(a)} against {len(b)} of the same cell, which the board holds as "
                f"{place}; leave one out"
            )
        differ = np.flatnonzero(a != b)
        if len(differ) and not cell.base:
            first = int(differ[0])
            raise BenchError(
                f"{where}[{first}]: {shown(float(a[first]))} against {shown(float(b[first]))} of "
                f"the same cell, which the board holds as {place}; leave one out"
            )
        apart, spread = float(np.abs(a - b).mean()), float(b.std())
        if apart > OTHER_BASE * spread:
            raise BenchError(
                f"{where}: this base is not the board's ({place}): the two are {apart:.3g} apart "
                f"in the mean, and its images {spread:.3g} among each other (standard deviation)"
            )
    return (
        f"{path} scores a little differently than the board's base, {place}, which every win rate "
        f"is measured against"
    )


def _refuse_without_prompts(
    path: Path, cell: Cell, prompts: Mapping[str, PromptTable], run: Path
) -> None:
    """Raise `BenchError` where the prompts of a cell are not there, or not so many."""
    for name, digest in sorted(cell.evaluation.prompts.items()):
        if digest not in prompts:
            raise BenchError(
                f"{path}: record.evaluation.prompts.{name}: neither {run / 'prompts'} nor the "
                f"board holds the prompts with hash {digest[:12]}"
            )
    for part in cell.evaluations if isinstance(cell, CellResult) else ():
        count = len(prompts[part.prompts_sha256].texts)
        if part.prompts != count:
            raise BenchError(
                f"{path}: record.evaluations ({part.prompt_set}).prompts: {part.prompts} against "
                f"the {count} prompts with hash {part.prompts_sha256[:12]}"
            )


def _digests(cell: Cell) -> Iterable[str]:
    return cell.evaluation.prompts.values()


def _extended(ledger: Ledger, files: Mapping[str, bytes], deviations: Iterable[str]) -> Ledger:
    added = {name: sha256(data).hexdigest() for name, data in files.items()}
    stay = {*ledger.deviations} - added.keys()
    return Ledger(files={**ledger.files, **added}, deviations=tuple(sorted({*stay, *deviations})))


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, so that all are there or, if one cannot be written, none.

    The ledger comes first: where the process is killed, the same command goes on.
    """
    before: dict[Path, bytes | None] = {}
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            before[path] = path.read_bytes() if path.exists() else None
            write_atomic(path, data)
    except BaseException as error:
        for path, old in reversed(before.items()):
            if old is None:
                path.unlink(missing_ok=True)
            elif path.read_bytes() != old:
                write_atomic(path, old)
        if isinstance(error, OSError):
            raise BenchError(
                f"{error.filename or folder}: cannot be written ({error.strerror}); the board is "
                f"as it was"
            ) from error
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two that add to a board wait for each other."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _name(folder: Path, record: results.Record) -> str:
    return results.record_path(folder, record).relative_to(folder).as_posix()
