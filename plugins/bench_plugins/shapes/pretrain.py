"""Makes the base model of the shapes world from nothing: a small Stable Diffusion pipeline.

`pretrain` runs stages in order; each leaves its results in a work folder, saves its state
every so many steps, and is skipped once finished, so that a killed run continues.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from bench_plugins.shapes import draw, grammar

Report = Callable[[str], None]

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_TOKENS = 32
LATENT_CHANNELS = 4
VAE_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Every number that decides the outcome; the defaults made the shipped pipeline."""

    seed: int = 20
    pictures: int = 40_000
    workers: int = 2
    checkpoint_every: int = 500
    vae_channels: tuple[int, ...] = (16, 32, 64, 96)
    vae_groups: int = 8
    vae_steps: int = 17_000
    vae_batch: int = 8
    vae_lr: float = 2e-3
    vae_kl: float = 1e-6
    vae_ema: float = 0.999
    vae_edge_weight: float = 4.0


# ---------------------------------------------------------------------------- files


def _atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file beside its place and moves it there once whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


def _save_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    _atomic(path, lambda part: part.write_text(text, encoding="utf-8"))


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _save_array(path: Path, array: np.ndarray) -> None:
    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, array)

    _atomic(path, write)


def _save_state(path: Path, state: dict[str, Any]) -> None:
    _atomic(path, lambda part: torch.save(state, part))


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


# ----------------------------------------------------------------------------- data


def draw_training_set(work: Path, config: PretrainConfig, report: Report) -> None:
    """Draws the pictures and captions of the training set with all workers."""
    if (work / "captions.json").exists():
        return
    started = time.monotonic()
    chunk = 1000
    jobs = [
        (config.seed, start, min(start + chunk, config.pictures))
        for start in range(0, config.pictures, chunk)
    ]
    # Spawned workers inherit no threads of torch, which a fork would leave in deadlock.
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_draw_chunk, jobs))
    _save_array(work / "pictures.npy", np.concatenate([images for images, _ in parts]))
    _save_json(work / "captions.json", [c for _, captions in parts for c in captions])
    _finish(work, "draw", started, {"pictures": config.pictures}, report)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    seed, start, stop = job
    examples = [draw.training_example(random.Random(f"{seed}/{i}")) for i in range(start, stop)]
    return np.stack([e.image for e in examples]), [e.caption for e in examples]


def _finish(work: Path, stage: str, started: float, facts: dict[str, Any], report: Report) -> None:
    """Notes what a finished stage did, for the provenance."""
    notes = {**facts, "seconds": round(time.monotonic() - started, 1)}
    _save_json(work / f"{stage}.done.json", notes)
    report(f"{stage}: done {json.dumps(notes)}")


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [n, h, w, 3] as floats [n, 3, h, w] from -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


# ------------------------------------------------------------------------- training


class _Average:
    """A slowly moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        # A young average forgets faster, so that it does not hold on to random weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def _lr_at(step: int, steps: int, peak: float, warmup: float = 0.03) -> float:
    """Linear warm-up to the peak, then half a cosine down to nothing."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _batches(count: int, batch: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Index batches for ever, a fresh shuffle each epoch; `start` skips that many batches."""
    per_epoch = max(1, count // batch)
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for i in range(first, per_epoch):
            yield order[i * batch : (i + 1) * batch]
            step += 1


def _train(
    work: Path,
    stage: str,
    model: nn.Module,
    average: _Average,
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float,
    every: int,
    report: Report,
) -> float:
    """Optimises `loss_of(step)`, from the last checkpoint if there is one; gives the loss."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    path = work / f"{stage}.ckpt.pt"
    start, running, seconds = 0, 0.0, 0.0
    if path.exists():
        state = _load_state(path)
        model.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start, running, seconds = state["step"], state["loss"], state["seconds"]
    began = time.monotonic() - seconds
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = _lr_at(step, steps, lr)
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average.update(model, step)
        running = loss.item() if step == 0 else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % every == 0 or step + 1 == steps:
            report(f"{stage}: step {step + 1}/{steps} loss {running:.5f}")
            state = {
                "model": model.state_dict(),
                "average": average.module.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "loss": running,
                "seconds": time.monotonic() - began,
            }
            _save_state(path, state)
    return running


# ------------------------------------------------------------------------------ vae


def build_vae(config: PretrainConfig) -> AutoencoderKL:
    """An untrained autoencoder of factor 8."""
    levels = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=config.vae_groups,
        sample_size=draw.IMAGE_SIZE,
        mid_block_add_attention=False,
    )


class _Autoencode(nn.Module):
    """The whole pass of the autoencoder as one module."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pictures).latent_dist
        mean, logvar = posterior.mean, posterior.logvar
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        return self.vae.decode(mean + noise * (0.5 * logvar).exp()).sample, divergence


def edge_weight(pictures: Tensor, strength: float) -> Tensor:
    """Weights of pixels with mean 1: more near edges, where a blurred picture goes wrong."""
    flat = pictures.detach()
    across = (flat[..., :, 1:] - flat[..., :, :-1]).abs().amax(1, keepdim=True)
    down = (flat[..., 1:, :] - flat[..., :-1, :]).abs().amax(1, keepdim=True)
    edge = nn.functional.pad(across, (0, 1, 0, 0)) + nn.functional.pad(down, (0, 0, 0, 1))
    near = nn.functional.max_pool2d(edge.clamp(max=1.0), 5, stride=1, padding=2)
    weight = 1 + strength * near
    return weight / weight.mean()


def train_vae(work: Path, config: PretrainConfig, report: Report) -> None:
    """Trains the autoencoder and saves its averaged weights with their scaling factor."""
    if (work / "vae.done.json").exists():
        return
    started = time.monotonic()
    torch.manual_seed(config.seed)
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    vae = build_vae(config)
    average = _Average(vae, config.vae_ema)
    model = _Autoencode(vae)
    resumed = work / "vae.ckpt.pt"
    start = _load_state(resumed)["step"] if resumed.exists() else 0
    batches = _batches(len(pictures), config.vae_batch, config.seed, start)

    def loss_of(step: int) -> Tensor:
        x = to_tensor(pictures[next(batches)])
        side = draw.IMAGE_SIZE // VAE_FACTOR
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        noise = torch.randn(len(x), LATENT_CHANNELS, side, side, generator=generator)
        y, divergence = model(x, noise)
        weight = edge_weight(x, config.vae_edge_weight)
        error = y - x
        loss: Tensor = (weight * (error.abs() + error.square())).mean()
        return loss + config.vae_kl * divergence

    loss = _train(
        work,
        "vae",
        vae,
        average,
        loss_of,
        steps=config.vae_steps,
        lr=config.vae_lr,
        weight_decay=1e-4,
        every=config.checkpoint_every,
        report=report,
    )
    shipped: Any = average.module
    shipped.register_to_config(scaling_factor=latent_scale(shipped, pictures))
    shipped.eval().save_pretrained(work / "vae")
    facts = {"steps": config.vae_steps, "loss": round(loss, 5)}
    _finish(work, "vae", started, facts, report)


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """What latents are multiplied by so that their standard deviation is 1."""
    latents = vae.encode(to_tensor(pictures[:512])).latent_dist.mean
    return round(1.0 / max(float(latents.std()), 1e-6), 5)


# ------------------------------------------------------------------------ tokenizer


def _byte_symbols() -> list[str]:
    """The printable stand-ins for the 256 bytes that CLIP's byte-level tokenizer uses."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in plain]
    codes = plain + [256 + i for i in range(len(shifted))]
    return [chr(c) for c in codes]


def build_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Symbols and merges by which any text tokenizes and a word of captions is one token."""
    symbols = _byte_symbols()
    tokens = symbols + [s + WORD_END for s in symbols]
    merges: list[tuple[str, str]] = []
    for word in grammar.WORDS:
        parts = [*word[:-1], word[-1] + WORD_END]
        while len(parts) > 1:
            # From the right: the marked ends keep the merges of one word out of another's way.
            pair = (parts[-2], parts[-1])
            parts[-2:] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
    tokens = list(dict.fromkeys(tokens)) + [BEGIN, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes the tokenizer's files into a folder and loads them."""
    vocabulary, merges = build_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    _save_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    text = "\n".join(lines) + "\n"
    _atomic(folder / "merges.txt", lambda part: part.write_text(text, encoding="utf-8"))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
