"""`renoise[preset=reference-code]` beside the published SmPO-Diffusion loss, to 1e-5.

The inverse scheduler is written down here a second time, from the formulas of the class that the
published code uses (`DDIMInverseScheduler` of diffusers 0.20), and the installed diffusers' class
is asked too: it has kept the formulas, but numbers a step by the timestep that it leads to.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.losses import SmoothedSigmoid
from bench_plugins.trajectories import Renoise
from diffusers import DDIMInverseScheduler

from bench import PairErrors
from bench.api.noising import NoiseRequest
from bench.api.policy import Condition
from bench.api.schedule import DdimSettings, NoiseSchedule
from bench.diffusion.inversion import reference_code_grid
from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
from bench.lib.errors import BenchError
from tests.tiny import LATENT_SHAPE, save_tiny_sdxl

TIMESTEPS = [2, 50, 199, 300, 999]
BETA, GAMMA, P = 2000.0, 10.0, 0.53
CONFIG = Path("scheduler", "scheduler_config.json")

Step = Callable[[torch.Tensor, int, torch.Tensor], torch.Tensor]
"""(noise estimate, asked timestep, latent) -> latent, T // grid timesteps further."""


@dataclass(frozen=True)
class Inverse:
    """The inverse scheduler of the published code, made from a scheduler's configuration."""

    config: dict[str, Any]
    grid: int

    @property
    def stride(self) -> int:
        return int(self.config.get("num_train_timesteps", 1000)) // self.grid

    @property
    def timesteps(self) -> list[int]:
        ends = [self.config.get("steps_offset", 0) + i * self.stride for i in range(self.grid)]
        return [ends[0] - self.stride, *ends[:-1]]

    @property
    def abar(self) -> torch.Tensor:
        first, last = self.config["beta_start"] ** 0.5, self.config["beta_end"] ** 0.5
        return (1 - torch.linspace(first, last, 1000, dtype=torch.float64) ** 2).cumprod(0)

    def step(self, noise: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        abar, to_one = self.abar, self.config.get("set_alpha_to_one", True)
        before = abar[timestep] if timestep >= 0 else abar.new_tensor(1.0) if to_one else abar[0]
        after = abar[timestep + self.stride]
        image = (sample - (1 - before).sqrt() * noise) / before.sqrt()
        if self.config.get("clip_sample", True):
            bound = self.config.get("clip_sample_range", 1.0)
            image = image.clamp(-bound, bound)
        return after.sqrt() * image + (1 - after).sqrt() * noise


def installed(config: dict[str, Any], grid: int) -> Step:
    """The same step by the class of today's diffusers."""
    told = {key: value for key, value in config.items() if not key.startswith("_")}
    scheduler = DDIMInverseScheduler.from_config(told)
    scheduler.set_timesteps(grid)
    assert scheduler.timesteps.tolist() == [
        t + 1000 // grid for t in Inverse(config, grid).timesteps
    ]

    def step(noise: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = scheduler.step(noise, timestep + 1000 // grid, sample).prev_sample
        return moved

    return step


@dataclass(frozen=True)
class World:
    """A tiny pipeline in float64, its reference, and one pair of latents with a caption."""

    policy: StableDiffusionPolicy
    reference: torch.nn.Module
    clean: torch.Tensor
    condition: Condition

    def predict(
        self, network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, told: Condition
    ) -> torch.Tensor:
        return self.policy.predict_epsilon(network, x, t, told)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        weights = list(self.policy.denoiser.parameters())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


def world(folder: Path, tmp_path: Path, **scheduler: Any) -> tuple[World, dict[str, Any]]:
    """The pipeline in `folder` with another scheduler configuration; None takes a key away."""
    shutil.copytree(folder, tmp_path / "pipeline")
    config = json.loads((tmp_path / "pipeline" / CONFIG).read_text()) | scheduler
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "pipeline" / CONFIG).write_text(json.dumps(config))
    policy = StableDiffusionPolicy.load(tmp_path / "pipeline", "cpu")
    generator = torch.Generator().manual_seed(0)
    policy.denoiser.double().eval()
    reference = copy.deepcopy(policy.denoiser)
    with torch.no_grad():
        for weight in policy.denoiser.parameters():
            weight += 1e-4 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    clean = torch.randn(2, *LATENT_SHAPE, generator=generator, dtype=torch.float64)
    condition = {k: v.double() for k, v in policy.encode_prompts(["a red circle"]).items()}
    return World(policy, reference, clean, condition), config


def published_loss(made: World, step: Step, starts: list[int], abar: torch.Tensor, t: int) -> Any:
    """The loss of one pair, winner first, as the published training script computes it."""
    told = {name: torch.cat([rows] * 2) for name, rows in made.condition.items()}
    x = made.clean
    with torch.no_grad():
        for start in [start for start in starts if start < t]:
            asked = torch.tensor([start, start])
            noise = made.predict(made.policy.denoiser, x, asked, told)
            again = made.predict(made.policy.denoiser, step(noise, start, x), asked, told)
            x = step((noise + again) / 2, start, x)
    target = (x - abar[t].sqrt() * made.clean) / (1 - abar[t]).sqrt()
    asked = torch.tensor([t, t])

    def error(network: torch.nn.Module) -> torch.Tensor:
        winner, loser = (made.predict(network, x, asked, told) - target).square().mean((1, 2, 3))
        difference: torch.Tensor = winner - loser
        return difference

    with torch.no_grad():
        reference = error(made.reference)
    scale = -0.5 * BETA * (2 * P - 1) * 10
    return -torch.nn.functional.logsigmoid(scale * (error(made.policy.denoiser) - reference))


def our_loss(made: World, trajectory: Renoise, t: int) -> torch.Tensor:
    """The same from this project's parts, as the training loop joins them."""
    policy = made.policy
    with torch.no_grad():
        noised = trajectory.noise(
            NoiseRequest(
                clean=made.clean[:, None],
                timesteps=torch.tensor([t]),
                noise=torch.zeros(1, *LATENT_SHAPE, dtype=torch.float64),
                condition=made.condition,
                schedule=policy.schedule,
                predict_epsilon=lambda x, t, c: made.predict(policy.denoiser, x, t, c),
            )
        )

    def errors(network: torch.nn.Module) -> torch.Tensor:
        told = {name: torch.cat([rows] * 2) for name, rows in made.condition.items()}
        predicted = made.predict(network, noised.latents[:, 0], torch.tensor([t, t]), told)
        return (predicted - noised.epsilon[:, 0]).square().mean((1, 2, 3))[:, None]

    with torch.no_grad():
        reference = errors(made.reference)
    mine = errors(policy.denoiser)
    pair = PairErrors(
        policy_0=mine[0], policy_1=mine[1], reference_0=reference[0], reference_1=reference[1]
    )
    return SmoothedSigmoid(gamma=GAMMA)(pair, torch.tensor([P], dtype=torch.float64), BETA)[0]


@pytest.mark.parametrize(
    "scheduler",
    [
        pytest.param({"set_alpha_to_one": False, "clip_sample": False}, id="stable-diffusion"),
        pytest.param({"set_alpha_to_one": True, "clip_sample": False}, id="alpha-to-one"),
        pytest.param({"set_alpha_to_one": None, "clip_sample": False}, id="flag-absent"),
        pytest.param({"set_alpha_to_one": False, "clip_sample": None}, id="clip-absent"),
        pytest.param({"clip_sample": True, "clip_sample_range": 2.5}, id="clip-at-2.5"),
        pytest.param({"clip_sample": False, "steps_offset": None}, id="offset-absent"),
    ],
)
@pytest.mark.parametrize("grid", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_loss_and_gradient_are_those_of_the_published_code(
    tiny_folder: Path, tmp_path: Path, scheduler: dict[str, Any], grid: int
) -> None:
    made, config = world(tiny_folder, tmp_path, **scheduler)
    inverse = Inverse(config, grid)
    trajectory = Renoise(preset="reference-code", steps=grid)
    for t in TIMESTEPS:
        ours = our_loss(made, trajectory, t)
        gradient = made.gradient(ours)
        assert float(gradient.norm()) > 1e-6
        for step in (inverse.step, installed(config, grid)):
            theirs = published_loss(made, step, inverse.timesteps, inverse.abar, t)
            assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
            expected = made.gradient(theirs)
            assert float((gradient - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("grid", [5, 10])
def test_the_flag_is_no_small_thing(tiny_folder: Path, tmp_path: Path, grid: int) -> None:
    """So the test above cannot pass with the flag unread."""
    trajectory = Renoise(preset="reference-code", steps=grid)
    gradients = []
    for to_one in (False, True):
        made, _ = world(
            tiny_folder, tmp_path / str(to_one), set_alpha_to_one=to_one, clip_sample=False
        )
        gradients.append(made.gradient(our_loss(made, trajectory, 50)))
    wrong, right = gradients
    assert float((wrong - right).norm() / right.norm()) > 0.01


def test_the_schedule_holds_what_the_file_says_not_what_a_pipeline_forces(
    tiny_folder: Path, tmp_path: Path
) -> None:
    made, _ = world(tiny_folder, tmp_path / "1", clip_sample=None, steps_offset=None)
    assert made.policy.schedule.ddim == DdimSettings(set_alpha_to_one=False)
    assert made.policy.scheduler_config["clip_sample"] is False
    made, _ = world(tiny_folder, tmp_path / "2", clip_sample=False, set_alpha_to_one=None)
    assert made.policy.schedule.ddim == DdimSettings(steps_offset=1, clip_range=None)
    assert made.policy.schedule.initial_abar == 1


def test_of_a_configuration_that_belongs_to_another_scheduler(tmp_path: Path) -> None:
    """SDXL's file names Euler's scheduler and carries DDIM's options all the same."""
    policy = StableDiffusionXLPolicy.load(save_tiny_sdxl(tmp_path), "cpu")
    settings = DdimSettings(set_alpha_to_one=False, steps_offset=1, clip_range=None)
    assert policy.schedule.ddim == settings
    assert policy.schedule.initial_abar == pytest.approx(0.99915, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "steps", "said"),
    [
        (DdimSettings(timestep_spacing="trailing"), 5, "timestep_spacing 'leading' alone"),
        (DdimSettings(steps_offset=200), 5, "do not fit into its 1000 timesteps"),
        (DdimSettings(steps_offset=-1), 5, "do not fit into its 1000 timesteps"),
        (DdimSettings(), 1001, "do not fit into its 1000 timesteps"),
    ],
)
def test_grids_that_the_published_code_cannot_walk_are_refused(
    schedule: NoiseSchedule, settings: DdimSettings, steps: int, said: str
) -> None:
    other = NoiseSchedule(schedule.alphas_cumprod, "epsilon", settings)
    with pytest.raises(BenchError, match=said):
        reference_code_grid(torch.arange(1000), steps, other)
