"""The records that training is given and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bench.api.encoded_pairs import EncodedPairs
from bench.api.kinds import Labels, Loss, PairRewards, Reference, Trajectory
from bench.api.policy import Policy
from bench.lib.distributed import ALONE, World


@dataclass(frozen=True, kw_only=True)
class TrainingBudget:
    """What every method gets alike: the recipe's `training` block."""

    steps: int
    """Optimiser steps."""
    batch_size: int
    """Pairs an optimiser step."""
    micro_batch_size: int
    """Pairs held in memory at a time; changes no number beyond float error."""
    warmup_steps: int
    """Steps of linear learning-rate warm-up, then constant."""
    max_grad_norm: float
    prompt_dropout: float
    """Share of pairs whose prompt is emptied, for classifier-free guidance."""
    weight_decay: float
    optimizer: Literal["adamw", "adamw8bit", "adafactor"]
    lora_rank: int | None
    """None: all weights are trained."""
    lora_alpha: float | None
    """None: the rank."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Of the passes; trained weights, their gradients and the optimiser are float32."""
    tf32: bool
    gradient_checkpointing: bool
    compile: bool
    checkpoint_every: int
    """Steps between the states that an interrupted training goes on from."""


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


class PairTrainer(Protocol):
    """The training loop over labelled pairs, which the core gives to every method."""

    def __call__(
        self,
        setup: TrainingSetup,
        *,
        labels: Labels,
        trajectory: Trajectory,
        loss: Loss,
        reference: Reference,
        beta: float,
        learning_rate: float,
    ) -> TrainingOutcome:
        """Train `setup.policy.denoiser` in place: see `bench.training.loop.train_pairs`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything that a method trains from."""

    policy: Policy
    pairs: EncodedPairs
    rewards: PairRewards
    budget: TrainingBudget
    seed: int
    workspace: Path
    """A folder that outlives an interruption; the same call goes on from what lies in it."""
    report: Callable[[StepReport], None]
    """Called after every optimiser step."""
    train_pairs: PairTrainer
    """Trains on labelled pairs; call it with this setup."""
    world: World = ALONE
    """The processes that share each batch."""
