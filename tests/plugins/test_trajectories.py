from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_plugins.trajectories import DdimInversion, Forward, Renoise, bench_trajectories

from bench import Trajectory
from bench.api.noising import NoiseRequest
from bench.api.policy import Condition
from bench.api.schedule import DdimSettings, NoiseSchedule, per_sample
from bench.diffusion.inversion import ddim_invert, reference_code_invert, renoise_invert
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.registry.registry import default_registry
from tests.tiny import LATENT_SHAPE, save_tiny_pipeline

TIMESTEPS = torch.tensor([0, 2, 50, 500, 999])
ALL = [
    Forward(),
    DdimInversion(),
    DdimInversion(steps=3),
    Renoise(),
    Renoise(steps=3, renoise_steps=2),
    Renoise(preset="reference-code", steps=5),
]


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    settings = DdimSettings(set_alpha_to_one=False, steps_offset=1, clip_range=None)
    return NoiseSchedule(torch.cumprod(1 - betas, dim=0), "epsilon", settings)


class Network:
    """A smooth epsilon model of latent, timestep and condition that counts its calls."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        self.batches.append(len(x))
        return torch.tanh(x + per_sample(condition["prompt"], x)) * per_sample(1 + t / 1000, x)


def request(
    schedule: NoiseSchedule, network: Callable[..., torch.Tensor], images: int = 2
) -> NoiseRequest:
    generator = torch.Generator().manual_seed(0)
    return NoiseRequest(
        clean=torch.randn(images, 5, 4, 3, 3, generator=generator, dtype=torch.float64),
        timesteps=TIMESTEPS,
        noise=torch.randn(5, 4, 3, 3, generator=generator, dtype=torch.float64),
        condition={"prompt": torch.randn(5, generator=generator, dtype=torch.float64)},
        schedule=schedule,
        predict_epsilon=network,
    )


def test_hook_names_the_three() -> None:
    names = [kind.name for kind in bench_trajectories()]
    assert names == ["forward", "ddim_inversion", "renoise"]
    assert all(issubclass(kind, Trajectory) and kind.__doc__ for kind in bench_trajectories())


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys, bench_plugins.trajectories as t; t.Renoise().nfe_per_image(); "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_forward_shares_the_noise_of_the_request(schedule: NoiseSchedule) -> None:
    network = Network()
    asked = request(schedule, network)
    noised = Forward().noise(asked)
    assert network.batches == []
    for image in (0, 1):
        assert torch.equal(noised.epsilon[image], asked.noise)
        expected = schedule.add_noise(asked.clean[image], asked.noise, TIMESTEPS)
        assert torch.equal(noised.latents[image], expected)


@pytest.mark.parametrize("trajectory", ALL, ids=repr)
@pytest.mark.parametrize("images", [1, 2])
def test_target_leads_from_the_clean_image_to_the_latent(
    schedule: NoiseSchedule, trajectory: Trajectory, images: int
) -> None:
    network = Network()
    asked = request(schedule, network, images)
    noised = trajectory.noise(asked)
    assert noised.latents.shape == noised.epsilon.shape == asked.clean.shape
    for image in range(images):
        rebuilt = schedule.add_noise(asked.clean[image], noised.epsilon[image], TIMESTEPS)
        assert torch.allclose(rebuilt, noised.latents[image], atol=1e-10)


@pytest.mark.parametrize(
    ("trajectory", "invert", "options"),
    [
        (DdimInversion(steps=3), ddim_invert, {"steps": 3}),
        (Renoise(), renoise_invert, {"steps": 4}),
        (
            Renoise(preset="reference-code", steps=5, renoise_steps=2),
            reference_code_invert,
            {"steps": 5, "renoise_steps": 2},
        ),
    ],
    ids=["ddim_inversion", "renoise", "reference-code"],
)
def test_both_images_are_inverted_in_one_call_as_if_alone(
    schedule: NoiseSchedule,
    trajectory: Trajectory,
    invert: Callable[..., object],
    options: dict[str, int],
) -> None:
    network = Network()
    asked = request(schedule, network)
    noised = trajectory.noise(asked)
    assert max(network.batches) == 2 * len(TIMESTEPS)
    for image in (0, 1):
        alone = invert(
            Network(), schedule, asked.clean[image], TIMESTEPS, asked.condition, **options
        )
        assert torch.allclose(noised.latents[image], alone.latents, atol=1e-12)  # type: ignore[attr-defined]


def test_presets_differ(schedule: NoiseSchedule) -> None:
    exact = Renoise(steps=5).noise(request(schedule, Network()))
    published = Renoise(steps=5, preset="reference-code").noise(request(schedule, Network()))
    gaps = (exact.latents - published.latents).abs().amax(dim=(0, 2, 3, 4))
    assert bool((gaps > 0.003).all())


@pytest.mark.parametrize("trajectory", [*ALL, Renoise(preset="reference-code", steps=10)], ids=repr)
def test_expected_passes_are_the_mean_over_all_timesteps(
    schedule: NoiseSchedule, trajectory: Trajectory
) -> None:
    network = Network()
    every = NoiseRequest(
        clean=torch.zeros(1, 1000, 1, 1, 1),
        timesteps=torch.arange(1000),
        noise=torch.zeros(1000, 1, 1, 1),
        condition={"prompt": torch.zeros(1000)},
        schedule=schedule,
        predict_epsilon=network,
    )
    trajectory.noise(every)
    assert sum(network.batches) / 1000 == pytest.approx(trajectory.nfe_per_image())


def test_ddim_inversion_and_smpo_ask_the_denoiser_equally_often() -> None:
    inversion = default_registry().build("methods", "smpo").trajectory
    assert isinstance(inversion, Renoise)
    per_image = DdimInversion().nfe_per_image()
    assert per_image == pytest.approx(inversion.nfe_per_image(), rel=0.01)
    assert DdimInversion().steps == inversion.steps * (1 + inversion.renoise_steps)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("trajectory", ALL, ids=repr)
def test_a_real_network_gives_finite_targets_without_gradient(
    trajectory: Trajectory, prediction_type: str, tmp_path: Path
) -> None:
    policy = StableDiffusionPolicy.load(save_tiny_pipeline(tmp_path, prediction_type), "cpu")
    generator = torch.Generator().manual_seed(0)
    noised = trajectory.noise(
        NoiseRequest(
            clean=torch.randn(2, 5, *LATENT_SHAPE, generator=generator),
            timesteps=TIMESTEPS,
            noise=torch.randn(5, *LATENT_SHAPE, generator=generator),
            condition=policy.encode_prompts(["a", "b", "c", "d", ""]),
            schedule=policy.schedule,
            predict_epsilon=lambda x, t, c: policy.predict_epsilon(policy.denoiser, x, t, c),
        )
    )
    for tensor in (noised.latents, noised.epsilon):
        assert bool(tensor.isfinite().all())
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
