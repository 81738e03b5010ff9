"""Compare the ways to align text-to-image diffusion models with human preferences.

What plugins need is importable from here; see `bench.api.hookspecs` for the hooks.
"""

from bench.api.hookspecs import hookimpl
from bench.api.kinds import (
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
    Trajectory,
    option,
    uses,
)
from bench.api.pair_method import PairMethod
from bench.lib.errors import BenchError
from bench.scoring.api import score

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
    "PreferenceGroup",
    "PreferenceImage",
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
