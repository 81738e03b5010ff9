"""Weights that cannot be used: one sentence each, and the backbone stays what it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.pretrained import Pretrained
from safetensors.torch import load_file, save_file

from bench.diffusion import lora
from bench.diffusion.checkpoint_files import LORA_FILE, find
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.errors import BenchError
from bench.registry.registry import default_registry
from tests import tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"
FIRST = "conv_in.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_sd1(tmp_path_factory.mktemp("bad") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = StableDiffusionPolicy.load(base, "cpu")
    lora.add(policy.denoiser, lora.LoraSettings(rank=2, alpha=4.0), seed=0)
    folder = tmp_path_factory.mktemp("lora")
    policy.save_checkpoint(folder)
    return folder


def damaged(state: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    first = min(state)
    weight = state[first].clone()
    match how:
        case "nan":
            weight.view(-1)[0] = torch.nan
        case "inf":
            weight.view(-1)[0] = torch.inf
        case "int64":
            weight = weight.long()
        case "bool":
            weight = weight > 0
        case "complex64":
            weight = weight.to(torch.complex64)
    return state | {first: weight}


REASONS = [
    ("nan", "hold NaN or infinity"),
    ("inf", "hold NaN or infinity"),
    ("int64", r"are floating-point numbers, but these are not: \S+ \(int64\)"),
    ("bool", r"are floating-point numbers, but these are not: \S+ \(bool\)"),
    ("complex64", r"are floating-point numbers, but these are not: \S+ \(complex64\)"),
]


# Every reason in the form that is written here, and in one of the others.
@pytest.mark.parametrize(
    ("form", "how", "reason"),
    [
        pytest.param(form, *case, marks=[] if i in (0, 1 + j % 3) else [pytest.mark.slow])
        for i, form in enumerate(["denoiser", "pickled", "bare", "lora"])
        for j, case in enumerate(REASONS)
    ],
)
def test_what_is_no_weight_is_named(
    base: Path, adapter: Path, tmp_path: Path, form: str, how: str, reason: str
) -> None:
    source = adapter / LORA_FILE if form == "lora" else base / "unet" / WEIGHTS
    state = damaged(load_file(source), how)
    place = tmp_path / "checkpoint"
    if form in ("denoiser", "pickled"):
        place.mkdir()
        shutil.copy(base / "unet" / "config.json", place)
    if form == "denoiser":
        save_file(state, place / WEIGHTS, {"format": "pt"})
    elif form == "pickled":
        torch.save(state, place / "diffusion_pytorch_model.bin")
    elif form == "bare":
        place = place.with_suffix(".PTH")
        torch.save(state, place)
    else:
        place = place.with_suffix(".safetensors")
        save_file(state, place)
    policy = StableDiffusionPolicy.load(base, "cpu")
    with pytest.raises(BenchError, match=reason) as raised:
        policy.load_checkpoint(place)
    assert str(place) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not lora.names(policy.denoiser)


def test_half_an_adapter_does_not_stay_on_the_backbone(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    state = load_file(adapter / LORA_FILE)
    short = {key: value for key, value in state.items() if key != max(state)}
    save_file(short, tmp_path / "short.safetensors")
    policy = StableDiffusionPolicy.load(base, "cpu")
    with pytest.raises(BenchError):
        policy.load_checkpoint(tmp_path / "short.safetensors")
    assert not lora.names(policy.denoiser)


def test_a_denoiser_without_layers_to_adapt_says_so() -> None:
    for denoiser in (torch.nn.Linear(2, 2), torch.nn.ModuleDict({"to_q": torch.nn.Linear(2, 2)})):
        with pytest.raises(BenchError, match=r"takes no LoRA: .* leave training\.lora_rank out"):
            lora.add(denoiser, lora.LoraSettings(rank=2, alpha=2.0), seed=0)


def test_a_training_state_is_no_checkpoint(base: Path, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(load_file(base / "unet" / WEIGHTS))
    policy = StableDiffusionPolicy.load(base, "cpu")
    torch.save({**state, FIRST: 3}, tmp_path / "number.pth")
    with pytest.raises(BenchError, match=f"holds more than weights: {FIRST}"):
        policy.load_checkpoint(tmp_path / "number.pth")
    torch.save({"model.lora": {}, "step": 3}, tmp_path / "lora.pth")
    with pytest.raises(BenchError, match="holds more than weights"):
        policy.load_checkpoint(tmp_path / "lora.pth")


def shard(source: Path, folder: Path) -> Path:
    """A denoiser whose weights are in two files under an index."""
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    state = load_file(source / WEIGHTS)
    names = sorted(state)
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        save_file({n: state[n] for n in names if where[n] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_read_and_hashed_by_their_index(base: Path, tmp_path: Path) -> None:
    folder = shard(base / "unet", tmp_path / "sharded")
    method = Pretrained(weights=str(folder))
    first = method.fingerprint()
    policy = StableDiffusionPolicy.load(base, "cpu")
    policy.load_checkpoint(folder)
    (folder / "diffusion_pytorch_model-00003-of-00003.safetensors").write_bytes(b"not read")
    (folder / WEIGHTS).write_bytes(b"not read")
    assert method.fingerprint() == first
    second = folder / "diffusion_pytorch_model-00002-of-00002.safetensors"
    save_file(damaged(load_file(second), "inf"), second, {"format": "pt"})
    assert method.fingerprint() != first
    second.unlink()
    with pytest.raises(BenchError, match=r"no diffusion_pytorch_model-00002.*not complete"):
        method.fingerprint()


def test_endings_may_be_capitals_and_hidden_files_are_none(adapter: Path, tmp_path: Path) -> None:
    shutil.copy(adapter / LORA_FILE, tmp_path / "STYLE.SAFETENSORS")
    (tmp_path / "._STYLE.SAFETENSORS").write_bytes(b"of an archiver")
    found = find(tmp_path)
    assert found is not None
    assert found.files == ("STYLE.SAFETENSORS",)
    assert found.fingerprint() == Pretrained(weights=str(adapter)).fingerprint()


def started(base: Path, unet: object) -> str:
    backbone = default_registry().build("backbones", f"sd15[path={base},unet={unet}]")
    print_: str = backbone.fingerprint()
    return print_


def test_an_own_start_is_known_by_its_weights(base: Path, tmp_path: Path) -> None:
    seen = set()
    for change in (0.0, 0.1):
        folder = tmp_path / f"{change}" / "unet"
        shutil.copytree(base / "unet", folder)
        state = load_file(folder / WEIGHTS)
        save_file({k: v + change for k, v in state.items()}, folder / WEIGHTS, {"format": "pt"})
        linked = tmp_path / f"linked-{change}"
        linked.mkdir()
        (linked / "unet").symlink_to(folder)
        prints = {started(base, place) for place in (folder, folder.parent, linked)}
        assert len(prints) == 1
        seen |= prints
    assert len(seen) == 2


def test_an_own_start_that_is_none_is_one_sentence(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    torch.save({}, tmp_path / "bare.pth")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "unet").symlink_to("/gone/store/unet")
    for unet, reason in (
        (adapter, "neither config.json nor unet/config.json; .* evaluated as pretrained:"),
        (tmp_path / "bare.pth", "is a file; unet=... takes the folder"),
        (tmp_path / "gone", "there is no file or folder"),
        (tmp_path / "loop", "loop: this link leads nowhere"),
        (tmp_path / "broken", r"broken/unet: this link leads nowhere \(to /gone/store/unet\)"),
    ):
        with pytest.raises(BenchError, match=reason) as raised:
            started(base, unet)
        assert "\n" not in str(raised.value)


def test_a_cut_file_is_one_sentence(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base / "unet", tmp_path / "cut"))
    whole = (folder / WEIGHTS).read_bytes()
    for size in (0, 4, len(whole) // 2):
        (folder / WEIGHTS).write_bytes(whole[:size])
        backbone = default_registry().build("backbones", f"sd15[path={base},unet={folder}]")
        with pytest.raises(BenchError, match=r"cannot read .*cut") as raised:
            _ = backbone.load("cpu").denoiser
        assert "\n" not in str(raised.value)


def test_what_is_neither_file_nor_folder_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BenchError, match="fifo is a pipe"):
        Pretrained(weights=str(tmp_path / "fifo")).fingerprint()


def test_an_unknown_pipeline_is_named_with_what_is_supported(tmp_path: Path) -> None:
    from bench.registry.location import named_or_path

    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    registry = default_registry()
    for ask in (
        lambda: named_or_path(registry, "backbones", str(tmp_path)),
        lambda: registry.build("backbones", f"sdxl[path={tmp_path}]"),
    ):
        with pytest.raises(BenchError, match="is a FluxPipeline; only StableDiffusionPipeline and"):
            ask()
    given = r"a Hub id is given with the backbone that reads it: sd15\[path=owner/name\]"
    with pytest.raises(BenchError, match=given):
        named_or_path(registry, "backbones", "owner/name")
