"""Images from prompts: fixed noise per prompt and seed, guidance, diffusers' solvers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image

from bench.api.policy import Policy
from bench.diffusion.compiling import compile_blocks
from bench.lib.errors import BenchError, UnknownNameError

SchedulerName: TypeAlias = Literal["ddim", "euler", "dpm++"]

_SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}
_OWN_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Images of one batch and what they cost."""

    images: list[Image.Image]
    nfe: int
    """Denoiser evaluations, one latent each; guidance doubles them."""


def initial_latent(prompt: str, image_seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise [C, h, w] on the CPU, a function of its arguments alone.

    Drawn on the CPU, since generators of other devices give other numbers.
    """
    digest = hashlib.sha256(f"{image_seed}\n{prompt}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def solver(name: str, scheduler_config: dict[str, Any]) -> Any:
    """The diffusers scheduler `name` on the backbone's noise schedule, taking epsilon.

    A network that predicts velocity is converted to epsilon where it is asked
    (`Policy.predict_epsilon`), by the levels of the timestep at which it is asked. Those are the
    solver's own only if it places its steps at timesteps of the schedule.
    """
    if name not in _SOLVERS:
        raise UnknownNameError("sampler", name, _SOLVERS)
    scheduler = _SOLVERS[name].from_config(scheduler_config)
    placed = [option for option in _OWN_SIGMAS if scheduler.config.get(option)]
    if placed and scheduler.config.prediction_type != "epsilon":
        raise BenchError(
            f"the backbone's scheduler says {placed[0]}, which does not go with a network that "
            f"predicts {scheduler.config.prediction_type}; set it to false in "
            f"scheduler/scheduler_config.json"
        )
    scheduler.register_to_config(prediction_type="epsilon")
    return scheduler


@torch.no_grad()
def denoise(
    policy: Policy,
    noise: torch.Tensor,
    prompts: Sequence[str],
    *,
    scheduler: SchedulerName,
    steps: int,
    guidance: float,
    compiled: bool = False,
) -> tuple[torch.Tensor, int]:
    """Clean latents from standard normal `noise` [B, C, h, w], and the denoiser evaluations spent.

    Guidance is eps = eps("") + g (eps(prompt) - eps("")) (Ho & Salimans 2021, Eq. 6 with
    g = 1 + w), both in one doubled batch; g = 1 asks for the prompt alone. `compiled` compiles the
    denoiser's blocks first and leaves them so for the next batch.
    """
    if guidance < 1:
        raise BenchError(f"guidance must be at least 1 (1: none), not {guidance}")
    stepper = solver(scheduler, policy.scheduler_config)
    stepper.set_timesteps(steps, device=policy.device)
    condition = policy.encode_prompts(prompts)
    copies = 1
    if guidance > 1:
        copies = 2
        empty = policy.encode_prompts([""])
        condition = {k: torch.cat([empty[k].expand_as(v), v]) for k, v in condition.items()}

    if compiled:
        compile_blocks(policy.denoiser)
    x = noise.to(policy.device) * stepper.init_noise_sigma
    for t in stepper.timesteps:
        scaled = stepper.scale_model_input(x, t)
        batch = torch.cat([scaled] * copies)
        epsilon = policy.predict_epsilon(policy.denoiser, batch, t.expand(len(batch)), condition)
        if copies == 2:
            without, given = epsilon.chunk(2)
            epsilon = without + guidance * (given - without)
        x = stepper.step(epsilon, t, x, return_dict=False)[0]
    return x, copies * len(prompts) * len(stepper.timesteps)


def sample(
    policy: Policy,
    prompts: Sequence[str],
    image_seeds: Sequence[int],
    *,
    scheduler: SchedulerName = "ddim",
    steps: int,
    guidance: float,
    compiled: bool = False,
) -> Samples:
    """Draw one image for each prompt and image seed, deterministically.

    Equals diffusers' StableDiffusionPipeline on the same initial noise. The batch changes an
    image by no more than the float error of batched arithmetic.

    Args:
        policy: The backbone; its `denoiser` is sampled.
        prompts: B prompts.
        image_seeds: B seeds.
        scheduler: The solver: DDIM with eta 0, Euler, or DPM-Solver++ of second order.
        steps: Solver steps.
        guidance: Classifier-free guidance scale; 1 is none.
        compiled: Compile the denoiser's blocks, as `denoise` does.
    """
    noise = torch.stack(
        [
            initial_latent(prompt, seed, policy.latent_shape)
            for prompt, seed in zip(prompts, image_seeds, strict=True)
        ]
    )
    latents, nfe = denoise(
        policy,
        noise,
        prompts,
        scheduler=scheduler,
        steps=steps,
        guidance=guidance,
        compiled=compiled,
    )
    return Samples(images=policy.decode(latents), nfe=nfe)
