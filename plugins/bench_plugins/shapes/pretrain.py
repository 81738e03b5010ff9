"""Makes the weights of the shapes world's base model: a small Stable Diffusion pipeline.

What it is built like stands in the shipped pipeline's own configuration files. `pretrain` runs
stages in order; each leaves its results in a work folder, saves its state every so many steps,
and is skipped once finished, so that a killed run continues.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench_plugins.shapes import PIPELINE, draw, files, grammar
from bench_plugins.shapes.files import Report
from bench_plugins.shapes.fitting import Average, Checkpoint, batch_at, fit
from bench_plugins.shapes.learned import picture_tensor

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training: how long, how fast, and on how many pictures at once."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    ema: float = 0.999


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Every number that decides the outcome; the defaults made the shipped pipeline."""

    seed: int = 20
    pictures: int = 40_000
    checkpoint_every: int = 500
    vae: Phase = Phase(steps=9_000, batch=8, lr=2e-3, weight_decay=1e-4)
    vae_kl: float = 1e-6
    vae_edge_weight: float = 4.0
    decoder: Phase = Phase(steps=6_000, batch=8, lr=1e-3, weight_decay=1e-4)
    decoder_edge_weight: float = 2.0
    unet: Phase = Phase(steps=9_000, batch=32, lr=1e-3, weight_decay=1e-2)
    caption_drop: float = 0.1
    snr_gamma: float = 5.0


def draw_training_set(work: Path, config: PretrainConfig, report: Report) -> dict[str, Any]:
    """Draws the pictures and captions of the training set."""
    sources = (random.Random(f"{config.seed}/{i}") for i in range(config.pictures))
    examples = map(draw.training_example, sources)
    files.write_examples(work, ((e.image, e.caption) for e in examples))
    return {"pictures": config.pictures}


def _fit(
    stage: str,
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    phase: Phase,
    work: Path,
    config: PretrainConfig,
    report: Report,
) -> tuple[nn.Module, dict[str, Any]]:
    """Trains a model; the average of its weights, and how it went."""
    weights, decay = model.parameters(), phase.weight_decay
    average = Average(model, phase.ema)
    facts = fit(
        model,
        torch.optim.AdamW(weights, lr=phase.lr, betas=(0.9, 0.99), weight_decay=decay, fused=True),
        loss_of,
        phase.steps,
        warmup=max(1, round(0.03 * phase.steps)),
        average=average,
        checkpoint=Checkpoint(work / f"{stage}.ckpt.pt", config.checkpoint_every, report, stage),
    )
    return average.module, facts


def _untrained(kind: Any, part: str) -> nn.Module:
    """A model of the class `kind` as the shipped pipeline's part is, with random weights."""
    model: nn.Module = kind.from_config(kind.load_config(PIPELINE / part))
    return model


def _generator(seed: int, step: int) -> torch.Generator:
    """What is random in a step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


# ----------------------------------------------------------------- autoencoder


def edge_weight(pictures: Tensor, strength: float) -> Tensor:
    """Weights of pixels with mean 1: more near edges, where a blurred picture goes wrong."""
    across = (pictures[..., :, 1:] - pictures[..., :, :-1]).abs().amax(1, keepdim=True)
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().amax(1, keepdim=True)
    edge = nn.functional.pad(across, (0, 1, 0, 0)) + nn.functional.pad(down, (0, 0, 0, 1))
    near = nn.functional.max_pool2d(edge.clamp(max=1.0), 5, stride=1, padding=2)
    weight = 1 + strength * near
    return weight / weight.mean()


def _picture_loss(guess: Tensor, target: Tensor, strength: float) -> Tensor:
    error = guess - target
    loss: Tensor = (edge_weight(target, strength) * (error.abs() + error.square())).mean()
    return loss


def train_vae(work: Path, config: PretrainConfig, report: Report) -> dict[str, Any]:
    """Trains the autoencoder and saves its averaged weights with their scaling factor."""
    torch.manual_seed(config.seed)
    pictures, _ = files.read_examples(work)
    vae: Any = _untrained(AutoencoderKL, "vae")

    def loss_of(step: int) -> Tensor:
        rows = batch_at(step, len(pictures), config.vae.batch, config.seed)
        x = picture_tensor(pictures[rows])
        posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean, posterior.logvar
        noise = torch.randn(mean.shape, generator=_generator(config.seed, step))
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        y = vae.decode(mean + noise * (0.5 * logvar).exp()).sample
        loss: Tensor = config.vae_kl * divergence
        return loss + _picture_loss(y, x, config.vae_edge_weight)

    average, facts = _fit("vae", vae, loss_of, config.vae, work, config, report)
    shipped: Any = average.eval()
    shipped.register_to_config(scaling_factor=latent_scale(shipped, pictures))
    shipped.save_pretrained(work / "vae")
    return facts


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """What latents are multiplied by so that their standard deviation is 1."""
    latents = vae.encode(picture_tensor(pictures[:512])).latent_dist.mean
    return round(1.0 / max(float(latents.std()), 1e-6), 5)


@torch.no_grad()
def cache_latents(work: Path, config: PretrainConfig, report: Report) -> dict[str, Any]:
    """Encodes the training set once: mean and deviation of each latent, already scaled."""
    vae: Any = AutoencoderKL.from_pretrained(work / "vae").eval()
    pictures, _ = files.read_examples(work)
    parts = []
    for start in range(0, len(pictures), 32):
        posterior = vae.encode(picture_tensor(pictures[start : start + 32])).latent_dist
        both = torch.stack([posterior.mean, posterior.std], dim=1) * vae.config.scaling_factor
        parts.append(both.numpy().astype(np.float16))
    files.write_array(work / "latents.npy", np.concatenate(parts))
    return {}


def _drawn_latents(latents: np.ndarray, rows: np.ndarray, generator: torch.Generator) -> Tensor:
    """Samples of the posteriors that `cache_latents` kept."""
    mean, deviation = torch.tensor(latents[rows]).float().unbind(1)
    return mean + deviation * torch.randn(mean.shape, generator=generator)


def train_decoder(work: Path, config: PretrainConfig, report: Report) -> dict[str, Any]:
    """Trains the decoder further on the cached latents, which stay what the U-Net learns."""
    vae: Any = AutoencoderKL.from_pretrained(work / "vae")
    model = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    pictures, _ = files.read_examples(work)
    latents = np.load(work / "latents.npy", mmap_mode="r")
    seed = config.seed + 2

    def loss_of(step: int) -> Tensor:
        rows = batch_at(step, len(pictures), config.decoder.batch, seed)
        z = _drawn_latents(latents, rows, _generator(seed, step))
        guess = vae.decode(z / vae.config.scaling_factor).sample
        return _picture_loss(guess, picture_tensor(pictures[rows]), config.decoder_edge_weight)

    average, facts = _fit("decoder", model, loss_of, config.decoder, work, config, report)
    model.load_state_dict(average.state_dict())
    vae.eval().save_pretrained(work / "vae_decoder")
    return facts


# ----------------------------------------------------------------- denoiser and text


def build_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Symbols and merges by which any text tokenizes and a word of captions is one token."""
    symbols = sorted(ByteLevel.alphabet())
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
    tokens = [*dict.fromkeys(tokens), BEGIN, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes the tokenizer's files into a folder and loads them."""
    vocabulary, merges = build_vocabulary()
    files.write_json(folder / "vocab.json", vocabulary, sort_keys=True)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    files.write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=MAX_TOKENS,
    )


def _token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    padded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return torch.tensor(padded["input_ids"])


def build_denoiser(config: PretrainConfig, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """The two modules that learn together, untrained, as one."""
    torch.manual_seed(config.seed + 1)
    settings = CLIPTextConfig.from_pretrained(
        PIPELINE / "text_encoder",
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return nn.ModuleDict(
        {"text": CLIPTextModel(settings), "unet": _untrained(UNet2DConditionModel, "unet")}
    )


def train_denoiser(work: Path, config: PretrainConfig, report: Report) -> dict[str, Any]:
    """Trains text encoder and U-Net together on the cached latents."""
    tokenizer = build_tokenizer(work / "tokenizer")
    model = build_denoiser(config, tokenizer)
    ids = _token_ids(tokenizer, files.read_examples(work)[1])
    empty = _token_ids(tokenizer, [""])[0]
    latents = np.load(work / "latents.npy", mmap_mode="r")
    kept = DDIMScheduler.from_pretrained(PIPELINE / "scheduler").alphas_cumprod
    weight = (config.snr_gamma * (1 - kept) / kept).clamp(max=1.0)
    seed = config.seed + 1

    def loss_of(step: int) -> Tensor:
        rows = batch_at(step, len(latents), config.unet.batch, seed)
        generator = _generator(seed, step)
        x = _drawn_latents(latents, rows, generator)
        noise = torch.randn(x.shape, generator=generator)
        t = _timesteps(len(x), len(kept), generator)
        dropped = torch.rand(len(x), generator=generator) < config.caption_drop
        tokens = torch.where(dropped[:, None], empty, ids[rows])
        level = kept[t][:, None, None, None]
        noisy = level.sqrt() * x + (1 - level).sqrt() * noise
        guess = model["unet"](noisy, t, model["text"](tokens).last_hidden_state).sample
        error = (guess - noise).square().mean(dim=(1, 2, 3))
        loss: Tensor = (weight[t] * error).mean()
        return loss

    average, facts = _fit("unet", model, loss_of, config.unet, work, config, report)
    torch.save(average.state_dict(), work / "denoiser.pt")
    return facts


def _timesteps(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """One time per equal slice of the schedule: less chance in a batch than free draws."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (places * steps).long().clamp(max=steps - 1)


# ----------------------------------------------------------------- all of it


def assemble(work: Path, config: PretrainConfig) -> StableDiffusionPipeline:
    """The pipeline of the parts in the work folder."""
    tokenizer = build_tokenizer(work / "tokenizer")
    model = build_denoiser(config, tokenizer)
    model.load_state_dict(torch.load(work / "denoiser.pt", weights_only=True))
    vae: Any = AutoencoderKL.from_pretrained(work / "vae_decoder")
    # diffusers would write the place it was read from into the saved config.
    vae.register_to_config(_name_or_path="")
    pipeline: StableDiffusionPipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model["text"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=DDIMScheduler.from_pretrained(PIPELINE / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def save_pipeline(work: Path, out: Path, config: PretrainConfig) -> None:
    """Writes the pipeline folder, and beside it where it came from."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline = assemble(work, config)
    # Half the bytes; diffusers loads its own modules in full precision again. The text
    # encoder would stay half, and then not fit the others.
    pipeline.unet.half()
    pipeline.vae.half()
    pipeline.save_pretrained(part)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(work / "tokenizer" / name, part / "tokenizer" / name)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    provenance = {
        "config": asdict(config),
        "stages": {s: files.read_json(work / f"{s}.done.json") for s in STAGES},
        "versions": {name: version(name) for name in packages},
    }
    files.write_json(out.with_name("provenance.json"), provenance, sort_keys=True)


STAGES: dict[str, Callable[[Path, PretrainConfig, Report], dict[str, Any]]] = {
    "draw": draw_training_set,
    "vae": train_vae,
    "latents": cache_latents,
    "decoder": train_decoder,
    "unet": train_denoiser,
}
"""In order. Each leaves files in the work folder and says what it did, for the provenance."""


def pretrain(config: PretrainConfig, work: Path, out: Path, report: Report) -> None:
    """Runs every stage that is not finished yet and writes the pipeline to `out`."""
    for name, stage in STAGES.items():
        done = work / f"{name}.done.json"
        if done.exists():
            continue
        started = time.monotonic()
        facts = stage(work, config, report)
        facts = {"seconds": round(time.monotonic() - started, 1), **facts}
        files.write_json(done, facts)
        report(f"{name}: done {json.dumps(facts)}")
    save_pipeline(work, out, config)
    report("pipeline: saved")
