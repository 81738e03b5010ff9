"""A Stable Diffusion pipeline small enough to build and run inside a unit test."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

RESOLUTION = 16
LATENT_SHAPE = (4, 8, 8)
TOKENS = 16
WIDTH = 16


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each of the 256 bytes, in its own order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with three merges: every text has tokens, most of them bytes."""
    letters = _byte_letters()
    merges = [("r", "e"), ("re", "d</w>"), ("a", "t</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def tiny_pipeline(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A random pipeline of 16x16 images, 4x8x8 latents and a U-Net of 200,000 weights."""
    tokenizer = tiny_tokenizer()
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=LATENT_SHAPE[0],
            norm_num_groups=4,
            sample_size=RESOLUTION,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                projection_dim=WIDTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        # At its default initial scale the text hardly moves an image; guidance must be seen.
        with torch.no_grad():
            for parameter in text_encoder.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(10)
    # Stable Diffusion 1.x ships PNDM's configuration, which samplers must make their own.
    scheduler = (
        PNDMScheduler(skip_prk_steps=True, **schedule)
        if prediction_type == "epsilon"
        else DDIMScheduler(clip_sample=False, **schedule)
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny_pipeline(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write `tiny_pipeline` as an ordinary diffusers folder and return the folder."""
    tiny_pipeline(prediction_type, seed).save_pretrained(folder)
    return folder
