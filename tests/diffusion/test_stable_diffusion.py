from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_plugins.losses import Sigmoid
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load, save_file

from bench.api.kinds import PairErrors
from bench.diffusion.files import Files
from bench.diffusion.pipeline import IMAGES_AT_ONCE
from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
from bench.lib.errors import BenchError, DivergedError
from tests.diffusion.conftest import Family
from tests.tiny import LATENT_SHAPE, RESOLUTION, TOKENS, WIDTH, tiny_sd2

PROMPTS = ["a red cat", "a very long prompt " * 10, *(f"number {i}" for i in range(70))]


def pictures(count: int, size: int = RESOLUTION) -> list[Image.Image]:
    draws = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in draws]


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copied"))


def test_load_describes_the_pipeline(policy: StableDiffusionPolicy) -> None:
    assert policy.latent_shape == LATENT_SHAPE
    assert policy.resolution == RESOLUTION
    assert policy.dtype == torch.float32
    assert policy.schedule.steps == 1000
    assert policy.schedule.prediction_type == "epsilon"
    assert policy.scheduler_config["_class_name"] == "PNDMScheduler"
    assert policy.scheduler_config["clip_sample"] is False
    assert not policy.denoiser.training
    assert all(p.requires_grad for p in policy.denoiser.parameters())
    assert not any(p.requires_grad for p in policy.vae.parameters())
    assert not any(p.requires_grad for p in policy.text_encoder.parameters())
    assert policy.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_families_describe_themselves(families: dict[str, Family]) -> None:
    for family in families.values():
        policy = family.load()
        assert policy.latent_shape == (4, 8, 8)
        assert policy.resolution == 64
    assert families["sd2"].load().schedule.prediction_type == "v_prediction"
    scheduler = families["sdxl"].load().scheduler_config
    assert (scheduler["_class_name"], scheduler["timestep_spacing"]) == (
        "EulerDiscreteScheduler",
        "leading",
    )


def test_prompts_encode_as_in_the_pipeline(family: Family) -> None:
    policy, pipeline = family.load(), family.diffusers()
    with torch.no_grad():
        expected = pipeline.encode_prompt(PROMPTS, device="cpu", **_arguments(family, True))
    told = policy.encode_prompts(PROMPTS)
    assert torch.allclose(told["prompt"], expected[0], atol=1e-5)
    # The unconditional prompt, which SDXL replaces by zeros.
    empty = policy.encode_prompts(["", "not"])
    assert torch.allclose(empty["prompt"][0], expected[1][0], atol=1e-5)
    if family.name == "sdxl":
        assert torch.allclose(told["pooled"], expected[2], atol=1e-5)
        assert torch.equal(empty["pooled"][0], torch.zeros(WIDTH))
        assert empty["pooled"][1].abs().max() > 0
        assert told["sizes"].tolist() == [[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * len(PROMPTS)
        assert told["prompt"].shape == (72, TOKENS, 2 * WIDTH)
    else:
        assert list(told) == ["prompt"]


def _arguments(family: Family, guided: bool) -> dict[str, object]:
    return {"num_images_per_prompt": 1, "do_classifier_free_guidance": guided}


def test_sdxl_encodes_the_empty_prompt_where_the_pipeline_says_so(
    families: dict[str, Family], tmp_path: Path
) -> None:
    folder = shutil.copytree(families["sdxl"].folder, tmp_path / "pipeline")
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    condition = StableDiffusionXLPolicy.load(folder, "cpu").encode_prompts([""])
    pipeline = families["sdxl"].pipeline.from_pretrained(folder)
    with torch.no_grad():
        expected = pipeline.encode_prompt("x", device="cpu", **_arguments(families["sdxl"], True))
    assert torch.allclose(condition["prompt"], expected[1], atol=1e-5)
    assert torch.allclose(condition["pooled"], expected[3], atol=1e-5)


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


def test_a_vae_that_normalises_its_latents_is_followed(
    families: dict[str, Family], tmp_path: Path
) -> None:
    """As the SDXL pipeline decodes them, and encoding is the exact reverse."""
    folder = shutil.copytree(families["sdxl"].folder, tmp_path / "pipeline")
    plain = StableDiffusionXLPolicy.load(folder, "cpu").encode_images(pictures(2, 64))
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.5, 1.0, 2.0, 4.0]
    edit(folder / "vae" / "config.json", latents_mean=mean, latents_std=std)
    policy = StableDiffusionXLPolicy.load(folder, "cpu")
    moments = policy.encode_images(pictures(2, 64))
    scale = 0.13025
    for channel in range(4):
        expected = (plain.mean[:, channel] / scale - mean[channel]) * scale / std[channel]
        assert torch.allclose(moments.mean[:, channel], expected, atol=1e-5)
        assert torch.allclose(moments.std[:, channel], plain.std[:, channel] / std[channel])
    pipeline = families["sdxl"].pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline("a", num_inference_steps=1, output_type="latent", generator=seeded()).images
    image = pipeline("a", num_inference_steps=1, output_type="pt", generator=seeded()).images
    assert torch.allclose(policy.decode_pixels(latents), image, atol=1e-5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_vae_that_shifts_its_latents_is_refused(copied: Path) -> None:
    edit(copied / "vae" / "config.json", shift_factor=0.0609)
    with pytest.raises(BenchError, match=r"shift_factor 0\.0609"):
        StableDiffusionPolicy.load(copied, "cpu")


def test_decoding_what_is_not_finite_is_divergence(policy: StableDiffusionPolicy) -> None:
    with pytest.raises(DivergedError, match="not finite"):
        policy.decode(torch.full((1, *LATENT_SHAPE), torch.nan))


def test_a_vae_that_overflows_is_named_with_the_remedy(copied: Path) -> None:
    file = copied / "vae" / "diffusion_pytorch_model.safetensors"
    state = load(file.read_bytes())
    for key in ("decoder.conv_out.weight", "encoder.conv_out.weight"):
        state[key] *= 1e6
    save_file(state, file, {"format": "pt"})
    edit(copied / "vae" / "config.json", force_upcast=False)
    policy = StableDiffusionPolicy.load(copied, "cpu", dtype=torch.float16)
    latents = torch.ones(1, *LATENT_SHAPE)
    for doing, call in (
        ("decoding a latent", lambda: policy.decode(latents)),
        ("encoding an image", lambda: policy.encode_images(pictures(1))),
    ):
        with pytest.raises(BenchError, match=f"{doing} gave NaN") as raised:
            call()
        assert not isinstance(raised.value, DivergedError)
        for said in (str(copied), "float16", "dtype=bf16"):
            assert said in str(raised.value)
    assert StableDiffusionPolicy.load(copied, "cpu").decode(latents)


def test_a_vae_that_must_be_upcast_stays_in_float32(families: dict[str, Family]) -> None:
    family = families["sdxl"]
    policy = family.load(dtype=torch.float16)
    assert policy.vae.dtype == torch.float32
    assert policy.denoiser.conv_in.weight.dtype == torch.float16  # type: ignore[union-attr]
    assert family.load(dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    own = Files(source=str(family.folder))
    assert family.load(dtype=torch.float16, vae=own).vae.dtype == torch.float16


def test_own_vae_and_denoiser_replace_the_pipelines(
    families: dict[str, Family], tmp_path: Path
) -> None:
    """Either a folder of one part, or another pipeline's folder."""
    other = tiny_sd2(seed=5)
    other.vae.save_pretrained(tmp_path / "vae")
    other.unet.save_pretrained(tmp_path / "pipeline" / "unet")
    policy = families["sd2"].load(
        vae=Files(source=str(tmp_path / "vae")), denoiser=Files(source=str(tmp_path / "pipeline"))
    )
    for mine, theirs in ((policy.vae, other.vae), (policy.denoiser, other.unet)):
        state = mine.state_dict()
        assert all(torch.equal(state[name], w) for name, w in theirs.state_dict().items())
    with pytest.raises(BenchError, match=r"neither config\.json nor vae/config\.json"):
        families["sd2"].load(vae=Files(source=str(tmp_path / "pipeline")))
    # The first differs in its text width and channels, so no weight would mean the same.
    foreign = families["sd1"].load(denoiser=Files(source=str(families["sdxl"].folder)))
    with pytest.raises(BenchError, match="do not fit this backbone's denoiser"):
        _ = foreign.denoiser


def test_resolution_can_be_another_multiple(policy: StableDiffusionPolicy) -> None:
    larger = StableDiffusionPolicy(policy.files, "cpu", resolution=24)
    assert larger.latent_shape == (4, 12, 12)
    assert larger.encode_images(pictures(1, 24)).mean.shape == (1, 4, 12, 12)
    with pytest.raises(BenchError, match="resolution 17 is no multiple of 2"):
        StableDiffusionPolicy(policy.files, "cpu", resolution=17)


def test_parts_are_read_when_used_and_can_be_dropped(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = family.load()
    read: list[str] = []
    weights = type(policy.files).weights
    monkeypatch.setattr(
        type(policy.files), "weights", lambda self, part: read.append(part) or weights(self, part)
    )
    policy.encode_images(pictures(1, 64))
    assert read == ["vae"]
    told = policy.encode_prompts(["a"])
    texts = ["text_encoder", "text_encoder_2"] if family.name == "sdxl" else ["text_encoder"]
    assert read == ["vae", *texts]
    policy.encode_prompts(["b"])
    policy.release()
    before = policy.denoiser
    assert read == ["vae", *texts, "unet"]
    again = policy.encode_prompts(["a"])
    assert read == ["vae", *texts, "unet", *texts]
    assert all(torch.equal(told[name], again[name]) for name in told)
    policy.release(denoiser=True)
    assert policy.denoiser is not before
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.parameters(), policy.denoiser.parameters(), strict=True)
    )


def test_reset_undoes_whatever_training_did(family: Family) -> None:
    policy = family.load(dtype=torch.bfloat16)
    untouched = copy.deepcopy(policy.denoiser.state_dict())
    policy.denoiser.double().requires_grad_(False)
    policy.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    with torch.no_grad():
        for weight in policy.denoiser.parameters():
            weight.add_(1)
    policy.reset()
    after = policy.denoiser.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in untouched.items())
    assert all(p.requires_grad and p.dtype == policy.dtype for p in policy.denoiser.parameters())
    assert not policy.denoiser.is_gradient_checkpointing


class AsVelocity(torch.nn.Module):
    """The velocity of a network that predicts epsilon."""

    def __init__(self, policy: StableDiffusionPolicy) -> None:
        super().__init__()
        self.network, self.schedule = policy.denoiser, policy.schedule

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> object:
        output = self.network(x, t, encoder_hidden_states=encoder_hidden_states)
        a, s = (v.to(x.dtype).reshape(-1, 1, 1, 1) for v in self.schedule.alpha_sigma(t))
        output.sample = a * output.sample - s * (x - s * output.sample) / a
        return output


def test_velocity_and_epsilon_of_one_model_train_alike(
    policy: StableDiffusionPolicy, tiny_velocity_folder: Path
) -> None:
    """The same errors, loss and gradient of every weight, for the DPO loss with a reference."""
    velocity = StableDiffusionPolicy.load(tiny_velocity_folder, "cpu")
    assert velocity.schedule.prediction_type == "v_prediction"
    policy.denoiser.double()
    source = torch.Generator().manual_seed(0)
    timesteps = torch.tensor([0, 10, 500, 999])
    noise, *clean = torch.randn(3, 4, *LATENT_SHAPE, generator=source, dtype=torch.float64)
    condition = policy.encode_prompts(["a", "b", "c", ""])
    p = torch.tensor([1.0, 0.0, 0.7, 1.0])

    def loss_and_gradient(
        predict: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        errors = []
        for image in clean:
            predicted = predict(policy.schedule.add_noise(image, noise, timesteps))
            errors.append((noise - predicted).square().mean(dim=(1, 2, 3)))
        told = PairErrors(
            policy_0=errors[0],
            policy_1=errors[1],
            reference_0=errors[0].detach() * 1.01,
            reference_1=errors[1].detach() * 0.98,
        )
        policy.denoiser.zero_grad()
        loss = Sigmoid()(told, p, 2000.0)
        loss.mean().backward()
        return loss.detach(), [w.grad.clone() for w in policy.denoiser.parameters()]

    one, gradient = loss_and_gradient(
        lambda x: policy.predict_epsilon(policy.denoiser, x, timesteps, condition)
    )
    other, converted = loss_and_gradient(
        lambda x: velocity.predict_epsilon(AsVelocity(policy), x, timesteps, condition)
    )
    assert torch.allclose(one, other, rtol=1e-9)
    largest = max(float(g.abs().max()) for g in gradient)
    assert largest > 0
    for a, b in zip(gradient, converted, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-10 * largest)


def test_half_precision_networks_take_and_give_the_latents_dtype(family: Family) -> None:
    exact, rough = family.load(), family.load(dtype=torch.bfloat16)
    x = torch.randn(2, *exact.latent_shape, generator=seeded())
    timesteps = torch.tensor([100, 900])
    predicted = []
    for policy in (exact, rough):
        condition = policy.encode_prompts(["a", "b"])
        with torch.no_grad():
            predicted.append(policy.predict_epsilon(policy.denoiser, x, timesteps, condition))
    assert predicted[0].dtype == predicted[1].dtype == torch.float32
    assert torch.allclose(*predicted, atol=0.1)
    assert rough.encode_images(pictures(1, 64)).mean.dtype == torch.float32


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


def test_missing_and_foreign_pipelines_are_named(
    families: dict[str, Family], tiny_folder: Path, tmp_path: Path
) -> None:
    for missing in (tmp_path / "nothing", "./nothing"):
        with pytest.raises(BenchError, match="there is no file or folder"):
            StableDiffusionPolicy.load(missing, "cpu")
    with pytest.raises(BenchError, match=r"no diffusers pipeline: it has no model_index\.json"):
        StableDiffusionPolicy.load(tmp_path, "cpu")
    with pytest.raises(BenchError, match=r"is a UNet2DConditionModel, not a pipeline"):
        StableDiffusionPolicy.load(tiny_folder / "unet", "cpu")
    with pytest.raises(BenchError, match="is a file"):
        StableDiffusionPolicy.load(tiny_folder / "model_index.json", "cpu")
    with pytest.raises(BenchError, match="is a StableDiffusionXLPipeline"):
        StableDiffusionPolicy.load(families["sdxl"].folder, "cpu")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(BenchError, match="not valid JSON"):
        StableDiffusionPolicy.load(tmp_path, "cpu")


def test_inpainting_models_are_refused(copied: Path) -> None:
    edit(copied / "unet" / "config.json", in_channels=9)
    with pytest.raises(BenchError, match="takes 9 channels but the VAE makes 4; inpainting"):
        StableDiffusionPolicy.load(copied, "cpu")


def test_sdxl_needs_its_size_conditioning(families: dict[str, Family], tmp_path: Path) -> None:
    folder = shutil.copytree(families["sdxl"].folder, tmp_path / "pipeline")
    edit(folder / "unet" / "config.json", addition_embed_type=None)
    with pytest.raises(BenchError, match="takes no pooled text and image sizes"):
        StableDiffusionXLPolicy.load(folder, "cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_incomplete_pipelines_are_named(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    message = "no vocabulary" if part == "tokenizer" else f"there is no .*{part}"
    with pytest.raises(BenchError, match=message):
        StableDiffusionPolicy.load(copied, "cpu")


def test_missing_weights_are_named_with_the_variants_there_are(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(BenchError, match=r"no unet/diffusion_pytorch_model\.safe.*fp16\.safe"):
        StableDiffusionPolicy.load(copied, "cpu")
    with pytest.raises(BenchError, match=r"no vae/diffusion_pytorch_model\.fp16\.safetensors"):
        StableDiffusionPolicy.load(copied, "cpu", variant="fp16")


def test_variants_shards_and_pickles_are_read(tmp_path: Path) -> None:
    pipeline = tiny_sd2(seed=3)
    expected = pipeline.unet.state_dict()
    for name, options in {
        "variant": {"variant": "fp16"},
        "shards": {"max_shard_size": "100KB"},
        "both": {"variant": "fp16", "max_shard_size": "100KB"},
        "pickle": {"safe_serialization": False},
    }.items():
        pipeline.save_pretrained(tmp_path / name, **options)
        policy = StableDiffusionPolicy.load(tmp_path / name, "cpu", variant=options.get("variant"))
        state = policy.denoiser.state_dict()
        assert all(torch.equal(state[key], weight) for key, weight in expected.items())
        assert policy.encode_prompts(["a"])["prompt"].shape == (1, TOKENS, WIDTH)
    assert len(list((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))) > 1


def test_parts_of_another_class_are_named(families: dict[str, Family], copied: Path) -> None:
    edit(copied / "vae" / "config.json", _class_name="AutoencoderTiny")
    with pytest.raises(BenchError, match="the vae is a AutoencoderTiny, not a AutoencoderKL"):
        StableDiffusionPolicy.load(copied, "cpu")
    own = Files(source=str(copied / "vae"))
    with pytest.raises(BenchError, match="the unet is a AutoencoderTiny"):
        families["sd1"].load(denoiser=own)
    edit(copied / "vae" / "config.json", _class_name="AutoencoderKL")
    edit(copied / "unet" / "config.json", sample_size=[8, 12])
    with pytest.raises(BenchError, match=r"sample_size: \[8, 12\]\); give resolution"):
        StableDiffusionPolicy.load(copied, "cpu")
    assert StableDiffusionPolicy.load(copied, "cpu", resolution=16).latent_shape == (4, 8, 8)


def test_damaged_weights_are_named(copied: Path) -> None:
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BenchError, match=r"cannot read .*unet"):
        _ = StableDiffusionPolicy.load(copied, "cpu").denoiser


def test_weights_that_are_not_all_its_own_are_refused(copied: Path) -> None:
    """diffusers would fill gaps with random numbers, leave out the rest, and warn."""
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    state = load(file.read_bytes())
    save_file({k: v for k, v in state.items() if "conv_out" not in k}, file, {"format": "pt"})
    with pytest.raises(BenchError, match=r"the weights lack conv_out\.bias, conv_out\.weight of"):
        _ = StableDiffusionPolicy.load(copied, "cpu").denoiser
    save_file(state | {"extra": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(BenchError, match="the weights hold extra, which a UNet2DConditionModel"):
        _ = StableDiffusionPolicy.load(copied, "cpu").denoiser
