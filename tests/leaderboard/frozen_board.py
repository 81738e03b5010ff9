"""Runs of the small board, and a board that their protocol is frozen for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.leaderboard import freezing, results
from bench.leaderboard.board import Admission
from bench.leaderboard.protocol import Protocol
from bench.leaderboard.results import Cell, CellResult, PromptSetScores
from tests.leaderboard import small_board

PROTOCOL = Protocol(small_board.EVALUATION, small_board.TRAINING)
DPO = ("dpo", "sft")


def cell(method: str, seed: int = 0, **changes: Any) -> CellResult:
    """A result whose methods are described as what they are called."""
    name = method.partition("[")[0]
    described = {"name": name, "version": "1", "options": {"beta": 500.0}}
    return small_board.cell(method, seed=seed, **{"described": described, **changes})


def run(folder: Path, *cells: Cell) -> Path:
    """A folder as a run leaves it, with the base."""
    return small_board.save(folder, [cell("base"), *cells])


def frozen(folder: Path, protocol: Protocol = PROTOCOL, **admits: Any) -> Path:
    """An empty board."""
    freezing.freeze(
        folder,
        protocol,
        ["gold"],
        title="Small",
        description="Of *seeds*.\n\nTwice.",
        admits=Admission(**admits),
    )
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def result(folder: Path, method: str = "dpo") -> Path:
    """The first result file of a method."""
    return sorted((folder / "results").glob(f"{results.safe_name(method)}--*.json"))[0]


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a record and renew its checksum, as whoever forges it would."""
    document = json.loads(path.read_text())
    change(document["record"])
    text = json.dumps(document["record"], sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document))
    return path


def moved(part: PromptSetScores, by: float) -> PromptSetScores:
    """Scores that lie higher."""
    raised = {name: tuple(v + by for v in values) for name, values in part.scores.items()}
    return dataclasses.replace(part, scores=raised)
