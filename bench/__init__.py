"""Compare the ways to align text-to-image diffusion models with human preferences.

What plugins need is importable from here; see `bench.hookspecs` for the hooks.
"""

from bench.errors import BenchError
from bench.hookspecs import hookimpl
from bench.methods import PairMethod
from bench.protocols import (
    Aggregation,
    Backbone,
    Command,
    Labels,
    LoadedScorer,
    Loss,
    Method,
    PairErrors,
    PairRewards,
    PreferencePairs,
    PreferenceSet,
    Prompt,
    PromptSet,
    RecipePreset,
    Reference,
    Scorer,
    Trajectory,
    option,
    uses,
)

__all__ = [
    "Aggregation",
    "Backbone",
    "BenchError",
    "Command",
    "Labels",
    "LoadedScorer",
    "Loss",
    "Method",
    "PairErrors",
    "PairMethod",
    "PairRewards",
    "PreferencePairs",
    "PreferenceSet",
    "Prompt",
    "PromptSet",
    "RecipePreset",
    "Reference",
    "Scorer",
    "Trajectory",
    "hookimpl",
    "option",
    "uses",
]
