"""A text-to-image diffusion model seen as a policy, whatever its family.

Methods, sampling and inversion see this interface alone; prediction type, text encoders and
scaling factors stay behind it. All latents are scaled as the denoiser expects them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.diffusion.schedule import NoiseSchedule

Condition: TypeAlias = dict[str, torch.Tensor]
"""What the denoiser is told about each prompt: named tensors, all with batch first."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The VAE's posterior of each image, so that encoding stays random: both [B, C, h, w]."""

    mean: torch.Tensor
    std: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """Latents for standard normal `noise` of the same shape."""
        return self.mean + self.std * noise


class Policy(ABC):
    """A loaded backbone. `denoiser` is the only part that training changes."""

    denoiser: torch.nn.Module
    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]
    """The backbone's diffusers scheduler configuration, from which samplers are built."""
    latent_shape: tuple[int, int, int]
    device: torch.device

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Conditions of B prompts; "" is the unconditional one."""

    @abstractmethod
    def encode_images(self, images: Sequence[Image]) -> Moments:
        """Latent moments of B RGB images of the backbone's resolution."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> list[Image]:
        """RGB images of latents [B, C, h, w]."""

    @abstractmethod
    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        """The noise that `denoiser` sees in latents [B, C, h, w] at timesteps [B].

        `denoiser` is `self.denoiser` or a copy of it (a reference). Networks that predict
        velocity are converted, so that every loss lives in epsilon space. Timesteps are int64,
        or floating point where a sampler asks between two of them.
        """

    @abstractmethod
    def save_denoiser(self, folder: Path) -> None:
        """Write the denoiser into `folder` as diffusers loads it (`from_pretrained`)."""

    @abstractmethod
    def load_denoiser(self, folder: Path) -> None:
        """Replace the denoiser's weights with those that `save_denoiser` wrote."""
