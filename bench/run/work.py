"""What each stage does: from finished artefacts to the files of a new one.

Several processes of one run do a stage together: each its share, into the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.api import contracts, scorer_loads
from bench.api.kinds import (
    Backbone,
    LoadedScorer,
    PairRewards,
    PreferenceSet,
    Scorer,
    is_baseline,
)
from bench.lib import images as image_files
from bench.lib import process_state
from bench.lib.distributed import ALONE, World
from bench.lib.errors import BenchError, PluginError, StoreError
from bench.lib.files import write_atomic
from bench.lib.io_errors import clear_io_errors
from bench.lib.prefetch import ahead
from bench.lib.progress import Task
from bench.lib.seeding import derive_seed
from bench.preferences import generating
from bench.preferences.inspecting import inspect
from bench.preferences.pair_table import PairTable
from bench.preferences.pair_table import read as read_table
from bench.scoring import truncation
from bench.scoring.chunks import SCORING_REMEDY
from bench.scoring.isolation.scorer import load
from bench.stages.records import (
    EncodeStage,
    GeneratedPairs,
    InspectStage,
    PairsStage,
    Plan,
    RewardsStage,
    SampleStage,
    ScoreStage,
    Stage,
    TrainStage,
)
from bench.store.store import Artefact, Partial, Store

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.api.policy import Policy
    from bench.api.training import StepReport, TrainingBudget

SCORES = "scores.parquet"
PREPARING = "evaluations_of_preparing"
"""In a sampling's info: denoiser evaluations of making the model whose images it has."""
DECODE_AHEAD = 64
"""Images decoded beside the scorer that will rate them."""


class InspectFailedError(BenchError):
    """The preference set itself cannot be used: nothing can be trained."""


class Worker:
    """Does stages on one device; models stay loaded from one stage to the next."""

    def __init__(self, plan: Plan, store: Store, device: str, world: World = ALONE) -> None:
        """`device` is "cpu", "cuda", "cuda:1", ..."""
        self.plan, self.store, self.device, self.world = plan, store, device, world
        self._scorer: tuple[Scorer, LoadedScorer] | None = None
        self._held: tuple[Any, Policy] | None = None
        self._preparing = 0
        """Denoiser evaluations that the making of the held model took."""
        self._table = lru_cache(maxsize=1)(self._read_table)

    def units(self, stage: Stage) -> int:
        """How much there is to do, now that the stages before are finished."""
        match stage:
            case EncodeStage():
                return len(self._table(stage.inspect).rows)
            case RewardsStage():
                return 2 * len(self._table(stage.inspect).rows)
        return stage.work

    def do(self, stage: Stage, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        """Do the stage's work into `partial.out`; returns its info and denoiser evaluations.

        A function of the stage alone, whatever was done, or failed, in this process before.
        """
        with process_state.kept(derive_seed("stage", stage.key)):
            return self._do(stage, partial, task)

    def forget(self) -> None:
        """Hold no model any more: after a failure nobody knows what was done to it."""
        self._scorer = None
        self._let_go()
        process_state.collect_garbage()

    def _do(self, stage: Stage, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        match stage:
            case PairsStage():
                return self._form_pairs(stage, partial, task), 0
            case InspectStage():
                return self._inspect(stage, partial, task), 0
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

    def _inspect(self, stage: InspectStage, partial: Partial, task: Task) -> dict[str, Any]:
        recipe = self.plan.recipe
        try:
            return dict(
                inspect(
                    self._pairs(stage.pairs),
                    recipe.filters,
                    max_broken_share=recipe.max_broken_share,
                    folder=partial.out,
                    work=partial.work,
                    world=self.world,
                    advance=task.advance,
                )
            )
        except (PluginError, StoreError):
            raise
        except BenchError as error:
            raise InspectFailedError(str(error)) from error

    def _form_pairs(self, stage: PairsStage, partial: Partial, task: Task) -> dict[str, Any]:
        """Pair the images of each prompt by their rewards, in the schema of Pick-a-Pic."""
        sampled = [self._stage(key) for key in stage.samples]
        samples = [self._artefact(sample).path / "images" for sample in sampled]
        rewards = {
            name: np.stack([_read_scores(self._artefact(self._stage(k)).path) for k in keys], 1)
            for name, keys in stage.rewards.items()
        }
        info: dict[str, Any] = {}
        if self.world.is_main:
            # Labels are a function of rewards that are there.
            with scorer_loads.only(stage.label, ()):
                info = generating.write(
                    partial.out / generating.FILE,
                    prompts=stage.prompts.texts,
                    image=lambda prompt, i: (samples[i] / f"{prompt:05d}.png").read_bytes(),
                    models=stage.models,
                    seeds=[s.image_seed for s in sampled if isinstance(s, SampleStage)],
                    rewards=rewards,
                    label_with=stage.label_with,
                    form=stage.form,
                    sampling=self.plan.recipe.sampling.model_dump(
                        mode="json", include={"scheduler", "steps", "guidance"}
                    ),
                    advance=task.advance,
                )
        return self.world.broadcast(info)

    def _encode(self, stage: EncodeStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.stages import encode as encoding

        usable = self._table(stage.inspect)
        with self._untouched(self.plan.backbone) as policy:
            encoding.encode(
                policy,
                self._pairs(stage.pairs),
                usable,
                resolution=self.plan.backbone.resolution,
                framing=self.plan.recipe.framing,
                folder=partial.out,
                work=partial.work,
                world=self.world,
                advance=task.advance,
            )
        return {"pairs": len(usable.rows)}

    def _rewards(self, stage: RewardsStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.scoring.chunks import score_in_chunks

        usable, pairs = self._table(stage.inspect), self._pairs(stage.pairs)

        def images(positions: Sequence[int]) -> Iterator[Image]:
            """Image i % 2 of usable pair i // 2; both of a pair come from one reading."""
            wanted = dict.fromkeys(int(usable.rows[i // 2]) for i in positions)
            sides: dict[int, list[int]] = {row: [] for row in wanted}
            for i in positions:
                sides[int(usable.rows[i // 2])].append(i % 2)
            encoded = (
                pair.images[side].data
                for pair in contracts.read_pairs(pairs, wanted)
                for side in sides[pair.row]
            )
            return ahead(image_files.decode, encoded, DECODE_AHEAD)

        with scorer_loads.only(stage.label, stage.reads):
            scores = score_in_chunks(
                lambda: self._load_scorer(stage.scorer),
                stage.scorer.name,
                images,
                [caption for caption in usable.captions for _ in (0, 1)],
                partial.work,
                task.advance,
                self.world,
            ).reshape(-1, 2)
        if self.world.is_main:
            columns = {"row": usable.rows, "reward_0": scores[:, 0], "reward_1": scores[:, 1]}
            _write_table(partial.out / "rewards.parquet", columns)
        return {"pairs": len(usable.rows)}

    def _train(self, stage: TrainStage, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        from bench.api.training import TrainingSetup
        from bench.lib.evaluations import counting
        from bench.stages import encode as encoding
        from bench.training.loop import train_pairs

        encode = self._stage(stage.encode)
        assert isinstance(encode, EncodeStage)
        with self._untouched(self.plan.backbone) as policy:
            setup = TrainingSetup(
                train_pairs=train_pairs,
                policy=policy,
                pairs=encoding.read(self._artefact(encode).path),
                rewards=self._pair_rewards(stage, self._table(encode.inspect)),
                budget=self._budget(),
                seed=stage.seed,
                workspace=partial.work,
                report=_StepTask(task),
                world=self.world,
            )
            with counting() as evaluations, scorer_loads.only(stage.label, stage.reads):
                outcome = contracts.trained(stage.method, setup)
            spent = sum(self.world.gather(evaluations.spent)) + evaluations.carried
            if self.world.is_main:
                with contracts.asking(self.plan.backbone), clear_io_errors():
                    policy.save_checkpoint(partial.out)
                _write_csv(partial.out / "curve.csv", [asdict(step) for step in outcome.steps])
        info = {
            "steps": len(outcome.steps),
            "pairs_seen": outcome.pairs_seen,
            "pairs_kept": outcome.pairs_kept,
            "pairs_dropped": outcome.pairs_dropped,
        }
        return info, spent

    def _pair_rewards(self, stage: TrainStage, table: PairTable) -> PairRewards:
        # The table is read once for all cells.
        rewards = {
            name: _read_rewards(self._artefact(self._stage(key)).path / "rewards.parquet")
            for name, key in stage.rewards.items()
        }
        return contracts.read_only(PairRewards(human=table.human.copy(), rewards=rewards))

    def _budget(self) -> TrainingBudget:
        from bench.api.training import TrainingBudget

        config = self.plan.recipe.training
        options = config.model_dump()
        options["micro_batch_size"] = config.micro_batch(self.world.size)
        return TrainingBudget(**options)

    def _sample(
        self, stage: SampleStage, partial: Partial, task: Task
    ) -> tuple[dict[str, Any], int]:
        from bench.diffusion.sampling import sample
        from bench.lib.evaluations import counting

        config, prompts = self.plan.recipe.sampling, stage.prompts.texts
        folder = partial.out / "images"
        folder.mkdir(exist_ok=True)
        batches = [
            range(start, min(start + config.batch_size, len(prompts)))
            for start in range(0, len(prompts), config.batch_size)
        ]
        known = _Spent.noted(partial.work)
        with self.world.all_or_none(), scorer_loads.only(stage.label, stage.reads):
            for turn, rows in enumerate(self.world.shard(batches)):
                files = [folder / f"{row:05d}.png" for row in rows]
                if not (known.covers(rows) and all(_is_image(file) for file in files)):
                    model = self._model(stage)
                    with contracts.asking(stage.backbone), counting() as evaluations:
                        sampled = sample(
                            model,
                            [prompts[row] for row in rows],
                            [stage.image_seed] * len(rows),
                            scheduler=config.scheduler,
                            steps=config.steps,
                            guidance=config.guidance,
                            compiled=config.compile,
                        )
                    images = contracts.checked_images(stage.backbone, sampled.images, len(rows))
                    for file, picture in zip(files, images, strict=True):
                        write_atomic(file, image_files.png(picture))
                    _Spent.of(rows, evaluations.spent, self._preparing).note(partial.work)
                # The other processes are at their batch of the same turn.
                size = self.world.size
                task.advance(sum(map(len, batches[turn * size : (turn + 1) * size])))
        # Those of all processes, and of attempts that were interrupted.
        noted = _Spent.noted(partial.work)
        return {"images": len(prompts), PREPARING: noted.preparing}, sum(noted.images.values())

    def _score(self, stage: ScoreStage, partial: Partial, task: Task) -> dict[str, Any]:
        from bench.scoring.chunks import score_in_chunks

        folder = self._artefact(self._stage(stage.sample)).path / "images"

        def images(positions: Sequence[int]) -> Iterator[Image]:
            files = (folder / f"{i:05d}.png" for i in positions)
            return ahead(lambda file: image_files.decode(file.read_bytes()), files, DECODE_AHEAD)

        scores = score_in_chunks(
            truncation.noting(
                lambda: self._load_scorer(stage.scorer),
                stage.scorer,
                stage.prompts.texts,
                partial.work,
            ),
            stage.scorer.name,
            images,
            stage.prompts.texts,
            partial.work,
            task.advance,
            self.world,
        )
        if self.world.is_main:
            columns = {"prompt": np.arange(len(scores)), "score": scores}
            _write_table(partial.out / SCORES, columns)
        return {"images": len(scores), **truncation.noted(partial.work)}

    @contextmanager
    def _untouched(self, backbone: Backbone) -> Iterator[Policy]:
        """The backbone as it is on disk; what becomes of it is gone afterwards."""
        self._let_go()
        policy = contracts.loaded(backbone, self.device)
        try:
            yield policy
        finally:
            _release(policy)

    def _model(self, stage: SampleStage) -> Policy:
        """The model whose images the stage asks for; the same again costs nothing."""
        from bench.lib.evaluations import counting

        name = (stage.backbone, stage.checkpoint or stage.method)
        if self._held is None or self._held[0] != name:
            self._let_go()
            policy = contracts.loaded(stage.backbone, self.device)
            with counting() as evaluations:
                if stage.checkpoint:
                    with contracts.asking(stage.backbone):
                        policy.load_checkpoint(self._artefact(self._stage(stage.checkpoint)).path)
                elif not is_baseline(stage.method):
                    policy = contracts.model_of(stage.method, policy)
            self._preparing = evaluations.spent
            self._held = (name, policy)
        return self._held[1]

    def _let_go(self) -> None:
        """Hold no policy: only one is in memory, and nobody is lent one that another has had."""
        if self._held is not None:
            policy, self._held = self._held[1], None
            _release(policy)

    def _pairs(self, pairs: PreferenceSet) -> PreferenceSet:
        """The preference set itself, where it stands for an artefact of this run."""
        if isinstance(pairs, GeneratedPairs):
            return self.plan.pairs_at(self._artefact(pairs.stage).path / generating.FILE)
        return pairs

    def _load_scorer(self, scorer: Scorer) -> LoadedScorer:
        """The scorer's weights; only the last one used stays in memory."""
        if self._scorer is None or self._scorer[0] != scorer:
            self._scorer = None
            with contracts.asking(scorer):
                self._scorer = (scorer, load(scorer, self.device))
        return self._scorer[1]

    def _stage(self, key: str) -> Stage:
        return self.plan.stage(key)

    def _artefact(self, stage: Stage) -> Artefact:
        return Artefact(self.store.path(stage.name, stage.key))

    def _read_table(self, inspect_key: str) -> PairTable:
        return read_table(self.store.path("inspect", inspect_key))


def memory_remedy(stage: Stage, plan: Plan) -> str:
    """What to change where a stage ran out of memory."""
    training, sampling = plan.recipe.training, plan.recipe.sampling
    if isinstance(stage, TrainStage):
        smaller = max(1, (training.micro_batch_size or training.batch_size) // 2)
        options = {
            f"training.micro_batch_size={smaller}": True,
            "training.gradient_checkpointing=true": not training.gradient_checkpointing,
            "training.precision=bf16": training.precision == "fp32",
            "training.lora_rank=16": training.lora_rank is None,
        }
        open_ones = " or ".join(f"--set {option}" for option, given in options.items() if given)
        return f"out of memory; try {open_ones} (the first two change no result)"
    if isinstance(stage, SampleStage):
        smaller = max(1, sampling.batch_size // 2)
        return f"out of memory; try --set sampling.batch_size={smaller} (it changes no image)"
    return SCORING_REMEDY


def _release(policy: Policy) -> None:
    """Give its memory back even where something still refers to it."""
    for denoiser in (False, True):
        # It may be in any state, and nobody asks it for anything any more.
        with suppress(Exception):
            policy.release(denoiser=denoiser)


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


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """Denoiser evaluations of a sampling so far, noted a batch, so that a kill loses none."""

    images: Mapping[int, int]
    """Row of the prompt -> evaluations of its image."""
    preparing: int
    """Evaluations that the making of the model took, once, whatever the number of processes."""

    @classmethod
    def of(cls, rows: range, spent: int, preparing: int) -> _Spent:
        """What one batch took, in equal shares; the first rows take what is left over."""
        each, more = divmod(spent, len(rows))
        images = {row: each + (i < more) for i, row in enumerate(rows)}
        return cls(images=images, preparing=preparing)

    @classmethod
    def noted(cls, work: Path) -> _Spent:
        """What all processes and attempts have noted."""
        images: dict[int, int] = {}
        preparing = 0
        for file in sorted(work.glob("evaluations-*.json")):
            # A batch whose note is damaged is drawn again.
            with suppress(ValueError, KeyError, TypeError):
                note = json.loads(file.read_bytes())
                images |= {int(row): int(count) for row, count in note["images"].items()}
                preparing = max(preparing, int(note["preparing"]))
        return cls(images=images, preparing=preparing)

    def covers(self, rows: range) -> bool:
        return all(row in self.images for row in rows)

    def note(self, work: Path) -> None:
        first = next(iter(self.images))
        write_atomic(work / f"evaluations-{first:05d}.json", json.dumps(asdict(self)).encode())


def _is_image(file: Path) -> bool:
    try:
        image_files.decode(file.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _write_table(path: Path, columns: Mapping[str, Any]) -> None:
    import pandas as pd

    write_atomic(path, pd.DataFrame(dict(columns)).to_parquet(index=False))


def _read_scores(folder: Path) -> np.ndarray:
    import pandas as pd

    scores: np.ndarray = pd.read_parquet(folder / SCORES)["score"].to_numpy(dtype=np.float64)
    return scores


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
