"""Compare the ways to align text-to-image diffusion models with human preferences.

What is public stands in `__all__` here and in `bench.diffusion` and `bench.files`; all of it is
described in docs/api.md. The hooks are on one screen in `bench.api.hookspecs`.
"""

from typing import TYPE_CHECKING

from bench.api.hookspecs import hookimpl
from bench.api.kinds import (
    Aggregation,
    Backbone,
    Command,
    DifferentiableScorer,
    Kind,
    Labels,
    LoadedScorer,
    Loss,
    Method,
    ModelSize,
    PairErrors,
    PairRewards,
    PairTrainer,
    PipelineLayout,
    Plugin,
    PreferenceGroup,
    PreferenceImage,
    PreferencePair,
    PreferenceSet,
    Prompt,
    PromptSet,
    RecipePreset,
    Reference,
    Scorer,
    StartModel,
    TrainingSetup,
    Trajectory,
    option,
    uses,
)
from bench.api.pair_method import (
    PairMethod,
    beta_from_sum_convention,
    beta_to_sum_convention,
    implicit_logit,
)
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.lazy import lazy
from bench.lib.seeding import derive_seed, generator
from bench.scoring.api import score

if TYPE_CHECKING:
    from bench.api.encoded_pairs import EncodedPairs
    from bench.api.noising import NoisedPairs, NoiseRequest
    from bench.api.policy import Condition, Moments, Policy
    from bench.api.schedule import DdimSettings, NoiseSchedule
    from bench.api.training import StepReport, TrainingBudget, TrainingOutcome
    from bench.lib.evaluations import carry as carry_evaluations
    from bench.notebook.calls import compare, load, run
    from bench.notebook.records import Board, Comparison, RunResult
    from bench.registry.registry import build
    from bench.scoring.isolation.environments import EnvironmentSpec
    from bench.scoring.isolation.scorer import IsolatedScorer, load_in_worker
else:
    # These need torch, pydantic, or NumPy and much of the standard library.
    __getattr__ = lazy(
        __name__,
        {
            "bench.api.encoded_pairs": "EncodedPairs",
            "bench.api.noising": "NoisedPairs, NoiseRequest",
            "bench.api.policy": "Condition, Moments, Policy",
            "bench.api.schedule": "DdimSettings, NoiseSchedule",
            "bench.api.training": "StepReport, TrainingBudget, TrainingOutcome",
            "bench.lib.evaluations": "carry as carry_evaluations",
            "bench.notebook.calls": "compare, load, run",
            "bench.notebook.records": "Board, Comparison, RunResult",
            "bench.registry.registry": "build",
            "bench.scoring.isolation.environments": "EnvironmentSpec",
            "bench.scoring.isolation.scorer": "IsolatedScorer, load_in_worker",
        },
    )

__all__ = [
    "Aggregation",
    "Backbone",
    "BenchError",
    "Board",
    "Command",
    "Comparison",
    "Condition",
    "DdimSettings",
    "DifferentiableScorer",
    "EncodedPairs",
    "EnvironmentSpec",
    "IsolatedScorer",
    "Kind",
    "Labels",
    "LoadedScorer",
    "Loss",
    "Method",
    "ModelSize",
    "Moments",
    "NoiseRequest",
    "NoiseSchedule",
    "NoisedPairs",
    "PairErrors",
    "PairMethod",
    "PairRewards",
    "PairTrainer",
    "PipelineLayout",
    "Plugin",
    "Policy",
    "PreferenceGroup",
    "PreferenceImage",
    "PreferencePair",
    "PreferenceSet",
    "Prompt",
    "PromptSet",
    "RecipePreset",
    "Reference",
    "RunResult",
    "Scorer",
    "StartModel",
    "StepReport",
    "TrainingBudget",
    "TrainingOutcome",
    "TrainingSetup",
    "Trajectory",
    "World",
    "beta_from_sum_convention",
    "beta_to_sum_convention",
    "build",
    "carry_evaluations",
    "compare",
    "derive_seed",
    "generator",
    "hookimpl",
    "implicit_logit",
    "load",
    "load_in_worker",
    "option",
    "run",
    "score",
    "uses",
]
