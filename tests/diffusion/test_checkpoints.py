from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.diffusion import lora
from bench.diffusion.checkpoints import LORA_FILE
from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.sampling import denoise, initial_latent
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.errors import BenchError
from tests.diffusion.conftest import Family

PROMPTS = ["a red cat", "a dog on a mat"]
GUIDED = {"steps": 4, "guidance": 5.0}
LARGEST_DIFFERENCE = 2e-5
"""Of float pixels in [0, 1]; the largest measured was 8.4e-6 (velocity), else 2.3e-6."""


def jiggle(weights: list[torch.nn.Parameter], size: float, seed: int = 0) -> None:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.add_(size * torch.randn(weight.shape, generator=source))


def adapted(policy: PipelinePolicy, rank: int = 4, alpha: float = 2.0) -> PipelinePolicy:
    """The policy with an adapter that is not the identity."""
    lora.add(policy.denoiser, lora.LoraSettings(rank=rank, alpha=alpha), seed=0)
    jiggle(lora.parameters(policy.denoiser), 0.1)
    return policy


def noises(policy: PipelinePolicy) -> torch.Tensor:
    return torch.stack([initial_latent(prompt, 0, policy.latent_shape) for prompt in PROMPTS])


def pixels(policy: PipelinePolicy) -> torch.Tensor:
    latents, _ = denoise(policy, noises(policy), PROMPTS, scheduler="ddim", **GUIDED)  # type: ignore[arg-type]
    return policy.decode_pixels(latents)


def diffusers_pixels(pipeline: Any, policy: PipelinePolicy) -> torch.Tensor:
    pipeline.scheduler = DDIMScheduler.from_config(policy.scheduler_config)
    images: torch.Tensor = pipeline(
        PROMPTS,
        latents=noises(policy).to(pipeline.dtype),
        num_inference_steps=4,
        guidance_scale=5.0,
        output_type="pt",
    ).images
    return images.float()


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for where weights lie in memory, which moves the last digits of products."""
    return torch.allclose(one, other, atol=1e-5)


def answers(policy: PipelinePolicy) -> torch.Tensor:
    """One pass, which any change of a weight shows in."""
    timesteps = torch.tensor([100, 800])
    with torch.no_grad():
        return policy.predict_epsilon(
            policy.denoiser, noises(policy), timesteps, policy.encode_prompts(PROMPTS)
        )


@pytest.fixture
def trained(family: Family, tmp_path: Path) -> tuple[PipelinePolicy, Path]:
    """A policy whose whole denoiser was trained, and its checkpoint."""
    policy = family.load()
    jiggle(list(policy.denoiser.parameters()), 0.02)
    policy.save_checkpoint(tmp_path / "checkpoint")
    return policy, tmp_path / "checkpoint"


def test_a_whole_denoiser_gives_the_same_image_in_plain_diffusers(
    family: Family, trained: tuple[PipelinePolicy, Path]
) -> None:
    policy, folder = trained
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    untouched, ours = pixels(family.load()), pixels(policy)
    assert float((ours - untouched).abs().mean()) > 0.005
    pipeline = family.diffusers(unet=UNet2DConditionModel.from_pretrained(folder, subfolder="unet"))
    difference = (diffusers_pixels(pipeline, policy) - ours).abs()
    assert float(difference.max()) < LARGEST_DIFFERENCE
    again = family.load()
    again.load_checkpoint(folder)
    assert close(answers(again), answers(policy))
    again.reset()
    assert close(answers(again), answers(family.load()))


def test_an_adapter_gives_the_same_image_in_plain_diffusers(family: Family, tmp_path: Path) -> None:
    """Also with a second adapter beside it, and an alpha that is not the rank."""
    policy = adapted(family.load())
    lora.add(policy.denoiser, lora.LoraSettings(rank=4, alpha=2.0), seed=1, name=lora.REFERENCE)
    jiggle(lora.parameters(policy.denoiser, lora.REFERENCE), 0.1, seed=2)
    policy.save_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LORA_FILE]
    again = family.load()
    untouched = answers(again)
    again.load_checkpoint(tmp_path)
    assert lora.names(again.denoiser) == (lora.POLICY,)
    assert close(answers(again), answers(policy))
    assert not torch.allclose(answers(again), untouched, atol=0.01)

    pipeline = family.diffusers()
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 2.0
    difference = (diffusers_pixels(pipeline, policy) - pixels(again)).abs()
    assert float(difference.max()) < LARGEST_DIFFERENCE
    again.reset()
    assert close(answers(again), untouched)


def test_an_adapter_has_the_dtype_that_it_has_in_the_pipeline(
    families: dict[str, Family], tmp_path: Path
) -> None:
    family, dtype = families["sd1"], torch.bfloat16
    adapted(family.load(dtype=dtype)).save_checkpoint(tmp_path)
    assert {w.dtype for w in load_file(tmp_path / LORA_FILE).values()} == {torch.float32}
    policy, pipeline = family.load(dtype=dtype), family.diffusers(dtype=dtype)
    policy.load_checkpoint(tmp_path)
    pipeline.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    theirs = {w.dtype for name, w in pipeline.unet.named_parameters() if "lora" in name}
    assert {w.dtype for w in lora.parameters(policy.denoiser)} == theirs == {dtype}


def test_the_same_weights_have_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    for name, source in (("one", tiny_folder), ("two", elsewhere)):
        policy = StableDiffusionPolicy.load(source, "cpu")
        policy.save_checkpoint(tmp_path / name)
        adapted(policy).save_checkpoint(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with safe_open(tmp_path / "one" / LORA_FILE, framework="pt") as opened:
        # Several keys would have no stable order.
        ((key, text),) = opened.metadata().items()
    assert key == "lora_adapter_metadata"
    targets = json.loads(text)["unet.target_modules"]
    assert targets == sorted(targets)


@pytest.fixture
def lora_file(policy: StableDiffusionPolicy, tmp_path: Path) -> Path:
    adapted(policy).save_checkpoint(tmp_path / "lora")
    return tmp_path / "lora" / LORA_FILE


@pytest.fixture
def fresh(tiny_folder: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(tiny_folder, "cpu")


def test_peft_folders_are_read(
    policy: StableDiffusionPolicy, fresh: StableDiffusionPolicy, tmp_path: Path
) -> None:
    unet: Any = policy.denoiser
    config = LoraConfig(
        r=4,
        lora_alpha=3,
        target_modules=["to_q", "to_v", "proj_in"],
        rank_pattern={"to_v": 2},
        init_lora_weights=False,
    )
    torch.manual_seed(0)
    wrapped = get_peft_model(unet, config)
    wrapped.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file()
    expected = answers(policy)
    assert not torch.allclose(expected, answers(fresh), atol=1e-3)
    fresh.load_checkpoint(tmp_path)
    assert torch.allclose(answers(fresh), expected, atol=1e-5)

    (tmp_path / "adapter_model.safetensors").unlink()
    fresh.reset()
    with pytest.raises(BenchError, match=r"but no adapter_model\.safetensors"):
        fresh.load_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(BenchError, match="is a LOHA adapter; only LORA"):
        fresh.load_checkpoint(tmp_path)


def test_kohya_files_are_read(
    policy: StableDiffusionPolicy, fresh: StableDiffusionPolicy, tmp_path: Path
) -> None:
    """With their own alphas, as diffusers converts them."""
    adapted(policy, rank=4, alpha=4.0)
    state = get_peft_model_state_dict(policy.denoiser, adapter_name=lora.POLICY)
    kohya = {}
    for key, value in state.items():
        module, _, which = key.removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{module.replace('.', '_')}"
        kohya[f"{name}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = value
        kohya[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(kohya, tmp_path / "style.safetensors")
    fresh.load_checkpoint(tmp_path / "style.safetensors")
    (scaling,) = {
        layer.scaling[lora.POLICY] for layer in fresh.denoiser.modules() if hasattr(layer, "lora_A")
    }
    assert scaling == 0.5
    half = StableDiffusionPolicy(policy.files, "cpu")
    lora.add(half.denoiser, lora.LoraSettings(rank=4, alpha=2.0), seed=0)
    jiggle(lora.parameters(half.denoiser), 0.1)
    assert torch.allclose(answers(fresh), answers(half), atol=1e-5)


def test_files_in_the_naming_of_early_diffusers_are_read(
    policy: StableDiffusionPolicy, fresh: StableDiffusionPolicy, tmp_path: Path
) -> None:
    """Attention processors, without "unet." and without alphas: a scale of 1."""
    adapted(policy, rank=4, alpha=4.0)
    state = get_peft_model_state_dict(policy.denoiser, adapter_name=lora.POLICY)
    named = {}
    for key, value in state.items():
        key = key.replace("to_out.0.", "to_out.")
        for ours, theirs in (("lora_A", "down"), ("lora_B", "up")):
            head, _, name = key.partition(f".{ours}.")[0].rpartition(".")
            if f".{ours}." in key:
                named[f"{head}.processor.{name}_lora.{theirs}.weight"] = value
    torch.save(named, tmp_path / "pytorch_lora_weights.bin")
    fresh.load_checkpoint(tmp_path)
    assert torch.allclose(answers(fresh), answers(policy), atol=1e-6)


@pytest.mark.parametrize("kind", ["bare.pth", "state_dict.pt", "unet.bin", "prefix.safetensors"])
def test_bare_state_dicts_are_read(
    policy: StableDiffusionPolicy, fresh: StableDiffusionPolicy, tmp_path: Path, kind: str
) -> None:
    jiggle(list(policy.denoiser.parameters()), 0.02)
    state: dict[str, Any] = dict(policy.denoiser.state_dict())
    match kind:
        case "bare.pth":
            torch.save(state, tmp_path / kind)
        case "prefix.safetensors":
            save_file({f"module.{k}": v.contiguous() for k, v in state.items()}, tmp_path / kind)
        case _:
            torch.save({kind.partition(".")[0]: state, "step": 3}, tmp_path / kind)
    fresh.load_checkpoint(tmp_path / kind)
    assert close(answers(fresh), answers(policy))
    fresh.reset()
    fresh.load_checkpoint(tmp_path)
    assert close(answers(fresh), answers(policy))


def broken(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    state = dict(state)
    match how:
        case "missing":
            del state["conv_in.weight"], state["conv_in.bias"]
        case "foreign":
            state["extra.weight"] = torch.zeros(1)
        case "shape":
            state["conv_in.bias"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"they lack conv_in\.bias, conv_in\.weight$"),
        ("foreign", r"they hold extra\.weight, which it does not have$"),
        ("shape", r"they hold conv_in\.bias \(3,\) instead of \(16,\)$"),
    ],
)
def test_every_weight_is_accounted_for(
    fresh: StableDiffusionPolicy, tmp_path: Path, how: str, message: str
) -> None:
    untouched = answers(fresh)
    torch.save(broken(fresh.denoiser.state_dict(), how), tmp_path / "unet.pth")
    with pytest.raises(BenchError, match=message):
        fresh.load_checkpoint(tmp_path / "unet.pth")
    assert close(answers(fresh), untouched)


def test_a_denoiser_of_another_family_is_refused(
    families: dict[str, Family], fresh: StableDiffusionPolicy
) -> None:
    with pytest.raises(BenchError, match="do not fit this backbone's denoiser: they "):
        fresh.load_checkpoint(families["sd1"].folder / "unet")
    with pytest.raises(BenchError, match="holds a AutoencoderKL, not a UNet2DConditionModel"):
        fresh.load_checkpoint(families["sd1"].folder / "vae")


def test_an_adapter_that_does_not_fit_is_refused(
    fresh: StableDiffusionPolicy, families: dict[str, Family], lora_file: Path, tmp_path: Path
) -> None:
    state = load_file(lora_file)
    first = min(state)
    edits = {
        "shape": {first: torch.zeros(4, 5)},
        "module": {"unet.nowhere.to_q.lora_A.weight": torch.zeros(4, 16)},
        "text": {"text_encoder.text_model.x.lora_A.weight": torch.zeros(4, 16)},
        "dora": {"unet.mid_block.to_q.dora_scale": torch.zeros(4)},
    }
    messages = {
        "shape": "the adapter does not fit this backbone's denoiser",
        "module": r"holds nowhere\.to_q\.lora_A\.weight, which it does not have",
        "text": "also adapts the text encoder",
        "dora": "is a DoRA",
    }
    for name, edit in edits.items():
        save_file(state | edit, tmp_path / f"{name}.safetensors")
        with pytest.raises(BenchError, match=messages[name]):
            fresh.load_checkpoint(tmp_path / f"{name}.safetensors")
        fresh.reset()
    with pytest.raises(BenchError, match="fit this backbone's denoiser"):
        families["sdxl"].load().load_checkpoint(lora_file)


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_what_is_no_file_of_weights_is_named(
    fresh: StableDiffusionPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    (tmp_path / "cut.pth").write_bytes(b"cut")
    torch.save(Unsafe(), tmp_path / "unsafe.pth")
    for name in ("cut.safetensors", "cut.pth", "unsafe.pth"):
        with pytest.raises(BenchError, match=f"{name}: cannot be read as a file of weights"):
            fresh.load_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(BenchError, match="expected a state dict, not a list"):
        fresh.load_checkpoint(tmp_path / "list.pth")
    with pytest.raises(BenchError, match=r"several weights files \(cut\.pth, cut\.safetensors"):
        fresh.load_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="holds no denoiser weights"):
        fresh.load_checkpoint(tmp_path / "empty")
