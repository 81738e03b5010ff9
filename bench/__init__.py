"""Compare the ways to align text-to-image diffusion models with human preferences.

What plugins need is importable from here; see `bench.hookspecs` for the hooks.
"""

from bench.errors import BenchError
from bench.evaluation.api import score
from bench.hookspecs import hookimpl
from bench.methods import PairMethod
from bench.protocols import (
    Aggregation,
    Backbone,
    Command,
    DifferentiableScorer,
    Labels,
    LoadedScorer,
    Loss,
    Method,
    ModelSize,
    PairErrors,
    PairRewards,
    PipelineLayout,
    PreferencePair,
    PreferenceSet,
    Prompt,
    PromptSet,
    RecipePreset,
    Reference,
    Scorer,
    StartModel,
    Trajectory,
    option,
    uses,
)

__all__ = [
    "Aggregation",
    "Backbone",
    "BenchError",
    "Command",
    "DifferentiableScorer",
    "Labels",
    "LoadedScorer",
    "Loss",
    "Method",
    "ModelSize",
    "PairErrors",
    "PairMethod",
    "PairRewards",
    "PipelineLayout",
    "PreferencePair",
    "PreferenceSet",
    "Prompt",
    "PromptSet",
    "RecipePreset",
    "Reference",
    "Scorer",
    "StartModel",
    "Trajectory",
    "hookimpl",
    "option",
    "score",
    "uses",
]
