"""Inversion: from a clean latent along the model's own ODE to a noisy latent at timestep t.

All functions are batched and each sample has its own target timestep. A *level* is the
timestep whose noise a latent carries (-1: none); a network is *asked* at a timestep, which need
not be the latent's level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from bench.api.policy import Condition
from bench.api.schedule import CLEAN, NoiseSchedule, per_sample
from bench.lib.errors import BenchError

Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Condition], torch.Tensor]
"""(latents [N, C, h, w], timesteps [N], condition [N, ...]) -> epsilon [N, C, h, w]."""


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """Inverted latents and what they cost."""

    latents: torch.Tensor
    """[B, C, h, w]."""
    nfe: int
    """Denoiser evaluations spent, one latent each, over the whole batch."""


def implied_noise(
    x_t: torch.Tensor, x_0: torch.Tensor, a: torch.Tensor, s: torch.Tensor
) -> torch.Tensor:
    """tau = (x_t - a x_0) / s, the noise that would lead from x_0 to x_t (SmPO-Diffusion).

    Args:
        x_t: [B, ...] noisy latents.
        x_0: [B, ...] clean latents.
        a: [B] signal level of x_t.
        s: [B] noise level of x_t, above 0.
    """
    return (x_t - per_sample(a, x_t) * x_0) / per_sample(s, x_t)


def ddim_step(
    x: torch.Tensor,
    epsilon: torch.Tensor,
    a_from: torch.Tensor,
    s_from: torch.Tensor,
    a_to: torch.Tensor,
    s_to: torch.Tensor,
    *,
    clip_range: float | None = None,
) -> torch.Tensor:
    """Deterministic DDIM between any two levels (Song et al. 2021, Eq. 12 with sigma = 0).

    a_to (x - s_from eps) / a_from + s_to eps, arranged as r x + (s_to - r s_from) eps with
    r = a_to / a_from: between equal levels that is x itself, to the last bit.

    Args:
        x: [B, ...] latents at the level (a_from, s_from).
        epsilon: [B, ...] noise estimates.
        a_from: [B], like the three other levels.
        s_from: [B].
        a_to: [B].
        s_to: [B].
        clip_range: the clean estimate (x - s_from eps) / a_from is clipped to plus and minus
            this, eps stays as it is; None: not at all.
    """
    if clip_range is not None:
        clean = (x - per_sample(s_from, x) * epsilon) / per_sample(a_from, x)
        clipped = clean.clamp(-clip_range, clip_range)
        return per_sample(a_to, x) * clipped + per_sample(s_to, x) * epsilon.to(x.dtype)
    ratio = a_to / a_from
    shift = s_to - ratio * s_from
    return per_sample(ratio, x) * x + per_sample(shift, x) * epsilon.to(x.dtype)


def inversion_grid(timesteps: torch.Tensor, steps: int) -> torch.Tensor:
    """Levels from the clean image to exactly t, evenly spaced and rounded half up.

    Where t + 1 < steps, levels repeat; a step between equal levels is the identity and
    `renoise_invert` spends no pass on it.

    Args:
        timesteps: int64 [B], at least 0.
        steps: Number of steps n.

    Returns:
        int64 [B, n + 1], -1 first and t last.
    """
    # Integers alone, so that no device or dtype can round a level differently.
    index = torch.arange(steps + 1, device=timesteps.device)
    return CLEAN + (2 * (timesteps[:, None] - CLEAN) * index + steps) // (2 * steps)


def reference_code_grid(
    timesteps: torch.Tensor, steps: int, schedule: NoiseSchedule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and asked timesteps of the published SmPO code (see `reference_code_invert`).

    Args:
        timesteps: int64 [B].
        steps: Size of the grid, the scheduler's `set_timesteps` (5 for SD 1.5, 10 for SDXL).
        schedule: With T and the grid's offset.

    Returns:
        Levels int64 [B, steps + 1], -1 first, the last one reached repeated; and the timesteps
        at which the network is asked, int64 [B, steps].

    Raises:
        BenchError: the backbone's scheduler spaces its timesteps otherwise or beyond T.
    """
    spacing, offset = schedule.ddim.timestep_spacing, schedule.ddim.steps_offset
    if spacing != "leading":
        raise BenchError(
            f"renoise[preset=reference-code] follows timestep_spacing 'leading' alone, but the "
            f"backbone's scheduler says {spacing!r}; choose preset=exact"
        )
    stride = schedule.steps // steps
    if stride == 0 or not 0 <= offset < schedule.steps - (steps - 1) * stride:
        raise BenchError(
            f"renoise[preset=reference-code]: {steps} steps with the offset {offset} of the "
            f"backbone's scheduler do not fit into its {schedule.steps} timesteps; choose fewer"
        )
    index = torch.arange(steps, device=timesteps.device)
    queries = offset + (index - 1) * stride
    reached = torch.cat([index.new_tensor([CLEAN]), offset + index * stride])
    depth = (queries < timesteps[:, None]).sum(dim=1)
    walked = torch.arange(steps + 1, device=timesteps.device).minimum(depth[:, None])
    return reached[walked], queries.expand(len(timesteps), -1)


@torch.no_grad()
def _walk(
    predict: Predict,
    schedule: NoiseSchedule,
    clean: torch.Tensor,
    levels: torch.Tensor,
    queries: torch.Tensor,
    condition: Condition,
    renoise_steps: int,
    clean_abar: float = 1.0,
    clip_range: float | None = None,
) -> Inverted:
    """Step from level to level; samples whose level stays the same are left out of the call."""
    x, nfe = clean, 0
    for i in range(queries.shape[1]):
        here, there = levels[:, i], levels[:, i + 1]
        moving = (here != there).nonzero().squeeze(1)
        if moving.numel() == 0:
            continue
        start, timesteps = x[moving], queries[moving, i]
        shown = {name: tensor[moving] for name, tensor in condition.items()}
        a_from, s_from = schedule.alpha_sigma(here[moving], clean_abar=clean_abar)
        a_to, s_to = schedule.alpha_sigma(there[moving])
        path = (a_from, s_from, a_to, s_to)

        predictions = [predict(start, timesteps, shown)]
        for _ in range(renoise_steps):
            guess = ddim_step(start, predictions[-1], *path, clip_range=clip_range)
            predictions.append(predict(guess, timesteps, shown))
        mean = torch.stack(predictions).mean(dim=0)
        x = x.index_copy(0, moving, ddim_step(start, mean, *path, clip_range=clip_range))
        nfe += len(predictions) * moving.numel()
    return Inverted(latents=x, nfe=nfe)


def renoise_invert(
    predict: Predict,
    schedule: NoiseSchedule,
    clean: torch.Tensor,
    timesteps: torch.Tensor,
    condition: Condition,
    *,
    steps: int,
    renoise_steps: int = 1,
) -> Inverted:
    """ReNoise inversion to exactly t (Garibi et al. 2024, arXiv 2403.14602, equal weights).

    DDIM run backwards is implicit: the step from level u to v > u needs the noise estimate at
    the latent that it leads to. Each step therefore predicts at the current latent, steps,
    predicts again at the stepped latent, and so on `renoise_steps` times; the mean of all
    predictions then takes the step from the original latent. The network is asked at v, the
    level stepped to, in every prediction of a step.

    Args:
        predict: The network, without guidance.
        schedule: Its noise schedule.
        clean: [B, C, h, w] clean latents.
        timesteps: int64 [B] levels to end on, at least 0.
        condition: [B, ...].
        steps: DDIM steps from the clean image.
        renoise_steps: Further predictions a step (K); each step averages K + 1.

    Returns:
        Latents at exactly `timesteps`. A step costs K + 1 passes a sample; a sample with
        t + 1 < steps takes only t + 1 steps.
    """
    levels = inversion_grid(timesteps, steps)
    return _walk(predict, schedule, clean, levels, levels[:, 1:], condition, renoise_steps)


ddim_invert = functools.partial(renoise_invert, renoise_steps=0)
"""DDIM inversion to exactly t (Song et al. 2021, Sec. 4.3: the ODE run backwards).

The step from level u to v > u uses the noise estimate at the current latent, for which the
network is asked at v, as in `renoise_invert` (of which this is the case without further
predictions): the network knows no timestep for the clean image. Arguments as there.
"""


def reference_code_invert(
    predict: Predict,
    schedule: NoiseSchedule,
    clean: torch.Tensor,
    timesteps: torch.Tensor,
    condition: Condition,
    *,
    steps: int,
    renoise_steps: int = 1,
) -> Inverted:
    """The inversion of the published SmPO code, on a grid that does not depend on t.

    `DDIMInverseScheduler` of diffusers 0.20 orders the timesteps of Stable Diffusion (T = 1000,
    `steps_offset` 1) as -199, 1, 201, 401, 601 for a grid of 5, and as -99, 1, 101, ..., 801 for
    one of 10. The code walks those strictly below t; each walk from timestep u asks the network
    at u (the level stepped *from*, negative at first) and leads to the level u + T // steps. So
    the latent ends on a grid level, while training asks policy and reference, and computes tau,
    at t. The scheduler is made from the backbone's own configuration, whose `set_alpha_to_one`
    says how noisy the first step takes the clean latent to be: abar = 1 (the class's default),
    or abar of timestep 0 (Stable Diffusion: 0.99915). Consequences:

    * Levels are 1, 201, 401, 601, 801 (or 1, 101, ..., 901). The mean of |level - t| over all t
      is 99.3 (extremes +199 and -198) for 5 and 49.4 (+99 and -98) for 10.
    * For small t the target is badly scaled. On Stable Diffusion's schedule with 5, t = 2 gives
      tau = -2.59 x_0 + 9.34 eps and t = 50 gives tau = -0.49 x_0 + 2.15 eps.
    * With one re-noise step an image costs 7.6 (5) or 12.8 (10) passes on average.

    Two things differ. The published code lets the first sample decide how far the whole batch
    is walked and so needs batches of one; here each sample decides for itself. And it refuses
    networks that predict velocity; here they are converted.

    Args:
        predict: The network, without guidance; must bear negative timesteps.
        schedule: Its noise schedule, with the settings of the backbone's scheduler.
        clean: [B, C, h, w] clean latents.
        timesteps: int64 [B] at which training will ask.
        condition: [B, ...].
        steps: Size of the grid, 5 or 10 in the published code.
        renoise_steps: Further predictions a step, 1 in the published code.

    Returns:
        Latents at the grid levels nearest above `timesteps` (or at the last level).
    """
    levels, queries = reference_code_grid(timesteps, steps, schedule)
    return _walk(
        predict,
        schedule,
        clean,
        levels,
        queries,
        condition,
        renoise_steps,
        clean_abar=schedule.initial_abar,
        clip_range=schedule.ddim.clip_range,
    )
