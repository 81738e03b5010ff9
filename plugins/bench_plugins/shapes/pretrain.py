"""Makes the base model of the shapes world from nothing: a small Stable Diffusion pipeline.

`pretrain` runs stages in order; each leaves its results in a work folder, saves its state
every so many steps, and is skipped once finished, so that a killed run continues.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
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
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench_plugins.shapes import draw, files, grammar

Report = Callable[[str], None]

BEGIN, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_TOKENS = 32
STAGES = ("draw", "vae", "latents", "decoder", "unet")
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
    vae_steps: int = 9_000
    vae_batch: int = 8
    vae_lr: float = 2e-3
    vae_kl: float = 1e-6
    vae_ema: float = 0.999
    vae_edge_weight: float = 4.0
    decoder_steps: int = 6_000
    decoder_lr: float = 1e-3
    decoder_edge_weight: float = 2.0
    text_width: int = 128
    text_layers: int = 2
    unet_channels: tuple[int, ...] = (64, 128)
    unet_layers: int = 1
    unet_groups: int = 16
    unet_heads: int = 4
    unet_steps: int = 9_000
    unet_batch: int = 32
    unet_lr: float = 1e-3
    unet_ema: float = 0.999
    caption_drop: float = 0.1
    snr_gamma: float = 5.0


def _save_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    files.write_text(path, text)


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _save_array(path: Path, array: np.ndarray) -> None:
    with files.replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


def _save_state(path: Path, state: dict[str, Any]) -> None:
    with files.replacing(path) as part:
        torch.save(state, part)


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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
    seconds = round(time.monotonic() - started, 1)
    _finish(work, "draw", {"pictures": config.pictures, "seconds": seconds}, report)


def _draw_chunk(job: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    seed, start, stop = job
    examples = [draw.training_example(random.Random(f"{seed}/{i}")) for i in range(start, stop)]
    return np.stack([e.image for e in examples]), [e.caption for e in examples]


def _finish(work: Path, stage: str, facts: dict[str, Any], report: Report) -> None:
    """Notes what a finished stage did, for the provenance and so that it is skipped."""
    _save_json(work / f"{stage}.done.json", facts)
    report(f"{stage}: done {json.dumps(facts)}")


def to_tensor(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [n, h, w, 3] as floats [n, 3, h, w] from -1 to 1."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class _Average:
    """A slowly moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        # A young average forgets faster, so that it does not hold on to random weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = [*self.module.parameters()]
        theirs: list[Tensor] = [*module.parameters()]
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


def _steps_done(work: Path, stage: str) -> int:
    path = work / f"{stage}.ckpt.pt"
    return int(_load_state(path)["step"]) if path.exists() else 0


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
) -> dict[str, Any]:
    """Optimises `loss_of(step)`, from the last checkpoint if there is one; says how it went."""
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
        loss.backward()  # type: ignore[no-untyped-call]
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
    seconds = round(time.monotonic() - began, 1)
    return {"steps": steps, "final_loss": round(running, 5), "seconds": seconds}


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


def _picture_loss(guess: Tensor, target: Tensor, strength: float) -> Tensor:
    error = guess - target
    loss: Tensor = (edge_weight(target, strength) * (error.abs() + error.square())).mean()
    return loss


def train_vae(work: Path, config: PretrainConfig, report: Report) -> None:
    """Trains the autoencoder and saves its averaged weights with their scaling factor."""
    if (work / "vae.done.json").exists():
        return
    torch.manual_seed(config.seed)
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    vae = build_vae(config)
    average = _Average(vae, config.vae_ema)
    model = _Autoencode(vae)
    start = _steps_done(work, "vae")
    batches = _batches(len(pictures), config.vae_batch, config.seed, start)

    def loss_of(step: int) -> Tensor:
        x = to_tensor(pictures[next(batches)])
        side = draw.IMAGE_SIZE // VAE_FACTOR
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        noise = torch.randn(len(x), LATENT_CHANNELS, side, side, generator=generator)
        y, divergence = model(x, noise)
        loss: Tensor = config.vae_kl * divergence
        return loss + _picture_loss(y, x, config.vae_edge_weight)

    facts = _train(
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
    _finish(work, "vae", facts, report)


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """What latents are multiplied by so that their standard deviation is 1."""
    latents = vae.encode(to_tensor(pictures[:512])).latent_dist.mean
    return round(1.0 / max(float(latents.std()), 1e-6), 5)


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
    tokens = [*dict.fromkeys(tokens), BEGIN, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes the tokenizer's files into a folder and loads them."""
    vocabulary, merges = build_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    _save_json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    text = "\n".join(lines) + "\n"
    files.write_text(folder / "merges.txt", text)
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


@torch.no_grad()
def cache_latents(work: Path, config: PretrainConfig, report: Report) -> None:
    """Encodes the training set once: mean and deviation of each latent, already scaled."""
    if (work / "latents.done.json").exists():
        return
    started = time.monotonic()
    vae: Any = AutoencoderKL.from_pretrained(work / "vae").eval()
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    parts = []
    for start in range(0, len(pictures), 32):
        posterior = vae.encode(to_tensor(pictures[start : start + 32])).latent_dist
        both = torch.stack([posterior.mean, posterior.std], dim=1) * vae.config.scaling_factor
        parts.append(both.numpy().astype(np.float16))
    _save_array(work / "latents.npy", np.concatenate(parts))
    _finish(work, "latents", {"seconds": round(time.monotonic() - started, 1)}, report)


def train_decoder(work: Path, config: PretrainConfig, report: Report) -> None:
    """Trains the decoder further on the cached latents, which stay what the U-Net learns."""
    if (work / "decoder.done.json").exists():
        return
    vae: Any = AutoencoderKL.from_pretrained(work / "vae").train()
    vae.encoder.requires_grad_(False)
    model = nn.ModuleList([vae.post_quant_conv, vae.decoder])
    average = _Average(model, config.vae_ema)
    pictures = np.load(work / "pictures.npy", mmap_mode="r")
    latents = np.load(work / "latents.npy", mmap_mode="r")
    start = _steps_done(work, "decoder")
    batches = _batches(len(pictures), config.vae_batch, config.seed + 2, start)

    def loss_of(step: int) -> Tensor:
        picked = next(batches)
        generator = torch.Generator().manual_seed((config.seed + 2) * 1_000_003 + step)
        mean, deviation = torch.tensor(latents[picked]).float().unbind(1)
        z = mean + deviation * torch.randn(mean.shape, generator=generator)
        guess = vae.decode(z / vae.config.scaling_factor).sample
        return _picture_loss(guess, to_tensor(pictures[picked]), config.decoder_edge_weight)

    facts = _train(
        work,
        "decoder",
        model,
        average,
        loss_of,
        steps=config.decoder_steps,
        lr=config.decoder_lr,
        weight_decay=1e-4,
        every=config.checkpoint_every,
        report=report,
    )
    model.load_state_dict(average.module.state_dict())
    vae.eval().save_pretrained(work / "vae_decoder")
    _finish(work, "decoder", facts, report)


# ----------------------------------------------------------------- denoiser and text


def build_text_encoder(config: PretrainConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder for the small vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(config: PretrainConfig) -> UNet2DConditionModel:
    """An untrained denoiser of latents, with attention to the text at every level."""
    levels = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=draw.IMAGE_SIZE // VAE_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.unet_heads,
        norm_num_groups=config.unet_groups,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    padded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return torch.tensor(padded["input_ids"])


def build_denoiser(config: PretrainConfig, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """The two modules that learn together, as one."""
    torch.manual_seed(config.seed + 1)
    return nn.ModuleDict(
        {"text": build_text_encoder(config, tokenizer), "unet": build_unet(config)}
    )


def train_denoiser(work: Path, config: PretrainConfig, report: Report) -> None:
    """Trains text encoder and U-Net together on the cached latents."""
    if (work / "unet.done.json").exists():
        return
    tokenizer = build_tokenizer(work / "tokenizer")
    model = build_denoiser(config, tokenizer)
    average = _Average(model, config.unet_ema)
    ids = _token_ids(tokenizer, _load_json(work / "captions.json"))
    empty = _token_ids(tokenizer, [""])[0]
    latents = np.load(work / "latents.npy", mmap_mode="r")
    kept = build_scheduler().alphas_cumprod
    weight = (config.snr_gamma * (1 - kept) / kept).clamp(max=1.0)
    start = _steps_done(work, "unet")
    batches = _batches(len(latents), config.unet_batch, config.seed + 1, start)

    def loss_of(step: int) -> Tensor:
        picked = next(batches)
        generator = torch.Generator().manual_seed((config.seed + 1) * 1_000_003 + step)
        mean, deviation = torch.tensor(latents[picked]).float().unbind(1)
        x = mean + deviation * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        t = _timesteps(len(x), len(kept), generator)
        dropped = torch.rand(len(x), generator=generator) < config.caption_drop
        tokens = torch.where(dropped[:, None], empty, ids[picked])
        level = kept[t][:, None, None, None]
        noisy = level.sqrt() * x + (1 - level).sqrt() * noise
        guess = model["unet"](noisy, t, model["text"](tokens).last_hidden_state).sample
        error = (guess - noise).square().mean(dim=(1, 2, 3))
        loss: Tensor = (weight[t] * error).mean()
        return loss

    facts = _train(
        work,
        "unet",
        model,
        average,
        loss_of,
        steps=config.unet_steps,
        lr=config.unet_lr,
        weight_decay=1e-2,
        every=config.checkpoint_every,
        report=report,
    )
    _finish(work, "unet", facts, report)


def _timesteps(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """One time per equal slice of the schedule: less chance in a batch than free draws."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (places * steps).long().clamp(max=steps - 1)


def load_denoiser(work: Path, config: PretrainConfig, tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """The averaged weights of the latest checkpoint, finished or not."""
    model = build_denoiser(config, tokenizer)
    model.load_state_dict(_load_state(work / "unet.ckpt.pt")["average"])
    model.eval()
    return model


def assemble(work: Path, config: PretrainConfig) -> StableDiffusionPipeline:
    """The pipeline of the parts that the work folder holds so far."""
    tokenizer = build_tokenizer(work / "tokenizer")
    model = load_denoiser(work, config, tokenizer)
    vae: Any = AutoencoderKL.from_pretrained(work / "vae_decoder")
    # diffusers would write the place it was read from into the saved config.
    vae.register_to_config(_name_or_path="")
    pipeline: StableDiffusionPipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model["text"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline


def save_pipeline(work: Path, out: Path, config: PretrainConfig, report: Report) -> None:
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
    stages = {s: _load_json(work / f"{s}.done.json") for s in STAGES}
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    provenance = {
        "config": asdict(config),
        "stages": stages,
        "versions": {name: version(name) for name in packages},
    }
    _save_json(out.with_name("provenance.json"), provenance)
    report(f"pipeline: saved, {_folder_bytes(out) / 1e6:.1f} MB")


def _folder_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def pretrain(config: PretrainConfig, work: Path, out: Path, report: Report) -> None:
    """Runs every stage that is not finished yet and writes the pipeline to `out`."""
    work.mkdir(parents=True, exist_ok=True)
    draw_training_set(work, config, report)
    train_vae(work, config, report)
    cache_latents(work, config, report)
    train_decoder(work, config, report)
    train_denoiser(work, config, report)
    save_pipeline(work, out, config, report)


def _main(arguments: list[str]) -> None:
    work, out = map(Path, arguments)
    pretrain(PretrainConfig(), work, out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    _main(sys.argv[1:])
