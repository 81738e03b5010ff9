"""How a board comes to be: its protocol is frozen, from results or before there are any."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.leaderboard import board as boards
from bench.leaderboard import results
from bench.leaderboard.board import (
    BOARD,
    LEDGER,
    Admission,
    BoardFile,
    FrozenProtocol,
    Ledger,
)
from bench.leaderboard.protocol import Protocol, distinctions
from bench.leaderboard.results import Cell, CellResult, write_text
from bench.leaderboard.run_folder import MARK
from bench.lib.canonical_json import compact
from bench.lib.errors import BenchError
from bench.lib.strict import validated
from bench.lib.wording import listed


def of_results(
    run: Path, cells: Mapping[Path, Cell], digest: str = ""
) -> tuple[Protocol, tuple[str, ...]]:
    """The protocol that results share, and the scorers that they declare held out.

    Args:
        run: where they lie, for messages.
        cells: the results.
        digest: the first digits of the one that is meant, where there are several.

    Raises:
        BenchError: they have several; names in what they differ.
    """
    protocols = {cell.protocol.digest: cell.protocol for cell in cells.values()}
    trained = {key: p for key, p in protocols.items() if p.training} or protocols
    meant = {key: p for key, p in sorted(trained.items()) if key.startswith(digest)}
    if len(meant) != 1:
        words = distinctions(list(trained.values()))
        each = (f"{k[:8]} ({listed(w, 3)})" for k, w in zip(trained, words, strict=True))
        raise BenchError(
            f"{run}: holds results of {len(trained)} protocols: {listed(each)}; name one with "
            f"--protocol"
        )
    (protocol,) = meant.values()
    held = {
        path: tuple(sorted(cell.held_out))
        for path, cell in cells.items()
        if isinstance(cell, CellResult) and cell.evaluation.digest == protocol.evaluation.digest
    }
    if not held:
        raise BenchError(f"{run}: holds failures only; freeze the protocol of a result")
    first = next(iter(held))
    for path, names in held.items():
        if names != held[first]:
            raise BenchError(
                f"{path}: record.held_out: {listed(names) or 'none'} against "
                f"{listed(held[first]) or 'none'} in {first}"
            )
    return protocol, held[first]


def freeze(
    folder: Path,
    protocol: Protocol,
    held_out: Iterable[str],
    *,
    title: str,
    description: str = "",
    admits: Admission | None = None,
    results_then: int = 0,
) -> BoardFile:
    """Write `board.yaml`, and the ledger and the tables of what lies on the board.

    Args:
        folder: the board; made if it is not there.
        protocol: what every result shall share; without training, each may have its own.
        held_out: scorers that no training may have read.
        title: of the board.
        description: of the board; empty lines part paragraphs.
        admits: what may be added; None: any method with one train seed or more.
        results_then: results that the protocol was taken from; 0: of a recipe.

    Raises:
        BenchError: a protocol is frozen there already, results there differ from this one, or the
            folder cannot be written.
    """
    if (folder / BOARD).exists():
        raise BenchError(
            f"{folder / BOARD}: is there, and what is frozen stays so; edit title, description and "
            f"admits by hand, or name another board"
        )
    if (folder / MARK).exists():
        raise BenchError(f"{folder}: is the folder that a run writes to; name one for the board")
    section = FrozenProtocol.model_validate(
        {**json.loads(compact(protocol)), "held_out": sorted(held_out)}
    )
    file = validated(
        BoardFile,
        {
            "title": title,
            "description": description,
            "admits": admits or Admission(),
            "protocol": section,
            "frozen": {
                "digest": section.digest,
                "what": "evaluation and training" if section.training else "evaluation",
                "results_then": results_then,
            },
        },
        str(folder / BOARD),
    )
    held = boards.held_files(folder)
    if any(name.startswith("results/") for name in held):
        cells = results.load_cells(folder)
        boards.hold_to_protocol(file, cells, set())
        for path, cell in cells.items():
            boards.refuse_unsound(path, cell, file)
        boards.refuse_unadmitted(file, cells, folder)
    try:
        write_text(folder / LEDGER, Ledger(files=held).to_json())
        write_text(folder / BOARD, file.to_yaml())
        boards.write(folder)
    except OSError as error:
        raise BenchError(
            f"{error.filename or folder}: cannot be written ({error.strerror})"
        ) from error
    return file
