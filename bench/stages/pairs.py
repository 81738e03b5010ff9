"""pairs: preference pairs formed from a prompt's scored images.

Reads the samplings and scorings of all images. Leaves a Parquet file in the schema of Pick-a-Pic.
Its key hashes these, the prompts, who drew them, the aggregation and the form of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import scorer_loads
from bench.api.kinds import Aggregation
from bench.preferences import generating
from bench.recipe.prompt_table import PromptTable
from bench.recipe.recipe import SamplingConfig
from bench.stages.sample import SampleStage
from bench.stages.score import ScoreStage, read_scores
from bench.stages.stage import Made, Stage

if TYPE_CHECKING:
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial


@dataclass(frozen=True, kw_only=True, eq=False)
class PairsStage(Stage):
    """Preference pairs formed from scored images of the same prompt; units: prompts."""

    name: ClassVar[str] = "pairs"
    version: ClassVar[int] = 2

    prompts: PromptTable
    models: tuple[str, ...]
    """Who drew image i of each prompt."""
    samples: tuple[SampleStage, ...]
    """The sampling that image i comes from."""
    rewards: Mapping[str, tuple[ScoreStage, ...]]
    """Scorer spec -> its scoring of image i."""
    label_with: Aggregation
    form: str
    sampling: SamplingConfig

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (*self.samples, *(stage for some in self.rewards.values() for stage in some))

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {
            "prompts": self.prompts.sha256,
            "models": self.models,
            "samples": [stage.key for stage in self.samples],
            "rewards": {name: [s.key for s in some] for name, some in self.rewards.items()},
            "form": self.form,
        }

    @property
    def units(self) -> int:  # noqa: D102
        return len(self.prompts.texts)

    @property
    def seconds_per_load(self) -> float:
        """Reading the images of a prompt and writing them again."""
        return 0.02

    @property
    def pair_count(self) -> int:
        """Pairs that are formed; ties between images may leave fewer that are labelled."""
        images = len(self.models)
        each = {"best-worst": 1, "adjacent": images - 1, "all": images * (images - 1) // 2}
        return each[self.form] * self.units

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        images = [context.folder(stage) / "images" for stage in self.samples]
        rewards = {
            name: np.stack([read_scores(context.folder(stage)) for stage in stages], 1)
            for name, stages in self.rewards.items()
        }
        info: dict[str, Any] = {}
        if context.world.is_main:
            # Labels are a function of rewards that are there.
            with scorer_loads.only(self.label, ()):
                info = generating.write(
                    partial.out / generating.FILE,
                    prompts=self.prompts.texts,
                    image=lambda prompt, i: (images[i] / f"{prompt:05d}.png").read_bytes(),
                    models=self.models,
                    seeds=[stage.image_seed for stage in self.samples],
                    rewards=rewards,
                    label_with=self.label_with,
                    form=self.form,
                    sampling=self.sampling.model_dump(
                        mode="json", include={"scheduler", "steps", "guidance"}
                    ),
                    advance=task.advance,
                )
        return Made(info=context.world.broadcast(info))
