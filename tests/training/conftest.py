"""Two policies to train: a toy network that counts its passes, and a tiny real pipeline."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from bench_plugins.aggregations import Human
from bench_plugins.losses import Sigmoid
from bench_plugins.references import Frozen
from bench_plugins.trajectories import Forward
from PIL.Image import Image

from bench import (
    Labels,
    Loss,
    PairErrors,
    Reference,
    Trajectory,
)
from bench.api.encoded_pairs import EncodedPairs
from bench.api.kinds import PairRewards, TrainingSetup
from bench.api.policy import Condition, Moments, Policy
from bench.api.schedule import NoiseSchedule
from bench.api.training import StepReport, TrainingBudget, TrainingOutcome
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.distributed import ALONE
from bench.training.loop import train_pairs
from tests.tiny import LATENT_SHAPE, TOKENS, WIDTH, save_tiny_pipeline

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
    """Latents [2, 2, 2], a small network, two captions."""

    def __init__(self) -> None:
        self.counter = [0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = ToyDenoiser(self.counter)
        betas = torch.linspace(1e-3, 0.1, STEPS, dtype=torch.float64)
        self.schedule = NoiseSchedule(torch.cumprod(1 - betas, dim=0), "epsilon")
        self.latent_shape = SHAPE
        self.device = torch.device("cpu")
        self.dtype = torch.float32

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

    def release(self, *, denoiser: bool = False) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise NotImplementedError

    def save_checkpoint(self, folder: Path) -> None:
        raise NotImplementedError

    def load_checkpoint(self, folder: Path) -> None:
        raise NotImplementedError


BUDGET = TrainingBudget(
    steps=6,
    batch_size=8,
    micro_batch_size=8,
    warmup_steps=2,
    prompt_dropout=0.25,
    checkpoint_every=2,
)


def toy_setup(
    workspace: Path, report: Callable[[StepReport], None] = lambda _: None, **changes: Any
) -> TrainingSetup:
    """40 pairs, one image around +1 and one around -1; people prefer +1, every eighth a tie."""
    n = 40
    source = torch.Generator().manual_seed(5)
    human = np.array([0.5 if i % 8 == 7 else float(i % 3 == 0) for i in range(n)])
    sign = torch.tensor([1.0 if i % 3 == 0 else -1.0 for i in range(n)])
    middle = torch.stack([sign, -sign], dim=1)[..., None, None, None]
    seed, world = changes.pop("seed", 3), changes.pop("world", ALONE)
    return TrainingSetup(
        train_pairs=train_pairs,
        policy=ToyPolicy(),
        pairs=EncodedPairs(
            mean=(middle + 0.1 * torch.randn(n, 2, *SHAPE, generator=source)).unsqueeze(2).numpy(),
            std=np.full((n, 2, 1, *SHAPE), 0.05, dtype=np.float32),
            prompt_index=torch.arange(n) % 2 + 1,
            conditions={"text": np.eye(3, dtype=np.float32)},
        ),
        rewards=PairRewards(human=human, rewards={"mean": np.stack([human, 1 - human], axis=1)}),
        budget=BUDGET.model_copy(update=changes),
        seed=seed,
        workspace=workspace,
        report=report,
        world=world,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Loss):
    """Gives NaN, in the loss or only in its gradient."""

    name: ClassVar[str] = "broken"
    in_gradient: bool = False

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        if self.in_gradient:
            return torch.sqrt(errors.policy_0 * 0)
        return errors.policy_0 * math.nan


def labels_of(setup: TrainingSetup, ties: str = "drop") -> Labels:
    return Human(ties=ties).label(setup.rewards, setup.seed)


def train(
    setup: TrainingSetup,
    *,
    labels: Labels | None = None,
    loss: Loss | None = None,
    reference: Reference | None = None,
    trajectory: Trajectory | None = None,
    beta: float = 20.0,
    learning_rate: float = 3e-3,
) -> TrainingOutcome:
    return train_pairs(
        setup,
        labels=labels or labels_of(setup),
        trajectory=trajectory or Forward(),
        loss=loss or Sigmoid(),
        reference=reference or Frozen(),
        beta=beta,
        learning_rate=learning_rate,
    )


def forked(work: Callable[[], object], **environment: str) -> int:
    """Do `work` in a process of its own; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environment)
        # The parent's thread pool does not live on in a fork.
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for a process; minus the signal's number if one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion pipeline."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


def tiny_setup(
    pipeline: Path,
    workspace: Path,
    report: Callable[[StepReport], None] = lambda _: None,
    *,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> TrainingSetup:
    """12 random pairs for the tiny pipeline's U-Net, every sixth a tie; a LoRA of rank 4."""
    n = 12
    source = np.random.default_rng(5)
    human = np.array([0.5 if i % 6 == 5 else float(i % 2) for i in range(n)])
    seed, world = changes.pop("seed", 3), changes.pop("world", ALONE)
    options = {"steps": 4, "batch_size": 4, "micro_batch_size": 4, "lora_rank": 4} | changes
    return TrainingSetup(
        train_pairs=train_pairs,
        policy=StableDiffusionPolicy.load(pipeline, "cpu", dtype=dtype),
        pairs=EncodedPairs(
            mean=source.normal(size=(n, 2, 1, *LATENT_SHAPE)).astype(np.float32),
            std=np.full((n, 2, 1, *LATENT_SHAPE), 0.05, dtype=np.float32),
            prompt_index=torch.arange(n) % 2 + 1,
            conditions={"prompt": source.normal(size=(3, TOKENS, WIDTH)).astype(np.float32)},
        ),
        rewards=PairRewards(human=human, rewards={}),
        budget=BUDGET.model_copy(update=options),
        seed=seed,
        workspace=workspace,
        report=report,
        world=world,
    )
