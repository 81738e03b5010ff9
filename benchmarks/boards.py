"""How long a large board takes to load and to build: `python benchmarks/boards.py [RESULTS]`.

Makes a board of 300 results (a base, and methods of three train seeds), each of 320 prompts in two
sets and five scorers, in a temporary folder, and times the parts of `bench leaderboard build`.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from bench.leaderboard import comparing, results, tables
from bench.leaderboard.protocol import EvaluationProtocol, TrainingProtocol
from bench.leaderboard.results import Budget, CellResult, Cost, PromptSetScores
from bench.recipe.prompt_table import PromptTable

_T = TypeVar("_T")
PROMPTS, SETS, SEEDS = 160, 2, 3
SCORERS = ("hpsv2", "pickscore", "clip", "aesthetic", "image_reward")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    with TemporaryDirectory() as folder:
        board = Path(folder)
        _write(board, count)
        size = sum(path.stat().st_size for path in board.rglob("*.json"))
        print(
            f"{count} results of {SETS * PROMPTS} prompts and {len(SCORERS)} scorers: "
            f"{size / 1e6:.1f} MB"
        )
        cells = _timed("load", lambda: results.load_cells(board))
        prompts = results.load_prompts(board)
        built = _timed("compare", lambda: comparing.compare(cells, prompts))
        _timed("render", lambda: tables.render(built))
        _timed("build, all of it", lambda: tables.write(board))


def _timed(what: str, work: Callable[[], _T]) -> _T:
    start = time.perf_counter()
    made = work()
    print(f"  {what:<17} {time.perf_counter() - start:6.2f} s")
    return made


def _write(board: Path, count: int) -> None:
    sets = [
        PromptTable(
            name=f"set{number}",
            texts=tuple(f"prompt {i} of set {number}" for i in range(PROMPTS)),
            groups=tuple({"category": f"group {i % 4}"} for i in range(PROMPTS)),
        )
        for number in range(SETS)
    ]
    for table in sets:
        results.save_record(board, table)
    described = {"version": "1", "options": {}, "fingerprint": ""}
    evaluation = EvaluationProtocol(
        backbone={"name": "made", **described},
        sampling={"scheduler": "ddim", "steps": 50, "guidance": 7.5},
        image_seeds=(0,),
        prompts={table.name: table.sha256 for table in sets},
        scorers={name: {"name": name, **described} for name in SCORERS},
    )
    training = TrainingProtocol(
        pairs={"name": "pairs", **described},
        filters={"ties": "keep"},
        framing={"crop": "center"},
        options={"steps": 100, "batch_size": 16},
    )
    rng = np.random.RandomState(0)
    noise = rng.standard_normal((len(SCORERS), SETS, PROMPTS))
    curve = {"step": tuple(map(float, range(1, 101))), "loss": tuple(rng.rand(100).tolist())}
    for number in range(count):
        base = number == 0
        method, seed = (
            ("base", 0) if base else (f"method{(number - 1) // SEEDS}", (number - 1) % SEEDS)
        )
        shift = 0.0 if base else 0.3 * rng.rand()
        own = noise + 0.8 * rng.standard_normal(noise.shape) + shift
        cell = CellResult(
            method=method,
            seed=seed,
            backbone="made",
            pairs="" if base else "pairs",
            recipe="large",
            base=base,
            described={"name": method, **described},
            label_scorers={},
            evaluation=evaluation,
            training=None if base else training,
            in_loop=(),
            held_out=("image_reward",),
            budget=Budget(steps=100, pairs_seen=1600, pairs_kept=1200, pairs_dropped=0),
            cost=Cost(
                label_seconds=1.0,
                train_seconds=10.0,
                sample_seconds=5.0,
                score_seconds=2.0,
                train_nfe=6400,
                sample_nfe=9600,
                peak_memory_mb=1000.0,
            ),
            provenance={"numpy": "2.0"},
            evaluations=tuple(
                PromptSetScores(
                    prompt_set=table.name,
                    prompts_sha256=table.sha256,
                    prompts=PROMPTS,
                    image_seeds=(0,),
                    scores={name: tuple(own[j, i].tolist()) for j, name in enumerate(SCORERS)},
                    samples=(f"{number:020x}",),
                    facts={
                        fact: tuple(rng.rand(PROMPTS).round(6).tolist())
                        for fact in ("saturation", "contrast", "sharpness", "clipping")
                    },
                )
                for i, table in enumerate(sets)
            ),
        )
        if not base:
            cell = dataclasses.replace(cell, weight_distance=0.01, curve=curve)
        results.save_record(board, cell)


if __name__ == "__main__":
    main()
