"""sample: one image a prompt from a trained cell, an untrained method or the untouched backbone.

Leaves `images/<row>.png`. Noise is a function of prompt and image seed alone. Its key hashes the
checkpoint (else backbone and method), prompts, image seed, scheduler, steps and guidance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.api import contracts, scorer_loads
from bench.api.kinds import Backbone, Method, is_baseline
from bench.lib import images as image_files
from bench.lib.files import content_key, write_atomic
from bench.lib.turns import chunks_of, turns
from bench.recipe.prompt_table import PromptTable
from bench.recipe.recipe import SamplingConfig
from bench.stages.stage import Made, Stage
from bench.stages.train import TrainStage

if TYPE_CHECKING:
    from bench.api.policy import Policy
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial

PREPARING = "evaluations_of_preparing"
"""In a sampling's info: denoiser evaluations of making the model whose images it has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleStage(Stage):
    """One image a prompt from one cell; units: images."""

    name: ClassVar[str] = "sample"
    version: ClassVar[int] = 1

    backbone: Backbone
    method: Method
    """Gives the model where there was no training."""
    train: TrainStage | None
    """Left the checkpoint; None if there was no training."""
    prompts: PromptTable
    image_seed: int
    sampling: SamplingConfig
    reads: tuple[str, ...]
    """Names of the scorers, without options, that the method declares."""

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.train,) if self.train else ()

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {
            "checkpoint": self.train.key if self.train else None,
            "prompts": content_key({"texts": self.prompts.texts}),
            "image_seed": self.image_seed,
            "scheduler": self.sampling.scheduler,
            "steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
        }

    @property
    def units(self) -> int:  # noqa: D102
        return len(self.prompts.texts)

    @property
    def nfe(self) -> int:
        """Two a step, with and without the prompt; without guidance one."""
        return (1 if self.sampling.guidance == 1 else 2) * self.sampling.steps * self.units

    @property
    def load(self) -> float:  # noqa: D102
        return self.nfe

    @property
    def seconds_per_load(self) -> float:  # noqa: D102
        return self.backbone.seconds_per_evaluation

    @property
    def memory_remedy(self) -> str:  # noqa: D102
        smaller = max(1, self.sampling.batch_size // 2)
        return f"out of memory; try --set sampling.batch_size={smaller} (it changes no image)"

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        from bench.diffusion.sampling import sample
        from bench.lib.evaluations import counting

        config, prompts, world = self.sampling, self.prompts.texts, context.world
        folder = partial.out / "images"
        folder.mkdir(exist_ok=True)
        batches = chunks_of(len(prompts), config.batch_size)
        known = _Spent.noted(partial.work)
        with world.all_or_none(), scorer_loads.only(self.label, self.reads):
            for rows, done in turns(batches, world):
                files = [folder / f"{row:05d}.png" for row in rows]
                if not (known.covers(rows) and all(_is_image(file) for file in files)):
                    model, preparing = self._model(context)
                    with contracts.asking(self.backbone), counting() as evaluations:
                        sampled = sample(
                            model,
                            [prompts[row] for row in rows],
                            [self.image_seed] * len(rows),
                            scheduler=config.scheduler,
                            steps=config.steps,
                            guidance=config.guidance,
                            compiled=config.compile,
                        )
                    images = contracts.checked_images(self.backbone, sampled.images, len(rows))
                    for file, picture in zip(files, images, strict=True):
                        write_atomic(file, image_files.png(picture))
                    _Spent.of(rows, evaluations.spent, preparing).note(partial.work)
                # The other processes are at their batch of the same turn.
                task.advance(done)
        # Those of all processes, and of attempts that were interrupted.
        noted = _Spent.noted(partial.work)
        info = {"images": len(prompts), PREPARING: noted.preparing}
        return Made(info=info, nfe=sum(noted.images.values()))

    def _model(self, context: Context) -> tuple[Policy, int]:
        """The model whose images are asked for, and the evaluations that its making took."""
        from bench.lib.evaluations import counting

        def prepare(policy: Policy) -> tuple[Policy, int]:
            with counting() as evaluations:
                if self.train:
                    with contracts.asking(self.backbone):
                        policy.load_checkpoint(context.folder(self.train))
                elif not is_baseline(self.method):
                    policy = contracts.model_of(self.method, policy)
            return policy, evaluations.spent

        model = self.train.key if self.train else self.method
        return context.policy(self.backbone, model, prepare)


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


def image_in(folder: Path, row: int) -> Path:
    """Where a sampling that left `folder` has the image of a prompt's row."""
    return folder / "images" / f"{row:05d}.png"


def _is_image(file: Path) -> bool:
    try:
        image_files.decode(file.read_bytes())
    except (OSError, ValueError):
        return False
    return True
