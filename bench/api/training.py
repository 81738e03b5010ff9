"""What every method is given to train with, and what it reports; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from bench.lib.strict import Count, Flag, Number, StrictModel

_SPEED_ONLY = {"micro_batch_size", "gradient_checkpointing", "compile", "checkpoint_every"}
"""What changes no number beyond float error."""


class TrainingBudget(StrictModel):
    """What every trained method gets alike: the recipe's `training` block."""

    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="pairs an optimiser step")
    micro_batch_size: Count | None = Field(
        default=None, description="pairs in memory at a time; none: the whole batch"
    )
    warmup_steps: int = Field(
        default=0, strict=True, ge=0, le=10**9, description="linear learning-rate warm-up"
    )
    max_grad_norm: Number = Field(default=1.0, gt=0, description="gradient clipping")
    weight_decay: Number = Field(default=0.01, ge=0, description="AdamW's weight decay")
    prompt_dropout: Number = Field(
        default=0.1, ge=0, le=1, description="share of pairs trained without their prompt"
    )
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = Field(
        default="adamw", description="adamw8bit needs bitsandbytes; Adafactor without scaling"
    )
    lora_rank: Count | None = Field(
        default=None, description="train a LoRA of this rank; none: all weights"
    )
    lora_alpha: Number | None = Field(default=None, gt=0, description="none: the rank")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="of the passes (autocast); trained weights are float32"
    )
    tf32: Flag = Field(default=False, description="TF32 matrix products on GPUs that have them")
    gradient_checkpointing: Flag = Field(
        default=False, description="compute activations again instead of holding them"
    )
    compile: Flag = Field(default=False, description="torch.compile the denoiser's blocks")
    checkpoint_every: Count = Field(
        default=25, description="steps between states that an interrupted training resumes"
    )

    def affecting_results(self) -> dict[str, Any]:
        """The options but those that are a matter of speed and memory alone."""
        return self.model_dump(exclude=_SPEED_ONLY)

    def micro_batch(self, processes: int) -> int:
        """Pairs that one of the processes holds at a time: at most its share of the batch."""
        share = -(-self.batch_size // processes)
        return min(self.micro_batch_size or share, share)


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The health signals of one optimiser step, averaged over its batch."""

    step: int
    loss: float
    implicit_accuracy: float
    """Share of pairs with a decided label whose implicit reward margin agrees; NaN without."""
    margin: float
    """Mean implicit reward margin towards the preferred image (the DPO logit), NaN without."""
    relative_weight_change: float
    """L2 distance of the weights to the original ones, over the original's L2 norm."""
    grad_norm: float
    nfe: int
    """Denoiser evaluations so far, counted where the denoiser is asked, of all processes."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """What training did; the trained weights are in `policy.denoiser`."""

    steps: tuple[StepReport, ...]
    pairs_kept: int
    pairs_dropped: int
    pairs_seen: int
