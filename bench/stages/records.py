"""The records that a plan is made of: stages, cells, and the plan itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from bench.api.kinds import Aggregation, Backbone, Method, PreferenceSet, Scorer, is_baseline
from bench.recipe.prompt_table import PromptTable
from bench.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artefact to make. `inputs` are the keys of the stages that it reads."""

    key: str
    label: str
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name in the store: "encode", "train", ..."""
        return type(self).__name__.removesuffix("Stage").lower()

    @property
    def work(self) -> int:
        """How much there is to do, in the unit that progress counts."""
        raise NotImplementedError

    @property
    def nfe(self) -> int:
        """Expected denoiser evaluations."""
        return 0


@dataclass(frozen=True, kw_only=True)
class PairsStage(Stage):
    """Preference pairs formed from scored images of the same prompt; work: prompts."""

    prompts: PromptTable
    models: tuple[str, ...]
    """Who drew image i of each prompt."""
    samples: tuple[str, ...]
    """Key of the sampling that image i comes from."""
    rewards: Mapping[str, tuple[str, ...]]
    """Scorer spec -> key of its scoring of image i."""
    label_with: Aggregation
    form: str

    @property
    def work(self) -> int:  # noqa: D102
        return len(self.prompts.texts)


@dataclass(frozen=True, kw_only=True)
class GeneratedPairs(PreferenceSet):
    """Stands for the artefact of a `PairsStage` until it is there."""

    name: ClassVar[str] = "generated"

    stage: PairsStage

    def fingerprint(self) -> str:
        """The key of the stage that makes them."""
        return self.stage.key

    def labelled_by(self) -> tuple[str, ...]:
        """The scorers that decide."""
        return tuple(self.stage.rewards)

    def count(self) -> int:
        """Pairs that the stage forms; ties between images may leave fewer that are labelled."""
        images = len(self.stage.models)
        each = {"best-worst": 1, "adjacent": images - 1, "all": images * (images - 1) // 2}
        return each[self.stage.form] * self.stage.work


@dataclass(frozen=True, kw_only=True)
class _PairSetStage(Stage):
    """Reads a whole preference set; work: pairs."""

    pairs: PreferenceSet
    pair_count: int

    @property
    def work(self) -> int:
        return self.pair_count


@dataclass(frozen=True, kw_only=True)
class InspectStage(_PairSetStage):
    """Which pairs are used: two images that can be decoded, and the recipe's filters."""


@dataclass(frozen=True, kw_only=True)
class EncodeStage(_PairSetStage):
    """Latent moments and prompt conditions of a preference set."""

    inspect: str
    """Key of the inspection that says which pairs are usable."""


@dataclass(frozen=True, kw_only=True)
class RewardsStage(_PairSetStage):
    """Rewards of both images of every pair by one scorer; work: images."""

    inspect: str
    """Key of the inspection that says which pairs are usable."""
    scorer: Scorer
    reads: tuple[str, ...]
    """Names of the scorers, without options, that may be loaded: its own, and what it holds."""

    @property
    def work(self) -> int:  # noqa: D102
        return 2 * self.pair_count


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """One cell's training; work: optimiser steps."""

    method: Method
    seed: int
    encode: str
    rewards: Mapping[str, str]
    """Scorer spec -> key of its rewards."""
    steps: int
    expected_nfe: int
    reads: tuple[str, ...]
    """Names of the scorers, without options, that the method declares."""

    @property
    def work(self) -> int:  # noqa: D102
        return self.steps

    @property
    def nfe(self) -> int:  # noqa: D102
        return self.expected_nfe


@dataclass(frozen=True, kw_only=True)
class SampleStage(Stage):
    """One image a prompt from one cell; work: images."""

    backbone: Backbone
    method: Method
    """Gives the model where there was no training."""
    checkpoint: str | None
    """Key of the training; None if there was none."""
    prompts: PromptTable
    image_seed: int
    steps: int
    guidance: float
    reads: tuple[str, ...]
    """Names of the scorers, without options, that the method declares."""

    @property
    def work(self) -> int:  # noqa: D102
        return len(self.prompts.texts)

    @property
    def nfe(self) -> int:
        """Two a step, with and without the prompt; without guidance one."""
        return (1 if self.guidance == 1 else 2) * self.steps * self.work


@dataclass(frozen=True, kw_only=True)
class ScoreStage(Stage):
    """One scorer's scores of one sampling; work: images."""

    sample: str
    prompts: PromptTable
    scorer: Scorer

    @property
    def work(self) -> int:  # noqa: D102
        return len(self.prompts.texts)


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

    @property
    def baseline(self) -> bool:
        """Whether this is the untouched backbone."""
        return is_baseline(self.resolved)

    @property
    def label(self) -> str:
        """For people: "smpo, seed 0"."""
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"


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
    described: Mapping[str, Any]
    """Resolved plugins as data, for result files."""
    pairs_at: Callable[[Path], PreferenceSet]
    """The preference set in a file, by the plugin that reads it."""
    absent: frozenset[str]
    """Names of prompt and preference sets of which only the published count is known here."""

    def stage(self, key: str) -> Stage:
        """The stage of that key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> Mapping[str, Stage]:
        return {stage.key: stage for stage in self.stages}
