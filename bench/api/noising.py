"""The records that trajectories exchange with the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.api.policy import Condition
from bench.api.schedule import NoiseSchedule


@dataclass(frozen=True, kw_only=True)
class NoiseRequest:
    """What a trajectory may use; P images a pair (2, or 1 when only the winner is shown)."""

    clean: torch.Tensor
    """[P, B, C, h, w] clean latents."""
    timesteps: torch.Tensor
    """int64 [B]: where the networks will be asked, the same for both images of a pair."""
    noise: torch.Tensor
    """[B, C, h, w] standard normal draws, one a pair."""
    condition: Condition
    """[B, ...] the conditions that the policy is trained with."""
    schedule: NoiseSchedule
    predict_epsilon: Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]
    """(latents [N, C, h, w], timesteps [N], condition [N, ...]) -> epsilon, current policy."""


@dataclass(frozen=True, kw_only=True)
class NoisedPairs:
    """Where the networks are asked and what they should answer."""

    latents: torch.Tensor
    """[P, B, C, h, w] noisy latents."""
    epsilon: torch.Tensor
    """[P, B, C, h, w] the regression target."""
