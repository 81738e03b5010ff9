"""What a run will do: its stages in order, and the cells that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.api.kinds import Backbone, Method, Scorer, is_baseline
from bench.recipe.prompt_table import PromptTable
from bench.recipe.recipe import Recipe
from bench.stages.describe import DescribeStage
from bench.stages.sample import SampleStage
from bench.stages.score import ScoreStage
from bench.stages.stage import Stage
from bench.stages.train import TrainStage


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method trained with one seed, and where its results will lie."""

    method: str
    """The method's canonical spec as the user wrote it."""
    resolved: Method
    seed: int | None
    """None: not trained here, so the same for all seeds."""
    in_loop: tuple[str, ...]
    """Scorers that labelled its pairs or that the method reads otherwise, and every column of the
    same plugins, whatever its options."""
    train: TrainStage | None
    samples: Mapping[tuple[str, int], SampleStage]
    """(prompt set, image seed) -> its sampling."""
    scores: Mapping[tuple[str, int, str], ScoreStage]
    """(prompt set, image seed, scorer) -> its scoring."""
    descriptions: Mapping[str, DescribeStage]
    """Prompt set -> the description of its images."""

    @property
    def baseline(self) -> bool:
        """Whether this is the untouched backbone."""
        return is_baseline(self.resolved)

    @property
    def label(self) -> str:
        """For people: "smpo, seed 0"."""
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those that are the cell's own."""
        trained = (self.train,) if self.train else ()
        evaluated = (*self.descriptions.values(), *self.scores.values())
        return (*trained, *self.samples.values(), *evaluated)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run will do, in order."""

    recipe: Recipe
    backbone: Backbone
    pairs_name: str
    scorers: Mapping[str, Scorer]
    prompts: tuple[PromptTable, ...]
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    """Each after its inputs."""
    described: Mapping[str, Any]
    """Resolved plugins as data, for result files."""
    absent: frozenset[str]
    """Names of prompt and preference sets of which only the published count is known here."""

    def stage(self, key: str) -> Stage:
        """The stage of that key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> Mapping[str, Stage]:
        return {stage.key: stage for stage in self.stages}
