from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)

from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.sampling import SchedulerName, denoise, initial_latent, sample, solver
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.errors import BenchError, UnknownNameError
from tests.diffusion.conftest import Family
from tests.tiny import LATENT_SHAPE

PROMPTS = ["a red cat", "a dog on a mat", "", "42 owls, at dusk"]
SEEDS = [0, 1, 2, 3]
SOLVERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}


def pixels(images: list) -> np.ndarray:  # type: ignore[type-arg]
    return np.stack([np.asarray(image) for image in images]).astype(int)


# Every two options meet in a quick case, all three in a slow one.
@pytest.mark.parametrize(
    ("spacing", "name", "prediction", "guidance"),
    [
        pytest.param(spacing, name, *asked, marks=[pytest.mark.slow] if (i + j + k) % 3 else [])
        for i, spacing in enumerate([None, "linspace", "trailing"])
        for j, name in enumerate(["ddim", "euler", "dpm++"])
        for k, asked in enumerate([("epsilon", 1.0), ("epsilon", 5.0), ("velocity", 5.0)])
    ],
)
def test_equals_the_diffusers_pipeline(
    tiny_folder: Path,
    tiny_velocity_folder: Path,
    prediction: str,
    name: SchedulerName,
    guidance: float,
    spacing: str | None,
) -> None:
    folder = tiny_folder if prediction == "epsilon" else tiny_velocity_folder
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    policy = StableDiffusionPolicy.load(folder, "cpu")
    if spacing is not None:
        policy.scheduler_config["timestep_spacing"] = spacing
    # PNDM's configuration knows no clip_sample, and DDIM's default would clip latents at 1.
    known = {"clip_sample": False} if name == "ddim" else {}
    pipeline.scheduler = SOLVERS[name].from_config(policy.scheduler_config, **known)

    noise = torch.stack(
        [initial_latent(p, s, LATENT_SHAPE) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    )
    options = {"guidance_scale": guidance, "num_inference_steps": 6}
    expected = pipeline(PROMPTS, latents=noise, output_type="latent", **options).images
    latents, nfe = denoise(policy, noise, PROMPTS, scheduler=name, steps=6, guidance=guidance)
    assert nfe == 6 * 4 * (2 if guidance > 1 else 1)
    assert torch.allclose(latents, expected, atol=1e-4 * float(expected.abs().max()))

    images = pipeline(PROMPTS, latents=noise, **options).images
    samples = sample(policy, PROMPTS, SEEDS, scheduler=name, steps=6, guidance=guidance)
    assert samples.nfe == nfe
    # Both are 8-bit: float error can flip a rounding, never more, and hardly ever.
    difference = np.abs(pixels(samples.images) - pixels(images))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, marks=[] if name == own else [pytest.mark.slow])
        for family, own in (("sd1", "euler"), ("sd2", "ddim"), ("sdxl", "dpm++"))
        for name in ("ddim", "euler", "dpm++")
    ],
    indirect=["family"],
)
def test_families_give_the_pipelines_image(family: Family, name: SchedulerName) -> None:
    """Float pixels before rounding, in [0, 1], differ by far less than 1/255.

    The largest difference was 4.3e-6, for velocity; for epsilon 1.6e-6.
    """
    policy, pipeline = family.load(), family.diffusers()
    known = {"clip_sample": False} if name == "ddim" else {}
    pipeline.scheduler = SOLVERS[name].from_config(pipeline.scheduler.config, **known)
    noise = noises(policy)
    options = {"guidance_scale": 7.5, "num_inference_steps": 8}
    expected = pipeline(PROMPTS, latents=noise, output_type="pt", **options).images
    latents, _ = denoise(policy, noise, PROMPTS, scheduler=name, steps=8, guidance=7.5)
    # As a prompt, "" is encoded by the SDXL pipeline, but unconditional (zeros) here.
    shown = [i for i, prompt in enumerate(PROMPTS) if prompt or family.name != "sdxl"]
    difference = (policy.decode_pixels(latents) - expected)[shown].abs()
    assert float(difference.max()) < 3e-5
    # Not because all images are alike.
    assert float((expected[0] - expected[1]).abs().mean()) > 0.05


def noises(policy: PipelinePolicy) -> torch.Tensor:
    return torch.stack(
        [initial_latent(p, s, policy.latent_shape) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    )


@pytest.mark.parametrize(
    "family",
    ["sdxl", *(pytest.param(f, marks=pytest.mark.slow) for f in ("sd1", "sd2"))],
    indirect=True,
)
def test_half_precision_is_no_further_from_the_truth_than_the_pipeline(family: Family) -> None:
    """Latents stay in float32 between steps, where the pipeline rounds them to bfloat16."""
    policy = family.load(dtype=torch.bfloat16)
    noise, prompts = noises(policy)[:2], PROMPTS[:2]
    latents, _ = denoise(policy, noise, prompts, scheduler="ddim", steps=8, guidance=7.5)
    ours = policy.decode_pixels(latents)
    theirs = {}
    for dtype in (torch.bfloat16, torch.float32):
        pipeline = family.diffusers(dtype=dtype)
        pipeline.scheduler = DDIMScheduler.from_config(policy.scheduler_config)
        options = {"guidance_scale": 7.5, "num_inference_steps": 8, "output_type": "pt"}
        theirs[dtype] = pipeline(prompts, latents=noise.to(dtype), **options).images.float()
    truth, rounded = theirs[torch.float32], theirs[torch.bfloat16]
    assert float((ours - truth).abs().mean()) < 1.25 * float((rounded - truth).abs().mean())
    assert float((ours - rounded).abs().mean()) < 0.01


def test_solver_sigmas_of_their_own_do_not_go_with_velocity(
    tiny_velocity_folder: Path, policy: StableDiffusionPolicy
) -> None:
    velocity = StableDiffusionPolicy.load(tiny_velocity_folder, "cpu")
    options = {"use_karras_sigmas": True}
    assert solver("euler", policy.scheduler_config | options).config.use_karras_sigmas
    with pytest.raises(BenchError, match="use_karras_sigmas, which does not go with a network"):
        solver("euler", velocity.scheduler_config | options)


def compiled_and_plain(policy: PipelinePolicy) -> tuple[torch.Tensor, torch.Tensor]:
    compiled, plain = (
        denoise(
            policy, noises(policy), PROMPTS, scheduler="ddim", steps=2, guidance=3.0, compiled=on
        )[0]
        for on in (True, False)
    )
    return compiled, plain


def test_blocks_are_compiled_once_and_until_the_policy_is_reset(
    policy: StableDiffusionPolicy,
) -> None:
    def state() -> list[object]:
        return [
            module._compiled_call_impl
            for module in policy.denoiser.modules()
            if type(module).__name__ == "BasicTransformerBlock"
        ]

    with torch.compiler.set_stance("force_eager"):
        sample(policy, PROMPTS, SEEDS, steps=1, guidance=1.0)
        assert not any(state())
        sample(policy, PROMPTS, SEEDS, steps=1, guidance=1.0, compiled=True)
        before = state()
        assert len(before) > 1
        assert all(before)
        compiled_and_plain(policy)
        assert state() == before
    policy.reset()
    assert not any(state())


@pytest.mark.slow
def test_compiled_blocks_give_the_same_latents(policy: StableDiffusionPolicy) -> None:
    compiled, _ = compiled_and_plain(policy)
    policy.reset()
    with torch.compiler.set_stance("force_eager"):
        _, plain = compiled_and_plain(policy)
    assert torch.allclose(compiled, plain, atol=1e-4)


def test_guidance_and_prompt_matter(policy: StableDiffusionPolicy) -> None:
    noise = initial_latent("x", 0, LATENT_SHAPE)[None]

    def latents(prompt: str, guidance: float) -> torch.Tensor:
        return denoise(policy, noise, [prompt], scheduler="ddim", steps=3, guidance=guidance)[0]

    plain, guided, other = latents("red", 1.0), latents("red", 5.0), latents("a cat", 1.0)
    assert (plain - guided).abs().max() > 1e-2
    assert (plain - other).abs().max() > 1e-2


def test_initial_noise_is_a_function_of_prompt_and_seed_alone() -> None:
    torch.manual_seed(1)
    first = initial_latent("a cat", 3, LATENT_SHAPE)
    torch.manual_seed(2)
    assert torch.equal(first, initial_latent("a cat", 3, LATENT_SHAPE))
    assert not torch.equal(first, initial_latent("a cat", 4, LATENT_SHAPE))
    assert not torch.equal(first, initial_latent("a cat ", 3, LATENT_SHAPE))
    many = torch.stack([initial_latent("p", seed, LATENT_SHAPE) for seed in range(200)])
    assert abs(float(many.mean())) < 0.02
    assert abs(float(many.std()) - 1) < 0.02


def test_initial_noise_never_changes_between_versions() -> None:
    noise = initial_latent("a red cat", 7, (1, 1, 3))
    assert torch.allclose(noise.flatten(), torch.tensor([0.3474, 1.4293, 0.8354]), atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++"])
def test_batch_changes_no_image(policy: StableDiffusionPolicy, name: SchedulerName) -> None:
    together = sample(policy, PROMPTS, SEEDS, scheduler=name, steps=4, guidance=3.0)
    backwards = sample(policy, PROMPTS[::-1], SEEDS[::-1], scheduler=name, steps=4, guidance=3.0)
    alone = [
        sample(policy, [p], [s], scheduler=name, steps=4, guidance=3.0).images[0]
        for p, s in zip(PROMPTS, SEEDS, strict=True)
    ]
    for other in (backwards.images[::-1], alone):
        difference = np.abs(pixels(together.images) - pixels(other))
        assert difference.max() <= 1
        assert difference.mean() < 0.01


def test_repeats_to_the_last_bit(policy: StableDiffusionPolicy) -> None:
    one, two = (
        sample(policy, PROMPTS, SEEDS, scheduler="dpm++", steps=4, guidance=3.0) for _ in range(2)
    )
    assert np.array_equal(pixels(one.images), pixels(two.images))


def test_mistakes_are_named(policy: StableDiffusionPolicy) -> None:
    with pytest.raises(UnknownNameError, match="'dpm\\+\\+'"):
        sample(policy, ["a"], [0], scheduler="dpm+", steps=2, guidance=1.0)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="at least 1"):
        sample(policy, ["a"], [0], steps=2, guidance=0.5)
    with pytest.raises(ValueError, match="zip"):
        sample(policy, ["a", "b"], [0], steps=2, guidance=1.0)
