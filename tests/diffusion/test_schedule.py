from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from bench.api.schedule import NoiseSchedule
from bench.lib.errors import BenchError

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_from_scheduler_keeps_table_and_prediction_type() -> None:
    scheduler = DDPMScheduler(**STABLE, prediction_type="v_prediction")
    schedule = NoiseSchedule.from_scheduler(scheduler)
    assert schedule.steps == 1000
    assert schedule.prediction_type == "v_prediction"
    assert schedule.alphas_cumprod.dtype == torch.float64
    assert torch.equal(schedule.alphas_cumprod.float(), scheduler.alphas_cumprod)


def test_levels_are_variance_preserving_and_minus_one_is_clean(schedule: NoiseSchedule) -> None:
    timesteps = torch.arange(-1, 1000)
    a, s = schedule.alpha_sigma(timesteps)
    assert torch.allclose(a**2 + s**2, torch.ones(1001, dtype=torch.float64), atol=1e-15)
    assert (a[0].item(), s[0].item()) == (1.0, 0.0)
    assert bool((s.diff() > 0).all())
    a, s = schedule.alpha_sigma(torch.tensor([-199]))
    assert (a.item(), s.item()) == (1.0, 0.0)


def test_fractional_timesteps_agree_with_eulers_sigmas(schedule: NoiseSchedule) -> None:
    euler = EulerDiscreteScheduler(**STABLE, timestep_spacing="linspace")
    euler.set_timesteps(7)
    assert bool((euler.timesteps != euler.timesteps.round()).any())
    a, s = schedule.alpha_sigma(euler.timesteps)
    assert torch.allclose((s / a).float(), euler.sigmas[:-1], rtol=1e-4)
    whole = torch.arange(1000)
    for exact, interpolated in zip(
        schedule.alpha_sigma(whole), schedule.alpha_sigma(whole.float()), strict=True
    ):
        assert torch.allclose(exact, interpolated, atol=1e-12)


def test_add_noise_equals_diffusers(schedule: NoiseSchedule) -> None:
    x_0, noise = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 1, 10, 500, 998, 999])
    expected = DDPMScheduler(**STABLE).add_noise(x_0, noise, timesteps)
    assert torch.allclose(schedule.add_noise(x_0, noise, timesteps), expected, atol=1e-5)


def test_velocity_of_known_noise_converts_back_to_it(schedule: NoiseSchedule) -> None:
    velocity = NoiseSchedule(schedule.alphas_cumprod, "v_prediction")
    x_0, noise = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 3, 400, 700, 999])
    x_t = schedule.add_noise(x_0, noise, timesteps)
    target = DDPMScheduler(**STABLE).get_velocity(x_0, noise, timesteps)
    assert torch.allclose(velocity.to_epsilon(target, x_t, timesteps), noise, atol=1e-5)
    assert schedule.to_epsilon(noise, x_t, timesteps) is noise


def test_unsupported_schedules_are_refused() -> None:
    with pytest.raises(BenchError, match="'sample'"):
        NoiseSchedule.from_scheduler(DDPMScheduler(**STABLE, prediction_type="sample"))
    for kind in (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler):
        with pytest.raises(BenchError, match="zero terminal"):
            NoiseSchedule.from_scheduler(kind(**STABLE, rescale_betas_zero_snr=True))
