"""SmPO steps on a full-size U-Net with random weights: seconds, pairs a second, peak memory.

Only weights are missing: structure, latents, conditions and the training loop are the real ones.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from bench.api.encoded_pairs import EncodedPairs
from bench.api.kinds import PairRewards, TrainingSetup
from bench.api.schedule import NoiseSchedule
from bench.api.training import StepReport, TrainingBudget
from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
from bench.lib.cost_meter import Meter
from bench.registry.registry import default_registry
from bench.training.loop import train_pairs

TOKENS = 77
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# unet/config.json of stable-diffusion-v1-5/stable-diffusion-v1-5 and of
# stabilityai/stable-diffusion-xl-base-1.0, where they differ from diffusers' defaults.
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
POOLED = 1280
"""Width of SDXL's pooled text embedding."""
FAMILIES = {"sd15": ("sd1", StableDiffusionPolicy), "sdxl": ("sdxl", StableDiffusionXLPolicy)}


class EnoughError(Exception):
    """All steps that are to be measured have been made."""


def policy(model: str, device: torch.device, dtype: torch.dtype) -> PipelinePolicy:
    """The family's policy around a random U-Net, without encoders, as training leaves it."""
    made: PipelinePolicy = object.__new__(FAMILIES[model][1])
    made.device, made.dtype, made._parts = device, dtype, {}
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    made.schedule = NoiseSchedule.from_scheduler(scheduler, device)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        unet = UNet2DConditionModel(**UNETS[model])
    torch.set_default_dtype(torch.float32)
    made.denoiser = unet.to(memory_format=torch.channels_last)
    made.latent_shape = (4, unet.config.sample_size, unet.config.sample_size)
    return made


def encoded(made: PipelinePolicy, model: str, pairs: int) -> EncodedPairs:
    """Random moments of `pairs` pairs, and conditions of two prompts."""
    source = np.random.default_rng(0)
    width, side = UNETS[model]["cross_attention_dim"], 8 * made.latent_shape[1]
    conditions = {"prompt": source.normal(size=(2, TOKENS, width))}
    if model == "sdxl":
        conditions["pooled"] = source.normal(size=(2, POOLED))
        conditions["sizes"] = np.array([[side, side, 0, 0, side, side]] * 2)
    return EncodedPairs(
        mean=source.normal(size=(pairs, 2, 1, *made.latent_shape)).astype(np.float32),
        std=np.full((pairs, 2, 1, *made.latent_shape), 0.05, dtype=np.float32),
        prompt_index=torch.ones(pairs, dtype=torch.int64),
        conditions={name: value.astype(np.float32) for name, value in conditions.items()},
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", choices=list(UNETS), default="sd15")
    add("--device", default="cpu")
    add("--dtype", choices=list(DTYPES), default="fp32", help="of the frozen weights")
    add("--precision", choices=list(DTYPES), default="fp32", help="of the passes")
    add("--lora-rank", type=int, default=16, help="0: all weights are trained")
    add("--optimizer", choices=["adamw", "adamw8bit", "adafactor"], default="adamw")
    add("--trajectory", default="renoise[steps=5]")
    add("--pairs", type=int, default=1, help="pairs an optimiser step")
    add("--micro-batch", type=int, default=1, help="pairs in memory at a time")
    add("--checkpointing", action="store_true")
    add("--compile", action="store_true")
    add("--tf32", action="store_true")
    add("--steps", type=int, default=1, help="measured, after --warm-up")
    add("--warm-up", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    device = torch.device(given.device)
    meter = Meter(given.device)
    made = policy(given.model, device, DTYPES[given.dtype])
    method = default_registry().build("methods", f"smpo[trajectory={given.trajectory}]")
    method = method.resolved(FAMILIES[given.model][0])
    rewards = np.random.default_rng(1).normal(size=(given.pairs, 2))
    wanted = given.steps + given.warm_up
    ends = [time.perf_counter()]
    nfe: list[int] = [0]

    def note(report: StepReport) -> None:
        ends.append(time.perf_counter())
        nfe.append(report.nfe)
        print(f"step {report.step}: {ends[-1] - ends[-2]:.2f} s, loss {report.loss:.4f}")
        if report.step == wanted:
            raise EnoughError

    with tempfile.TemporaryDirectory() as folder:
        setup = TrainingSetup(
            train_pairs=train_pairs,
            policy=made,
            pairs=encoded(made, given.model, given.pairs),
            rewards=PairRewards(
                human=np.ones(given.pairs),
                rewards=dict.fromkeys(method.label_scorers(("a", "b")), rewards),
            ),
            # One more than is made: the last step would also save its state.
            budget=TrainingBudget(
                steps=wanted + 1,
                batch_size=given.pairs,
                micro_batch_size=given.micro_batch,
                warmup_steps=0,
                max_grad_norm=1.0,
                prompt_dropout=0.0,
                weight_decay=0.01,
                optimizer=given.optimizer,
                lora_rank=given.lora_rank or None,
                lora_alpha=None,
                precision=given.precision,
                tf32=given.tf32,
                gradient_checkpointing=given.checkpointing,
                compile=given.compile,
                checkpoint_every=wanted + 2,
            ),
            seed=0,
            workspace=Path(folder),
            report=note,
        )
        with contextlib.suppress(EnoughError):
            method.train(setup)
    seconds = statistics.median(b - a for a, b in pairwise(ends[given.warm_up :]))
    spent = (nfe[-1] - nfe[given.warm_up]) / given.steps
    print(
        f"{given.model} {'LoRA ' + str(given.lora_rank) if given.lora_rank else 'full'}, "
        f"{given.pairs} pair(s), {spent:.0f} passes a step: {seconds:.2f} s, "
        f"{given.pairs / seconds:.3g} pairs/s, peak {meter.peak_memory_mb / 1e3:.2f} GB"
    )


if __name__ == "__main__":
    main()
