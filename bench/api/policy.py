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

from bench.lib import evaluations
from bench.lib.wrapping import run_first

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.api.schedule import NoiseSchedule

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
    """A backbone at work. `denoiser` is the only part that training changes.

    Nothing here assumes a U-Net: `schedule` gives the signal and noise levels of a timestep, and
    a network that predicts something else than noise is converted in `predict_epsilon`. So a
    rectified-flow transformer (x_t = (1 - t) x_0 + t eps) is a schedule and a conversion of its
    own.
    """

    denoiser: torch.nn.Module
    schedule: NoiseSchedule
    scheduler_config: dict[str, Any]
    """The backbone's diffusers scheduler configuration, from which samplers are built."""
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    """Of the weights as they are loaded; training may hold the denoiser in another."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Count what any network is asked through the policy, the denoiser or another."""
        super().__init_subclass__(**options)
        run_first(cls, "predict_epsilon", _watch)

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            """Count what the denoiser is asked from the moment that anyone gets hold of it.

            So it is read no earlier than it is needed, and a subclass may keep it as it likes.
            """
            value = super().__getattribute__(name)
            if name == "denoiser" and isinstance(value, torch.nn.Module):
                evaluations.watch(value)
            return value

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Conditions of B prompts; "" is the unconditional one."""

    @abstractmethod
    def encode_images(self, images: Sequence[Image]) -> Moments:
        """Latent moments of B RGB images of the backbone's resolution, float32."""

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
    def release(self, *, denoiser: bool = False) -> None:
        """Drop the text encoders and the VAE (or the denoiser) from memory.

        What is asked for later is read again.
        """

    @abstractmethod
    def reset(self) -> None:
        """Put the backbone's own denoiser back, in `dtype` and without adapters."""

    @abstractmethod
    def save_checkpoint(self, folder: Path) -> None:
        """Write the trained part into `folder` as diffusers loads it.

        With an adapter (`bench.diffusion.lora`) that is `pytorch_lora_weights.safetensors`, for
        `pipeline.load_lora_weights(folder)`; else the whole denoiser as the subfolder that
        `from_pretrained(folder, subfolder=...)` expects.
        """

    @abstractmethod
    def load_checkpoint(self, path: Path) -> None:
        """Make the untouched denoiser what `save_checkpoint` wrote, or other weights that fit it.

        Raises:
            BenchError: they cannot be read, or are not exactly the denoiser's or an adapter's.
        """


def _watch(policy: Policy, denoiser: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
    evaluations.watch(denoiser)
