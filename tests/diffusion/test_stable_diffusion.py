from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from bench.diffusion.stable_diffusion import IMAGES_AT_ONCE, StableDiffusionPolicy
from bench.errors import BenchError, DamagedArtefactError, DivergedError
from tests.tiny import LATENT_SHAPE, RESOLUTION, TOKENS, WIDTH, save_tiny_pipeline


def pictures(count: int) -> list[Image.Image]:
    draws = np.random.default_rng(0).integers(
        0, 256, (count, RESOLUTION, RESOLUTION, 3), dtype=np.uint8
    )
    return [Image.fromarray(pixels) for pixels in draws]


def test_load_describes_the_pipeline(policy: StableDiffusionPolicy) -> None:
    assert policy.latent_shape == LATENT_SHAPE
    assert policy.resolution == RESOLUTION
    assert policy.schedule.steps == 1000
    assert policy.schedule.prediction_type == "epsilon"
    assert policy.scheduler_config["_class_name"] == "PNDMScheduler"
    assert not policy.denoiser.training
    assert all(p.requires_grad for p in policy.denoiser.parameters())
    assert not any(p.requires_grad for p in policy.vae.parameters())
    assert not any(p.requires_grad for p in policy.text_encoder.parameters())
    assert policy.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_prompts_encode_as_in_the_pipeline(
    policy: StableDiffusionPolicy, tiny_folder: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    prompts = ["a red cat", "", "a very long prompt " * 10, *(f"number {i}" for i in range(70))]
    condition = policy.encode_prompts(prompts)
    assert list(condition) == ["prompt"]
    assert condition["prompt"].shape == (73, TOKENS, WIDTH)
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    assert torch.allclose(condition["prompt"], expected, atol=1e-5)


def test_images_encode_as_the_vae_does_in_chunks(policy: StableDiffusionPolicy) -> None:
    images = pictures(IMAGES_AT_ONCE + 3)
    moments = policy.encode_images(images)
    assert moments.mean.shape == moments.std.shape == (len(images), *LATENT_SHAPE)
    scale = policy.vae.config.scaling_factor
    for i, image in enumerate(images):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            posterior = policy.vae.encode(pixels).latent_dist
        assert torch.allclose(moments.mean[i], posterior.mean[0] * scale, atol=1e-5)
        assert torch.allclose(moments.std[i], posterior.std[0] * scale, atol=1e-5)
    zero = moments.sample(torch.zeros_like(moments.mean))
    assert torch.equal(zero, moments.mean)


def test_decode_equals_diffusers_postprocessing(
    policy: StableDiffusionPolicy, tiny_folder: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    latents = torch.randn(11, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = torch.cat(
            [policy.vae.decode(latents[i : i + 8] / 0.18215).sample for i in (0, 8)]
        )
    expected = pipeline.image_processor.postprocess(decoded, output_type="pil")
    images = policy.decode(latents)
    assert [image.size for image in images] == [(RESOLUTION, RESOLUTION)] * 11
    for image, other in zip(images, expected, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(other))


def test_decoding_what_is_not_finite_is_an_error(policy: StableDiffusionPolicy) -> None:
    with pytest.raises(DivergedError, match="not finite"):
        policy.decode(torch.full((1, *LATENT_SHAPE), torch.nan))


def test_velocity_and_epsilon_weights_of_one_model_predict_the_same(
    policy: StableDiffusionPolicy, tiny_velocity_folder: Path
) -> None:
    """A network whose output is the velocity of the epsilon network must give its epsilon."""
    velocity = StableDiffusionPolicy.load(tiny_velocity_folder, "cpu")
    assert velocity.schedule.prediction_type == "v_prediction"
    assert velocity.scheduler_config["_class_name"] == "DDIMScheduler"

    class AsVelocity(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor
        ) -> object:
            output = policy.denoiser(x, t, encoder_hidden_states=encoder_hidden_states)
            a, s = (v.float().reshape(-1, 1, 1, 1) for v in policy.schedule.alpha_sigma(t))
            output.sample = a * output.sample - s * (x - s * output.sample) / a
            return output

    x = torch.randn(4, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 10, 500, 999])
    condition = policy.encode_prompts(["a", "b", "c", ""])
    with torch.no_grad():
        one = policy.predict_epsilon(policy.denoiser, x, timesteps, condition)
        other = velocity.predict_epsilon(AsVelocity(), x, timesteps, condition)
    assert torch.allclose(one, other, atol=1e-4)


def test_denoiser_round_trip(
    policy: StableDiffusionPolicy, tiny_folder: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.01)
    folder = tmp_path / "denoiser"
    policy.save_denoiser(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    ordinary = UNet2DConditionModel.from_pretrained(folder)
    fresh = StableDiffusionPolicy.load(tiny_folder, "cpu")
    kept = fresh.denoiser
    fresh.load_denoiser(folder)
    assert fresh.denoiser is kept
    for name, weight in policy.denoiser.state_dict().items():
        assert torch.equal(weight, fresh.denoiser.state_dict()[name])
        assert torch.equal(weight, ordinary.state_dict()[name])


def test_saved_bytes_do_not_tell_where_the_pipeline_lay(tiny_folder: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    for source, target in ((tiny_folder, "one"), (elsewhere, "two")):
        StableDiffusionPolicy.load(source, "cpu").save_denoiser(tmp_path / target)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_copy_of_the_denoiser_is_a_reference(policy: StableDiffusionPolicy) -> None:
    reference = copy.deepcopy(policy.denoiser)
    x = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0))
    condition = policy.encode_prompts(["a", "b"])
    arguments = (x, torch.tensor([5, 500]), condition)
    before = policy.predict_epsilon(reference, *arguments)
    with torch.no_grad():
        policy.denoiser.conv_out.weight.add_(0.1)  # type: ignore[union-attr, operator]
    assert torch.equal(before, policy.predict_epsilon(reference, *arguments))
    assert not torch.equal(before, policy.predict_epsilon(policy.denoiser, *arguments))


def test_images_of_another_shape_are_refused(policy: StableDiffusionPolicy) -> None:
    with pytest.raises(BenchError, match="RGB 8x8, but the backbone takes RGB 16x16"):
        policy.encode_images([Image.new("RGB", (8, 8))])
    with pytest.raises(BenchError, match="an image is L"):
        policy.encode_images([Image.new("L", (RESOLUTION, RESOLUTION))])


def test_missing_and_foreign_pipelines_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no pipeline folder"):
        StableDiffusionPolicy.load(tmp_path / "nothing", "cpu")
    with pytest.raises(BenchError, match="no pipeline folder"):
        StableDiffusionPolicy.load("./nothing", "cpu")
    with pytest.raises(BenchError, match="cannot read"):
        StableDiffusionPolicy.load(tmp_path, "cpu")

    foreign = shutil.copytree(tiny_folder, tmp_path / "foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionXLPipeline"
    (foreign / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BenchError, match="is a StableDiffusionXLPipeline"):
        StableDiffusionPolicy.load(foreign, "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_incomplete_pipelines_are_named(tiny_folder: Path, tmp_path: Path, part: str) -> None:
    partial = shutil.copytree(tiny_folder, tmp_path / "partial")
    shutil.rmtree(partial / part)
    message = "no vocabulary" if part == "tokenizer" else "cannot read"
    with pytest.raises(BenchError, match=message):
        StableDiffusionPolicy.load(partial, "cpu")


def test_foreign_denoiser_weights_are_refused(
    policy: StableDiffusionPolicy, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match="no denoiser weights"):
        policy.load_denoiser(tmp_path)
    other = save_tiny_pipeline(tmp_path / "other")
    with pytest.raises(DamagedArtefactError, match="does not fit"):
        policy.load_denoiser(other / "vae")
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(DamagedArtefactError, match="does not fit"):
        policy.load_denoiser(tmp_path)
