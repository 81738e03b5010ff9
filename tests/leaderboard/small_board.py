"""A small board made from seeds: three methods, two prompt sets, two train seeds, a failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bench.leaderboard.protocol import EvaluationProtocol, TrainingProtocol
from bench.leaderboard.results import (
    Budget,
    CellFailure,
    CellResult,
    Cost,
    PromptSetScores,
    save_record,
)
from bench.recipe.prompt_table import PromptTable

PARTI = PromptTable(
    name="parti",
    texts=tuple(f"a picture of {i % 38} birds" for i in range(40)),
    groups=tuple({"category": "Animals" if i % 2 else "Objects"} for i in range(40)),
)
STYLES = PromptTable(
    name="styles",
    texts=tuple(f"style number {i}" for i in range(20)),
    groups=tuple({"style": "anime" if i < 10 else "photo"} for i in range(20)),
)
TABLES = (PARTI, STYLES)
SCORERS = ("colour", "gold", "shape")


def scores(table: PromptTable, lift: float, seed: int, scorers: tuple[str, ...]) -> Any:
    rng = np.random.RandomState(seed)
    noise = {s: rng.randint(-8, 9, size=2 * len(table.texts)) for s in SCORERS}
    return PromptSetScores(
        prompt_set=table.name,
        prompts_sha256=table.sha256,
        prompts=len(table.texts),
        image_seeds=(0, 1),
        scores={s: tuple((noise[s] / 8 + lift).tolist()) for s in scorers},
    )


EVALUATION = EvaluationProtocol(
    backbone={"name": "tiny", "version": "1", "options": {}, "fingerprint": "abc"},
    sampling={"scheduler": "ddim", "steps": 20, "guidance": 7.5},
    image_seeds=(0, 1),
    prompts={table.name: table.sha256 for table in TABLES},
    scorers={s: {"name": s, "version": "1", "options": {}, "fingerprint": ""} for s in SCORERS},
)
TRAINING = TrainingProtocol(
    pairs={"name": "shapes", "version": "1", "options": {}, "fingerprint": "def"},
    filters={"ties": "keep"},
    framing={"crop": "center"},
    options={"steps": 10, "batch_size": 8},
)


def identity(method: str, **changes: Any) -> dict[str, Any]:
    base = method == "base"
    return {
        "method": method,
        "seed": 0,
        "backbone": "tiny",
        "pairs": "" if base else "shapes",
        "recipe": "small",
        "base": base,
        "described": {"name": method, "version": "1", "options": {"beta": 500.0}},
        "label_scorers": {},
        "evaluation": EVALUATION,
        "training": None if base else TRAINING,
        **changes,
    }


def failure(method: str, reason: str = "killed", **changes: Any) -> CellFailure:
    return CellFailure(**identity(method, **changes), reason=reason)


def cell(method: str, *, lift: float = 0.0, seed: int = 0, **changes: Any) -> CellResult:
    scorers = changes.pop("scorers", SCORERS)
    base = method == "base"
    result = CellResult(
        **identity(method, seed=seed),
        in_loop=(),
        held_out=("gold",),
        budget=Budget(
            steps=0 if base else 10,
            pairs_seen=0 if base else 80,
            pairs_kept=0 if base else 100,
            pairs_dropped=0 if base else 5,
        ),
        cost=Cost(
            label_seconds=0.0 if base else 1.5,
            train_seconds=0.0 if base else 10.25 + seed,
            sample_seconds=3.0,
            score_seconds=0.5,
            train_nfe=0 if base else 320,
            sample_nfe=2 * 20 * 120,
            peak_memory_mb=0.0 if base else 900.5,
        ),
        provenance={"numpy": "2.0"},
        evaluations=tuple(
            scores(table, lift, 1000 * i + 10 * sum(map(ord, method)) + seed, scorers)
            for i, table in enumerate(TABLES)
        ),
    )
    return dataclasses.replace(result, **changes)


def steps(count: int) -> TrainingProtocol:
    """The protocol with another budget."""
    return dataclasses.replace(TRAINING, options={**TRAINING.options, "steps": count})


def sampled(**changes: Any) -> EvaluationProtocol:
    """The protocol with another sampling."""
    return dataclasses.replace(EVALUATION, sampling={**EVALUATION.sampling, **changes})


def cells() -> list[CellResult | CellFailure]:
    return [
        cell("base"),
        cell("dpo", lift=0.3, label="Diffusion-DPO"),
        cell("smpo[beta=500]", lift=0.4, seed=0, in_loop=("colour", "shape")),
        cell("smpo[beta=500]", lift=0.5, seed=1, in_loop=("colour", "shape")),
        cell("sft", lift=-0.2, scorers=("colour", "gold")),
        failure("ipo|x", "loss is not finite\nat step 3"),
    ]


def save(board: Path, records: list[CellResult | CellFailure]) -> Path:
    for table in TABLES:
        save_record(board, table)
    for record in records:
        save_record(board, record)
    return board
