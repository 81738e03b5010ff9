"""Prompts to evaluate on: the field's benchmarks in their official formats, and your own files."""

from __future__ import annotations

from collections.abc import Sequence

from bench import PromptSet, hookimpl
from bench_plugins.prompt_sets.benchmarks import (
    BENCHMARKS,
    DrawBench,
    GenEval,
    HPDv2,
    PartiPrompts,
    PickAPicTest,
)
from bench_plugins.prompt_sets.own import PromptFile

__all__ = ["DrawBench", "GenEval", "HPDv2", "PartiPrompts", "PickAPicTest", "PromptFile"]


@hookimpl
def bench_prompt_sets() -> Sequence[type[PromptSet]]:
    """The benchmarks, and files of any other form."""
    return (*BENCHMARKS, PromptFile)
