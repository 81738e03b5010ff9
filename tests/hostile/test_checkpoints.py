"""Weights that are none, or not of this model."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.harness import RUN, Case, Prepare, World, judge, sample

WEIGHTS = "diffusion_pytorch_model.safetensors"
State = dict[str, torch.Tensor]


class _Pickled:
    """What would run code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.system, ("touch pwned",))


def unet(change: Callable[[Path], object]) -> Prepare:
    """A copy of the world's U-Net in `mine/unet`, changed."""

    def make(here: Path) -> None:
        shutil.copytree(here / "pipeline" / "unet", here / "mine" / "unet")
        change(here / "mine" / "unet")

    return make


def tensors(change: Callable[[State], State | None]) -> Prepare:
    """A copy of the world's U-Net with other tensors."""

    def apply(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        save_file(change(state) or state, folder / WEIGHTS)

    return unet(apply)


def config(**values: object) -> Prepare:
    """A copy of the world's U-Net with another configuration."""

    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return unet(apply)


def renamed(state: State) -> State:
    return {f"model.{name}": held for name, held in state.items()}


def first(state: State) -> str:
    return sorted(state)[0]


def without_one(state: State) -> None:
    del state[first(state)]


def one_more(state: State) -> None:
    state["stranger"] = torch.zeros(2)


def reshaped(state: State) -> None:
    state[first(state)] = torch.zeros(3, 1, 4)


def filled(value: float) -> Callable[[State], State]:
    return lambda state: {name: torch.full_like(held, value) for name, held in state.items()}


def of(dtype: torch.dtype) -> Callable[[State], State]:
    return lambda state: {name: held.to(dtype) for name, held in state.items()}


def file(name: str, data: bytes) -> Prepare:
    def make(here: Path) -> None:
        (here / "mine").mkdir()
        (here / "mine" / name).write_bytes(data)

    return make


def saved(name: str, held: object) -> Prepare:
    def make(here: Path) -> None:
        (here / "mine").mkdir()
        torch.save(held, here / "mine" / name)

    return make


def lora(state: State, name: str = "pytorch_lora_weights.safetensors") -> Prepare:
    def make(here: Path) -> None:
        (here / "mine").mkdir()
        save_file(state, here / "mine" / name)

    return make


def pipeline(change: Callable[[Path], object]) -> Prepare:
    """A copy of the world's pipeline in `mine`, changed."""

    def make(here: Path) -> None:
        shutil.copytree(here / "pipeline", here / "mine")
        change(here / "mine")

    return make


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def updated(name: str, **values: object) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return apply


def gone(name: str) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def bad(name: str, prepare: Prepare, *says: str, weights: str = "./mine") -> Case:
    """A checkpoint that must be refused."""
    return Case(
        id=name,
        command=f"{RUN} --methods 'pretrained[weights={weights}]'",
        prepare=prepare,
        ends="refused",
        says=says,
    )


def start(name: str, prepare: Prepare, *says: str) -> Case:
    """A backbone that must be refused."""
    return Case(
        id=f"backbone-{name}",
        # Nothing of it is cached there: the toy's fingerprint knows its U-Net alone.
        command=f"{RUN} --set 'backbone=toy[path=mine]' --store fresh/store --out fresh/board",
        prepare=prepare,
        ends="refused",
        says=says,
        own=("fresh/",),
        # That of the toy itself, where the U-Net is gone.
        may_name_exceptions=name in ("gone", "a-file", "empty", "unet-gone"),
    )


def two_files(here: Path) -> None:
    for name in ("a", "b"):
        _lay(here / "mine" / f"{name}.safetensors")


def _lay(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")


UP = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora"

CASES = [
    bad("junk-safetensors", unet(lambda folder: (folder / WEIGHTS).write_bytes(b"junk" * 99))),
    bad("empty-safetensors", unet(lambda folder: (folder / WEIGHTS).write_bytes(b""))),
    bad("cut-safetensors", unet(lambda folder: os.truncate(folder / WEIGHTS, 5000))),
    bad("huge-header", unet(lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64))),
    bad("no-weights", unet(lambda folder: (folder / WEIGHTS).unlink())),
    bad(
        "weights-a-folder", unet(lambda folder: (gone(WEIGHTS)(folder), (folder / WEIGHTS).mkdir()))
    ),
    bad(
        "weights-a-dead-link",
        unet(lambda folder: (gone(WEIGHTS)(folder), (folder / WEIGHTS).symlink_to("gone"))),
    ),
    bad(
        "weights-a-pipe", unet(lambda folder: (gone(WEIGHTS)(folder), os.mkfifo(folder / WEIGHTS)))
    ),
    bad("no-config", unet(gone("config.json"))),
    bad("config-cut", unet(written("config.json", '{"a": '))),
    bad("config-a-list", unet(written("config.json", "[]"))),
    bad("config-deep", unet(written("config.json", "[" * 100_000))),
    bad("config-nothing", unet(written("config.json", "null"))),
    bad("config-of-a-vae", config(_class_name="AutoencoderKL")),
    bad("config-of-nobody", config(_class_name="NobodysNet"), "NobodysNet"),
    bad("config-wider", config(cross_attention_dim=64)),
    bad("config-negative", config(in_channels=-4)),
    Case(
        id="config-a-word",
        command=f"{RUN} --methods 'pretrained[weights=./mine]'",
        prepare=config(sample_size="large"),
    ),
    bad("names-changed", tensors(renamed)),
    bad("one-missing", tensors(without_one)),
    bad("one-more", tensors(one_more), "stranger"),
    bad("one-reshaped", tensors(reshaped)),
    bad("all-nan", tensors(filled(float("nan")))),
    bad("all-inf", tensors(filled(float("inf")))),
    bad("complex", tensors(of(torch.complex64))),
    bad("integers", tensors(of(torch.int32))),
    bad("booleans", tensors(of(torch.bool))),
    bad("nothing-in-it", tensors(lambda _: {"x": torch.zeros(1)})),
    bad("pickle-of-code", file("weights.bin", pickle.dumps(_Pickled()))),
    bad("torch-of-code", saved("weights.pt", {"a": _Pickled()})),
    bad("torch-a-list", saved("weights.pt", [1, 2])),
    bad("torch-a-number", saved("weights.pt", 3)),
    bad("torch-nested", saved("weights.pt", {"a": {"b": torch.zeros(1)}})),
    bad("torch-number-keys", saved("weights.pt", {1: torch.zeros(1)})),
    bad("torch-texts", saved("weights.pt", {"a": "b"})),
    bad("ckpt-junk", file("weights.ckpt", b"\x80\x04junk")),
    bad("zip-junk", file("weights.pth", b"PK\x03\x04junk")),
    bad("bare-nothing", file("weights.safetensors", b"")),
    bad("unknown-suffix", file("weights.gguf", b"GGUF")),
    bad("folder-empty", lambda here: (here / "mine").mkdir()),
    bad("several-files", two_files),
    bad("file-gone", lambda here: (here / "mine").mkdir(), weights="./mine,file=gone.safetensors"),
    bad("file-climbs", lambda here: (here / "mine").mkdir(), weights="./mine,file=../notes.txt"),
    bad("a-hub-id-offline", lambda here: None, weights="owner/name"),
    bad("a-text-file", lambda here: None, weights="./notes.txt"),
    bad("lora-of-nobody", lora({"stranger.lora_A.weight": torch.zeros(4, 4)})),
    bad("lora-empty", lora({"x": torch.zeros(0)})),
    bad("lora-half", lora({f"unet.{UP}_A.weight": torch.zeros(4, 16)})),
    bad(
        "lora-wrong-size",
        lora({f"unet.{UP}_A.weight": torch.zeros(4, 3), f"unet.{UP}_B.weight": torch.zeros(3, 4)}),
    ),
    bad(
        "lora-nan",
        lora(
            {
                f"unet.{UP}_A.weight": torch.full((4, 16), torch.nan),
                f"unet.{UP}_B.weight": torch.full((16, 4), torch.nan),
            }
        ),
    ),
    bad("peft-without-weights", file("adapter_config.json", b'{"peft_type": "LORA"}')),
    bad("peft-of-another-kind", file("adapter_config.json", b'{"peft_type": "IA3"}'), "IA3"),
    bad("peft-cut", file("adapter_config.json", b'{"peft_type": ')),
    bad("pipeline-index-cut", pipeline(written("model_index.json", "{"))),
    bad("pipeline-index-a-list", pipeline(written("model_index.json", "[]"))),
    bad(
        "pipeline-of-nobody",
        pipeline(updated("model_index.json", _class_name="NobodysPipeline")),
        "NobodysPipeline",
    ),
    bad("pipeline-without-vae", pipeline(gone("vae"))),
    bad("pipeline-without-scheduler", pipeline(gone("scheduler"))),
    bad("pipeline-without-tokenizer", pipeline(gone("tokenizer"))),
    start("gone", lambda here: None, "mine"),
    start("a-file", lambda here: (here / "mine").write_text("x"), "mine"),
    start("empty", lambda here: (here / "mine").mkdir(), "mine"),
    start("index-cut", pipeline(written("model_index.json", "{"))),
    start("index-a-list", pipeline(written("model_index.json", "[]"))),
    start(
        "of-nobody",
        pipeline(updated("model_index.json", _class_name="NobodysPipeline")),
        "NobodysPipeline",
    ),
    start("unet-cut", pipeline(lambda folder: os.truncate(folder / "unet" / WEIGHTS, 5000))),
    start("unet-gone", pipeline(gone("unet"))),
    start("vae-gone", pipeline(gone("vae"))),
    start("text-encoder-gone", pipeline(gone("text_encoder"))),
    start("tokenizer-gone", pipeline(gone("tokenizer"))),
    start("scheduler-cut", pipeline(written("scheduler/scheduler_config.json", "{"))),
    start("scheduler-a-list", pipeline(written("scheduler/scheduler_config.json", "[]"))),
    start(
        "scheduler-negative-beta",
        pipeline(updated("scheduler/scheduler_config.json", beta_start=-1.0)),
    ),
    start(
        "scheduler-no-timesteps",
        pipeline(updated("scheduler/scheduler_config.json", num_train_timesteps=0)),
    ),
    start(
        "scheduler-a-word", pipeline(updated("scheduler/scheduler_config.json", beta_end="large"))
    ),
    start(
        "scheduler-prediction-sample",
        pipeline(updated("scheduler/scheduler_config.json", prediction_type="sample")),
        "sample",
    ),
    start(
        "scheduler-zero-snr",
        pipeline(updated("scheduler/scheduler_config.json", rescale_betas_zero_snr=True)),
    ),
    start(
        "scheduler-unknown-betas",
        pipeline(updated("scheduler/scheduler_config.json", beta_schedule="mine")),
    ),
    start("vae-scaling-nan", pipeline(updated("vae/config.json", scaling_factor=None))),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_checkpoint(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
    assert not list(tmp_path.rglob("pwned"))
