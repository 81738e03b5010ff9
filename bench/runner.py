"""Walking the plan: run what is not there, keep failures to their cell, resume.

Every stage runs under its key's lock in a partial folder and becomes an artefact in one step,
so a killed run goes on with the same command and two runs may share a store.
"""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import images as image_files
from bench.errors import BenchError, DamagedArtefactError
from bench.measure import Meter
from bench.plan import (
    EncodeStage,
    InspectStage,
    Plan,
    RewardsStage,
    SampleStage,
    ScoreStage,
    Stage,
    TrainStage,
)
from bench.progress import Progress, Task
from bench.protocols import LoadedScorer, PairRewards, PreferencePairs, Scorer
from bench.store import Artefact, Cost, Partial, Store, write_atomic

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.diffusion.policy import Policy
    from bench.training.setup import EncodedPairs, StepReport, TrainingBudget

_FATAL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "a part of the path is not a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the store holds of a plan."""

    finished: frozenset[str]
    damaged: Mapping[str, str]
    """Key -> what is wrong with the artefact."""


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What became of the stages that had to run."""

    ran: tuple[str, ...]
    """Keys of the stages that this run finished itself."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Key -> reason, for failed stages and those that needed them."""


def status(plan: Plan, store: Store) -> Status:
    """Which stages are finished, with every artefact's checksums compared."""
    finished, damaged = set(), {}
    for stage in plan.stages:
        try:
            if store.find(stage.name, stage.key):
                finished.add(stage.key)
        except DamagedArtefactError as error:
            damaged[stage.key] = str(error)
    return Status(finished=frozenset(finished), damaged=damaged)


@contextmanager
def clear_io_errors() -> Iterator[None]:
    """Turn "disk full", "read-only" and the like into one sentence with the remedy."""
    try:
        yield
    except OSError as error:
        reason = _FATAL.get(error.errno or 0)
        if reason is None:
            raise
        raise BenchError(_cannot_write(str(error.filename or ""), reason)) from error
    except Exception as error:
        # Libraries written in Rust wrap the system's error in a class of their own.
        if _is_full(error):
            raise BenchError(_cannot_write("", "the disk is full")) from error
        raise


def _cannot_write(name: str, reason: str) -> str:
    where = f" {name}" if name else ""
    return (
        f"cannot write{where}: {reason}; what had finished is kept, so make room or choose "
        f"another --store, then run the same command again"
    )


class Runner:
    """Runs a plan's missing stages on one device."""

    def __init__(self, plan: Plan, store: Store, device: str, progress: Progress) -> None:
        """`device` is "cpu", "cuda", "cuda:1", ..."""
        self.plan, self.store, self.device, self.progress = plan, store, device, progress
        self._scorer: tuple[Scorer, LoadedScorer] | None = None

    def run(self, finished: frozenset[str]) -> RunOutcome:
        """Run every stage whose key is not in `finished`; a failure stays with its cell."""
        ran: list[str] = []
        failures: dict[str, str] = {}
        for stage in self.plan.stages:
            if stage.key in finished:
                continue
            cause = next((failures[key] for key in stage.inputs if key in failures), None)
            if cause:
                failures[stage.key] = cause
                continue
            with clear_io_errors():
                try:
                    ran += [stage.key] if self._make(stage) else []
                except (InspectFailedError, OSError):
                    raise
                except Exception as error:
                    if _is_full(error):
                        raise
                    failures[stage.key] = self._failed(stage, error)
        return RunOutcome(ran=tuple(ran), failures=failures)

    def _failed(self, stage: Stage, error: Exception) -> str:
        """Say why a stage failed; an unforeseen error leaves its traceback in a file."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, BenchError):
            log = self.store.root / "failures" / f"{stage.name}-{stage.key}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            reason = f"{type(error).__name__}: {reason} (traceback: {log})"
        self.progress.say(f"failed: {stage.label}: {reason}")
        return f"{stage.label}: {reason}"

    def _make(self, stage: Stage) -> bool:
        """Run one stage; False where another run finished it meanwhile."""

        def waiting() -> None:
            self.progress.say(f"  {stage.label}: another run is at it, waiting for its result")

        with self.store.lock(stage.key, waiting):
            if self._finished_meanwhile(stage):
                return False
            partial = self.store.begin(stage.key)
            earlier, meter = partial.earlier_seconds(), Meter(self.device)
            with self.progress.task(stage.label, stage.work) as task:

                def note() -> None:
                    partial.note_seconds(earlier + meter.seconds)

                info, passes = self._work(stage, partial, _Noting(task, note))
            cost = Cost(
                seconds=round(earlier + meter.seconds, 3),
                passes=passes,
                peak_memory_mb=round(meter.peak_memory_mb, 1),
            )
            self.store.commit(stage.name, stage.key, partial, cost, info)
            return True

    def _finished_meanwhile(self, stage: Stage) -> bool:
        try:
            return self.store.find(stage.name, stage.key) is not None
        except DamagedArtefactError as error:
            self.progress.say(f"damaged artefact: {error}; making it again")
            self.store.discard(stage.name, stage.key)
            return False

    def _work(self, stage: Stage, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        """Do the stage's work into `partial.out`; returns its info and network passes."""
        match stage:
            case InspectStage():
                return self._inspect(stage, partial), 0
            case EncodeStage():
                return self._encode(stage, partial, task), 0
            case RewardsStage():
                return self._rewards(stage, partial, task), 0
            case TrainStage():
                return self._train(stage, partial, task)
            case SampleStage():
                return self._sample(stage, partial, task)
            case ScoreStage():
                return self._score(stage, partial, task), 0
        raise TypeError(stage)

    @cached_property
    def _pairs(self) -> PreferencePairs:
        return self.plan.pairs.load()

    @cached_property
    def _policy(self) -> Policy:
        return self.plan.backbone.load(self.device)

    @cached_property
    def _base_weights(self) -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in self._policy.denoiser.state_dict().items()}

    def _policy_at(self, checkpoint: str | None) -> Policy:
        """The policy with the weights of a finished training, or the untouched ones."""
        base = self._base_weights
        if checkpoint is None:
            self._policy.denoiser.load_state_dict(base)
        else:
            self._policy.load_denoiser(self._artefact("train", checkpoint).path / "unet")
        return self._policy

    def _artefact(self, stage: str, key: str) -> Artefact:
        return Artefact(self.store.path(stage, key))

    def _load_scorer(self, scorer: Scorer) -> LoadedScorer:
        """The scorer's weights; only the last one used stays in memory."""
        if self._scorer is None or self._scorer[0] != scorer:
            self._scorer = None
            self._scorer = (scorer, scorer.load(self.device))
        return self._scorer[1]

    def _usable(self, inspect: str) -> list[int]:
        data = json.loads((self._artefact("inspect", inspect).path / "usable.json").read_text())
        rows: list[int] = data["usable"]
        return rows

    def _inspect(self, stage: InspectStage, partial: Partial) -> dict[str, Any]:
        try:
            pairs = self._pairs
            broken = image_files.broken_rows(pairs, self.plan.recipe.max_broken_share)
        except BenchError as error:
            raise InspectFailedError(str(error)) from error
        bad = {b.row for b in broken}
        usable = [row for row in range(len(pairs.captions)) if row not in bad]
        document = {"usable": usable, "broken": [asdict(b) for b in broken]}
        write_atomic(partial.out / "usable.json", (json.dumps(document) + "\n").encode())
        if broken:
            self.progress.say(
                f"  {len(broken)} of {len(pairs.captions)} pairs skipped, an image cannot be "
                f"decoded: {image_files.describe(broken)}"
            )
        return {"pairs": len(pairs.captions), "broken": len(broken)}

    def _encode(self, stage: EncodeStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.training import encoding

        rows = self._usable(stage.inspect)
        document = encoding.encode(
            self._policy,
            self._pairs,
            rows,
            self.plan.backbone.resolution,
            partial.work,
            task.advance,
        )
        write_atomic(partial.out / encoding.FILE, document)
        return {"pairs": len(rows)}

    def _rewards(self, stage: RewardsStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.evaluation.scoring import score_in_chunks

        pairs, rows = self._pairs, self._usable(stage.inspect)
        columns = (pairs.images_0, pairs.images_1)
        scores = score_in_chunks(
            self._load_scorer(stage.scorer),
            stage.scorer.name,
            lambda i: image_files.decode(columns[i % 2][rows[i // 2]]),
            [pairs.captions[row] for row in rows for _ in (0, 1)],
            partial.work,
            task.advance,
        ).reshape(-1, 2)
        _write_table(
            partial.out / "rewards.parquet",
            {"row": rows, "reward_0": scores[:, 0], "reward_1": scores[:, 1]},
        )
        return {"pairs": len(rows)}

    def _train(self, stage: TrainStage, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        from bench.training.setup import TrainingSetup

        reported = _StepTask(task)
        outcome = stage.method.train(
            TrainingSetup(
                policy=self._policy_at(None),
                pairs=self._encoded(stage.encode),
                rewards=self._pair_rewards(stage),
                budget=self._budget(),
                seed=stage.seed,
                workspace=partial.work,
                report=reported,
            )
        )
        self._policy.save_denoiser(partial.out / "unet")
        curve = [asdict(step) for step in outcome.steps]
        _write_csv(partial.out / "curve.csv", curve)
        info = {
            "steps": len(outcome.steps),
            "pairs_seen": outcome.pairs_seen,
            "pairs_kept": outcome.pairs_kept,
            "pairs_dropped": outcome.pairs_dropped,
        }
        return info, outcome.passes

    def _encoded(self, key: str) -> EncodedPairs:
        import torch

        from bench.training import encoding

        path = self._artefact("encode", key).path / encoding.FILE
        return encoding.read(path.read_bytes(), torch.device(self.device))

    def _pair_rewards(self, stage: TrainStage) -> PairRewards:
        inspect = next(s for s in self.plan.stages if s.key == stage.encode)
        assert isinstance(inspect, EncodeStage)
        rewards = {
            name: _read_rewards(self._artefact("rewards", key).path / "rewards.parquet")
            for name, key in stage.rewards.items()
        }
        return PairRewards(human=self._pairs.human[self._usable(inspect.inspect)], rewards=rewards)

    def _budget(self) -> TrainingBudget:
        from bench.training.setup import TrainingBudget

        config = self.plan.recipe.training
        options = config.model_dump()
        options["micro_batch_size"] = config.micro_batch_size or config.batch_size
        return TrainingBudget(**options)

    def _sample(
        self, stage: SampleStage, partial: Partial, task: Task
    ) -> tuple[dict[str, Any], int]:
        from bench.diffusion.sampling import sample

        config, prompts = self.plan.recipe.sampling, stage.prompts.texts
        folder = partial.out / "images"
        folder.mkdir(exist_ok=True)
        policy: Policy | None = None
        for start in range(0, len(prompts), config.batch_size):
            rows = range(start, min(start + config.batch_size, len(prompts)))
            files = [folder / f"{row:05d}.png" for row in rows]
            if not all(_is_image(file) for file in files):
                policy = policy or self._policy_at(stage.checkpoint)
                sampled = sample(
                    policy,
                    [prompts[row] for row in rows],
                    [stage.image_seed] * len(rows),
                    scheduler=config.scheduler,
                    steps=config.steps,
                    guidance=config.guidance,
                )
                for file, picture in zip(files, sampled.images, strict=True):
                    write_atomic(file, _png(picture))
            task.advance(len(rows))
        return {"images": len(prompts)}, stage.passes

    def _score(self, stage: ScoreStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.evaluation.scoring import score_in_chunks

        folder = self._artefact("sample", stage.sample).path / "images"
        name = stage.scorer.name
        scores = score_in_chunks(
            self._load_scorer(stage.scorer),
            name,
            lambda i: image_files.decode((folder / f"{i:05d}.png").read_bytes()),
            stage.prompts.texts,
            partial.work,
            task.advance,
        )
        _write_table(
            partial.out / "scores.parquet", {"prompt": np.arange(len(scores)), "score": scores}
        )
        return {"images": len(scores)}


class InspectFailedError(BenchError):
    """The preference set itself cannot be used: nothing can be trained."""


class _Noting:
    """A task that also notes the seconds spent, so that an interrupted stage's cost is whole."""

    def __init__(self, task: Task, note: Any) -> None:
        self._task, self._note = task, note

    def advance(self, amount: int, note: str = "") -> None:
        self._task.advance(amount, note)
        self._note()


class _StepTask:
    """Turns step reports into progress with the health signals beside it."""

    def __init__(self, task: Task) -> None:
        self._task, self._done = task, 0

    def __call__(self, report: StepReport) -> None:
        signals = [
            ("loss", report.loss),
            ("implicit accuracy", report.implicit_accuracy),
            ("margin", report.margin),
            ("distance", report.distance),
        ]
        note = ", ".join(f"{name} {value:.3g}" for name, value in signals if value == value)
        self._task.advance(report.step - self._done, note)
        self._done = report.step


def _is_full(error: Exception) -> bool:
    return "No space left on device" in str(error) or "File too large" in str(error)


def _is_image(file: Path) -> bool:
    try:
        image_files.decode(file.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _png(image: Image) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    import pandas as pd

    write_atomic(path, pd.DataFrame(dict(columns)).to_parquet(index=False))


def _read_rewards(path: Path) -> np.ndarray:
    import pandas as pd

    frame = pd.read_parquet(path)
    rewards: np.ndarray = frame[["reward_0", "reward_1"]].to_numpy(dtype=np.float64)
    return rewards


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import csv
    import io

    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())
