"""The whole plugin API on one screen: one hook per kind, each returns its plugin classes.

A package adds plugins with an entry point in the group `bench` that names a module, and
functions in that module marked `@bench.hookimpl` with the names and results below.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from bench.api import kinds

hookspec = pluggy.HookspecMarker("bench")
hookimpl = pluggy.HookimplMarker("bench")


@hookspec
def bench_scorers() -> Sequence[type[kinds.Scorer]]:
    """Rate images under prompts (reward models, metrics)."""
    raise NotImplementedError


@hookspec
def bench_aggregations() -> Sequence[type[kinds.Aggregation]]:
    """Turn human labels and rewards into training labels."""
    raise NotImplementedError


@hookspec
def bench_trajectories() -> Sequence[type[kinds.Trajectory]]:
    """Decide the noisy latents and targets."""
    raise NotImplementedError


@hookspec
def bench_losses() -> Sequence[type[kinds.Loss]]:
    """Turn errors of winner and loser into a loss."""
    raise NotImplementedError


@hookspec
def bench_references() -> Sequence[type[kinds.Reference]]:
    """Decide what the policy is measured against."""
    raise NotImplementedError


@hookspec
def bench_methods() -> Sequence[type[kinds.Method]]:
    """Align a backbone."""
    raise NotImplementedError


@hookspec
def bench_backbones() -> Sequence[type[kinds.Backbone]]:
    """Provide text-to-image models."""
    raise NotImplementedError


@hookspec
def bench_preference_sets() -> Sequence[type[kinds.PreferenceSet]]:
    """Provide pairs of images with human labels."""
    raise NotImplementedError


@hookspec
def bench_prompt_sets() -> Sequence[type[kinds.PromptSet]]:
    """Provide prompts to evaluate on."""
    raise NotImplementedError


@hookspec
def bench_recipes() -> Sequence[type[kinds.RecipePreset]]:
    """Provide named recipes."""
    raise NotImplementedError


@hookspec
def bench_commands() -> Sequence[type[kinds.Command]]:
    """Add command groups to the command line."""
    raise NotImplementedError
