"""train: one method, one train seed, from the untouched backbone.

Reads the encoded pairs and the rewards that its labels need. Leaves the checkpoint, as diffusers
loads it, and `curve.csv` (a row a step). Its key hashes the method, the train seed, these inputs
and the budget.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import contracts, scorer_loads
from bench.api.kinds import Backbone, Method, PairRewards
from bench.api.pair_method import PairMethod
from bench.api.training import TrainingBudget
from bench.lib.files import write_atomic
from bench.lib.io_errors import clear_io_errors
from bench.stages import encode as encoding
from bench.stages.encode import EncodeStage
from bench.stages.rewards import RewardsStage, read_rewards
from bench.stages.stage import Made, Stage

if TYPE_CHECKING:
    from bench.api.training import StepReport
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial


CURVE = "curve.csv"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainStage(Stage):
    """One cell's training; units: optimiser steps."""

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 1
    in_step: ClassVar[bool] = True

    backbone: Backbone
    method: Method
    seed: int
    encode: EncodeStage
    rewards: Mapping[str, RewardsStage]
    """Scorer spec -> its rewards."""
    training: TrainingBudget
    expected_nfe: int
    reads: tuple[str, ...]
    """Names of the scorers, without options, that the method declares."""

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.encode, *self.rewards.values())

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {
            "seed": self.seed,
            "encode": self.encode.key,
            "rewards": {name: stage.key for name, stage in sorted(self.rewards.items())},
            "budget": self.training.affecting_results(),
        }

    @property
    def units(self) -> int:  # noqa: D102
        return self.training.steps

    @property
    def nfe(self) -> int:  # noqa: D102
        return self.expected_nfe

    @property
    def load(self) -> float:
        """A backward pass costs about two evaluations, and gradient checkpointing a third."""
        method, training = self.method, self.training
        alone = isinstance(method, PairMethod) and method.loss.winner_only
        shown = training.steps * training.batch_size * (1 if alone else 2)
        return self.nfe + shown * (3 if training.gradient_checkpointing else 2)

    @property
    def seconds_per_load(self) -> float:  # noqa: D102
        return self.backbone.seconds_per_evaluation

    @property
    def memory_remedy(self) -> str:  # noqa: D102
        training = self.training
        smaller = max(1, (training.micro_batch_size or training.batch_size) // 2)
        options = {
            f"training.micro_batch_size={smaller}": True,
            "training.gradient_checkpointing=true": not training.gradient_checkpointing,
            "training.precision=bf16": training.precision == "fp32",
            "training.lora_rank=16": training.lora_rank is None,
        }
        open_ones = " or ".join(f"--set {option}" for option, given in options.items() if given)
        return f"out of memory; try {open_ones} (the first two change no result)"

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        from bench.api.kinds import TrainingSetup
        from bench.lib.evaluations import counting
        from bench.training.loop import train_pairs

        world = context.world
        with context.untouched(self.backbone) as policy:
            setup = TrainingSetup(
                policy=policy,
                pairs=encoding.read(context.folder(self.encode)),
                rewards=self._rewards(context),
                budget=self.training,
                seed=self.seed,
                workspace=partial.work,
                report=_StepTask(task),
                train_pairs=train_pairs,
                world=world,
            )
            with counting() as evaluations, scorer_loads.only(self.label, self.reads):
                outcome = contracts.trained(self.method, setup)
            spent = sum(world.gather(evaluations.spent)) + evaluations.carried
            if world.is_main:
                with contracts.asking(self.backbone), clear_io_errors():
                    policy.save_checkpoint(partial.out)
                _write_csv(partial.out / CURVE, [asdict(step) for step in outcome.steps])
        info = {
            "steps": len(outcome.steps),
            "pairs_seen": outcome.pairs_seen,
            "pairs_kept": outcome.pairs_kept,
            "pairs_dropped": outcome.pairs_dropped,
        }
        return Made(info=info, nfe=spent)

    def _rewards(self, context: Context) -> PairRewards:
        # The table is read once for all cells.
        table = context.table(self.encode.inspect)
        rewards = {name: read_rewards(context.folder(s)) for name, s in self.rewards.items()}
        return contracts.read_only(PairRewards(human=table.human.copy(), rewards=rewards))


class _StepTask:
    """Turns step reports into progress with the health signals beside it."""

    def __init__(self, task: Task) -> None:
        self._task, self._done = task, 0

    def __call__(self, report: StepReport) -> None:
        signals = [
            ("loss", report.loss),
            ("implicit accuracy", report.implicit_accuracy),
            ("margin", report.margin),
            ("relative weight change", report.relative_weight_change),
        ]
        note = ", ".join(f"{name} {value:.3g}" for name, value in signals if value == value)
        self._task.advance(report.step - self._done, note)
        self._done = report.step


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())


def read_curve(folder: Path) -> dict[str, np.ndarray]:
    """Column of `StepReport` -> float64 [steps] that a finished stage left; {} without a step.

    What is no number, such as the margin of a method that has none, is NaN.
    """
    with (folder / CURVE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else ())
    }
