"""A toy policy: latents [2, 2, 2], a small network, two captions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from bench.diffusion.policy import Condition, Moments, Policy
from bench.diffusion.schedule import NoiseSchedule
from bench.protocols import PairRewards
from bench.training.setup import EncodedPairs, StepReport, TrainingBudget, TrainingSetup

SHAPE = (2, 2, 2)
STEPS = 100


class ToyDenoiser(torch.nn.Module):
    """Two linear layers that count the latents they are asked about."""

    def __init__(self, counter: list[int]) -> None:
        super().__init__()
        self.counter = counter
        self.inner = torch.nn.Linear(8 + 1 + 3, 32)
        self.outer = torch.nn.Linear(32, 8)
        self.dropout = torch.nn.Dropout(0.5)

    def __deepcopy__(self, memo: dict[int, Any]) -> ToyDenoiser:
        other = ToyDenoiser.__new__(ToyDenoiser)
        torch.nn.Module.__init__(other)
        other.counter = self.counter
        for name, child in self.named_children():
            setattr(other, name, copy.deepcopy(child, memo))
        return other

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        self.counter[0] += len(x)
        hidden = torch.cat([x.flatten(1), t[:, None] / STEPS, text], dim=1)
        return self.outer(self.dropout(torch.tanh(self.inner(hidden)))).view_as(x)


class ToyPolicy(Policy):
    def __init__(self) -> None:
        self.counter = [0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = ToyDenoiser(self.counter)
        betas = torch.linspace(1e-3, 0.1, STEPS, dtype=torch.float64)
        self.schedule = NoiseSchedule(torch.cumprod(1 - betas, dim=0), "epsilon")
        self.latent_shape = SHAPE
        self.device = torch.device("cpu")

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        raise NotImplementedError

    def encode_images(self, images: Sequence[Image]) -> Moments:
        raise NotImplementedError

    def decode(self, latents: torch.Tensor) -> list[Image]:
        raise NotImplementedError

    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        out: torch.Tensor = denoiser(latents, timesteps, condition["text"])
        return out

    def save_denoiser(self, folder: Path) -> None:
        raise NotImplementedError

    def load_denoiser(self, folder: Path) -> None:
        raise NotImplementedError


def toy_setup(
    workspace: Path, report: Callable[[StepReport], None] = lambda _: None, **changes: Any
) -> TrainingSetup:
    """40 pairs, one image around +1 and one around -1; people prefer +1, every eighth a tie."""
    n = 40
    source = torch.Generator().manual_seed(5)
    human = np.array([0.5 if i % 8 == 7 else float(i % 3 == 0) for i in range(n)])
    sign = torch.tensor([1.0 if i % 3 == 0 else -1.0 for i in range(n)])
    middle = torch.stack([sign, -sign], dim=1)[..., None, None, None]
    budget = TrainingBudget(
        steps=6,
        batch_size=8,
        micro_batch_size=8,
        warmup_steps=2,
        max_grad_norm=1.0,
        empty_prompt_share=0.25,
        weight_decay=0.01,
        checkpoint_every=2,
    )
    seed = changes.pop("seed", 3)
    return TrainingSetup(
        policy=ToyPolicy(),
        pairs=EncodedPairs(
            mean=middle + 0.1 * torch.randn(n, 2, *SHAPE, generator=source),
            std=torch.full((n, 2, *SHAPE), 0.05),
            prompt_index=torch.arange(n) % 2 + 1,
            conditions={"text": torch.eye(3)},
        ),
        rewards=PairRewards(human=human, rewards={"mean": np.stack([human, 1 - human], axis=1)}),
        budget=dataclasses.replace(budget, **changes),
        seed=seed,
        workspace=workspace,
        report=report,
    )
