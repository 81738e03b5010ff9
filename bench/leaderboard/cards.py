"""The model card of a checkpoint: what it is, how it was made, how it did, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.leaderboard.results import CellResult
from bench.leaderboard.standings import Row

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that the checkpoint was trained from."""

    name: str
    """A Hub id where it has one, else how the recipe names it."""
    licence: str
    pipeline: str
    """The diffusers pipeline that it loads into."""


def model_card(cell: CellResult, row: Row, base: BaseModel, *, adapter: bool) -> str:
    """The README.md beside a checkpoint, as the Hub reads it.

    Args:
        cell: the result.
        row: its standing against the base, of this train seed alone.
        base: the start model.
        adapter: whether the checkpoint is a LoRA.
    """
    assert cell.training
    options = {**cell.training.options, **_flat(cell.described)}
    header = [
        "---",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        *([f"base_model: {base.name}"] if _HUB_ID.fullmatch(base.name) else []),
        *([f"license: {base.licence}"] if base.licence != "unknown" else []),
        "tags: [text-to-image, preference-alignment" + (", lora]" if adapter else "]"),
        "---",
    ]
    about = [
        f"# {cell.method} on {base.name}, train seed {cell.seed}",
        f"Trained with the method `{cell.method}` on the preference set `{cell.pairs}` "
        f"({cell.budget.pairs_kept:,} pairs kept, {cell.budget.pairs_dropped:,} dropped by the "
        f"labels), {cell.budget.steps:,} optimiser steps, {cell.budget.pairs_seen:,} pairs seen, "
        f"train seed {cell.seed}, recipe `{cell.recipe}`. The base model's licence "
        f"({base.licence}) applies to these weights.",
    ]
    return "\n".join(
        [
            *header,
            "",
            "\n\n".join(about),
            "",
            "## Scores",
            "",
            *_scores(cell, row),
            "",
            "## Use",
            "",
            *_usage(base, adapter),
            "",
            "## Training",
            "",
            *_settings(options),
            "",
        ]
    )


def _scores(cell: CellResult, row: Row) -> Sequence[str]:
    sets = ", ".join(f"`{part.prompt_set}` ({part.prompts:,})" for part in cell.evaluations)
    sampling = ", ".join(f"{key} {value}" for key, value in cell.evaluation.sampling.items())
    lines = [
        f"Share of prompts on which its image scores above the untouched base model's for the "
        f"same prompt and noise; ties count one half. Prompts: {sets}. Sampling: {sampling}.",
        "",
        "| scorer | win rate | 95% interval | prompts | |",
        "|---|---:|---:|---:|---|",
    ]
    for scorer, rate in row.scores.items():
        note = "its rewards labelled the training pairs" if scorer in row.in_loop else ""
        lines.append(
            f"| {scorer} | {rate.win_rate:.1%} | [{rate.low:.1%}, {rate.high:.1%}] "
            f"| {rate.prompts:,} | {note} |"
        )
    return lines


def _usage(base: BaseModel, adapter: bool) -> Sequence[str]:
    load = (
        "pipeline.load_lora_weights(\n"
        '    "this folder", weight_name="pytorch_lora_weights.safetensors"\n)'
        if adapter
        else "pipeline.unet = UNet2DConditionModel.from_pretrained(\n"
        '    "this folder", subfolder="unet", torch_dtype=torch.float16\n)'
    )
    names = base.pipeline if adapter else f"{base.pipeline}, UNet2DConditionModel"
    return [
        "```python",
        "import torch",
        f"from diffusers import {names}",
        "",
        f"pipeline = {base.pipeline}.from_pretrained(",
        f'    "{base.name}", torch_dtype=torch.float16',
        ")",
        load,
        "```",
    ]


def _settings(options: Mapping[str, Any]) -> Sequence[str]:
    rows = [f"| {key} | {value} |" for key, value in options.items() if value is not None]
    return ["| setting | value |", "|---|---|", *rows]


def _flat(described: Mapping[str, Any], prefix: str = "method") -> dict[str, Any]:
    """A described plugin's options, those of the plugins that it uses with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in described["options"].items():
        if isinstance(value, Mapping):
            flat[f"{prefix}.{key}"] = value["name"]
            flat |= _flat(value, f"{prefix}.{key}")
        else:
            flat[f"{prefix}.{key}"] = value
    return flat
