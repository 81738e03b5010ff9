"""Where the networks are asked: forward noising, DDIM inversion and ReNoise inversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench import Trajectory, hookimpl, option

if TYPE_CHECKING:
    import torch

    from bench import Condition, NoisedPairs, NoiseRequest
    from bench.diffusion import Inverted

TRAIN_STEPS = 1000
"""T of the schedules that the plan's cost assumes, with timesteps drawn uniformly."""


def _flat(request: NoiseRequest) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    """Clean latents, timesteps and conditions of all images as one batch [P * B]."""
    import torch

    images = request.clean.shape[0]
    condition = {name: torch.cat([rows] * images) for name, rows in request.condition.items()}
    return request.clean.flatten(0, 1), request.timesteps.repeat(images), condition


def _with_implied_noise(request: NoiseRequest, inverted: Inverted) -> NoisedPairs:
    """Inverted latents with the target tau, both taken at the request's timesteps."""
    from bench import NoisedPairs
    from bench.diffusion import implied_noise

    clean, timesteps, _ = _flat(request)
    tau = implied_noise(inverted.latents, clean, *request.schedule.alpha_sigma(timesteps))
    return NoisedPairs(
        latents=inverted.latents.reshape(request.clean.shape),
        epsilon=tau.reshape(request.clean.shape),
    )


def _mean_steps(steps: int) -> float:
    """Steps to exactly t, averaged over t: t + 1 of them where t + 1 < steps."""
    return sum(min(steps, t + 1) for t in range(TRAIN_STEPS)) / TRAIN_STEPS


def _mean_reference_code_steps(steps: int) -> float:
    """Grid timesteps strictly below t, averaged over t, with Stable Diffusion's offset of 1."""
    stride = TRAIN_STEPS // steps
    starts = (1 + i * stride for i in range(-1, steps - 1))
    return sum(min(TRAIN_STEPS, TRAIN_STEPS - 1 - start) for start in starts) / TRAIN_STEPS


@dataclass(frozen=True, kw_only=True)
class Forward(Trajectory):
    """Forward noising, the same noise for both images (Diffusion-DPO)."""

    name: ClassVar[str] = "forward"

    def noise(self, request: NoiseRequest) -> NoisedPairs:
        """x_t = a_t x_0 + s_t eps, with the target eps."""
        from bench import NoisedPairs

        clean, timesteps, _ = _flat(request)
        epsilon = request.noise.expand_as(request.clean)
        latents = request.schedule.add_noise(clean, epsilon.flatten(0, 1), timesteps)
        return NoisedPairs(latents=latents.reshape(request.clean.shape), epsilon=epsilon)


@dataclass(frozen=True, kw_only=True)
class DdimInversion(Trajectory):
    """DDIM inversion by the current policy.

    The default asks the denoiser as often as `smpo` does (9 steps with one further prediction
    each), so that `smpo[trajectory=ddim_inversion]` is an ablation at equal evaluations.
    """

    name: ClassVar[str] = "ddim_inversion"

    steps: int = option(
        18, "DDIM steps from the clean image to t; 18 cost what smpo's renoise does", ge=1, le=500
    )

    def noise(self, request: NoiseRequest) -> NoisedPairs:
        """Inverted latents, with the target (x_t - a_t x_0) / s_t."""
        from bench.diffusion import ddim_invert

        inverted = ddim_invert(
            request.predict_epsilon, request.schedule, *_flat(request), steps=self.steps
        )
        return _with_implied_noise(request, inverted)

    def nfe_per_image(self) -> float:
        """One pass a step."""
        return _mean_steps(self.steps)


@dataclass(frozen=True, kw_only=True)
class Renoise(Trajectory):
    """ReNoise inversion by the current policy (SmPO-Diffusion)."""

    name: ClassVar[str] = "renoise"
    version: ClassVar[str] = "2"

    steps: int = option(
        4, "steps to t; of preset reference-code the grid (SD 1.5: 5, SDXL: 10)", ge=1, le=500
    )
    preset: Literal["exact", "reference-code"] = option(
        "exact", "end at exactly t, or on the fixed grid of the published SmPO code"
    )
    renoise_steps: int = option(1, "further predictions a step, averaged with the first", ge=0)

    def noise(self, request: NoiseRequest) -> NoisedPairs:
        """Inverted latents, with the target (x_t - a_t x_0) / s_t."""
        from bench.diffusion import reference_code_invert, renoise_invert

        invert = renoise_invert if self.preset == "exact" else reference_code_invert
        inverted = invert(
            request.predict_epsilon,
            request.schedule,
            *_flat(request),
            steps=self.steps,
            renoise_steps=self.renoise_steps,
        )
        return _with_implied_noise(request, inverted)

    def nfe_per_image(self) -> float:
        """One pass a step, and one for every further prediction."""
        mean = _mean_steps if self.preset == "exact" else _mean_reference_code_steps
        return mean(self.steps) * (1 + self.renoise_steps)


@hookimpl
def bench_trajectories() -> Sequence[type[Trajectory]]:
    """The built-in trajectories."""
    return (Forward, DdimInversion, Renoise)
