"""The model card of a checkpoint: what it is, how it was made, how it did, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.api.kinds import StartModel
from bench.diffusion.checkpoint_files import LORA_FILE
from bench.leaderboard.results import CellResult
from bench.leaderboard.standings import Row


def model_card(
    cell: CellResult, row: Row, start: StartModel | None, licence: str, *, adapter: bool
) -> str:
    """The README.md beside a checkpoint, as the Hub reads it.

    Args:
        cell: the result.
        row: its standing against the base, of this train seed alone.
        start: how plain diffusers loads the start model; None: it does not.
        licence: of the start model's weights.
        adapter: whether the checkpoint is a LoRA.
    """
    hub_id = start.hub_id if start else ""
    assert cell.training
    header = [
        *(["library_name: diffusers"] if start else []),
        "pipeline_tag: text-to-image",
        *([f"base_model: {hub_id}"] if hub_id else []),
        *([f"license: {licence}"] if licence != "unknown" else []),
        f"tags: [text-to-image, preference-alignment{', lora' if adapter else ''}]",
    ]
    return _CARD.format(
        header="\n".join(header),
        cell=cell,
        budget=cell.budget,
        start=hub_id or cell.backbone,
        licence=licence,
        scores="\n".join(_scores(cell, row)),
        usage="\n".join(_usage(start, adapter) if start else _own_usage(cell)),
        settings="\n".join(_settings({**cell.training.options, **_flat(cell.described)})),
    )


_CARD = """\
---
{header}
---

# {cell.method} on {start}, train seed {cell.seed}

Trained with the method `{cell.method}` on the preference set `{cell.pairs}` \
({budget.pairs_kept:,} pairs kept, {budget.pairs_dropped:,} dropped by the labels), \
{budget.steps:,} optimiser steps, {budget.pairs_seen:,} pairs seen, train seed {cell.seed}, \
recipe `{cell.recipe}`. The base model's licence ({licence}) applies to these weights.

## Scores

{scores}

## Use

{usage}

## Training

{settings}
"""


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
        note = "in-loop: the method reads it" if scorer in row.in_loop else ""
        lines.append(
            f"| {scorer} | {rate.win_rate:.1%} | [{rate.low:.1%}, {rate.high:.1%}] "
            f"| {rate.prompts:,} | {note} |"
        )
    return lines


def _usage(start: StartModel, adapter: bool) -> Sequence[str]:
    """Code that loads start model and checkpoint with diffusers alone, run beside the card."""
    layout = start.layout
    dtype = f", torch_dtype={start.dtype}" if start.dtype else ""
    if adapter:
        load, prefix = "pipeline.load_lora_weights", ""
        if not layout.loads_lora:
            load, prefix = f"pipeline.{layout.part}.load_lora_adapter", f', prefix="{layout.part}"'
        load += f'(\n    checkpoint, weight_name="{LORA_FILE}"{prefix}\n)'
    else:
        load = (
            f"pipeline.{layout.part} = {layout.denoiser}.from_pretrained(\n"
            f'    checkpoint, subfolder="{layout.part}"{dtype}\n)'
        )
    names = {layout.pipeline, *start.imports} | (set() if adapter else {layout.denoiser})
    return [
        *(
            [f"With `pip install {start.needs}`, which brings the start model:", ""]
            * bool(start.needs)
        ),
        "```python",
        *(["import torch"] if start.dtype else []),
        f"from diffusers import {', '.join(sorted(names))}",
        start.code,
        'checkpoint = "."  # the folder of this file',
        load,
        "```",
    ]


def _own_usage(cell: CellResult) -> Sequence[str]:
    """For checkpoints in a form of their backbone's own."""
    return [
        f"The files are in the form of the backbone `{cell.backbone}`, whose plugin reads them: "
        f"`bench run --methods pretrained:FOLDER` in a recipe with this backbone."
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
