"""Stable Diffusion pipelines small enough to build and run inside a unit test.

`save_tiny_pipeline` is the smallest. The others have the block structure of the real ones (which
blocks, how many layers, heads, projections and embeddings) and differ in width, in the number of
text layers, in the size of images and, for XL, in the depth of its deepest blocks (3, not 10).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

RESOLUTION = 16
LATENT_SHAPE = (4, 8, 8)
TOKENS = 16
WIDTH = 16
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each of the 256 bytes, in its own order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def tiny_tokenizer(**options: Any) -> CLIPTokenizer:
    """CLIP's byte-level BPE with three merges: every text has tokens, most of them bytes."""
    letters = _byte_letters()
    merges = [("r", "e"), ("re", "d</w>"), ("a", "t</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS, **options)


def _text_encoder(
    tokenizer: CLIPTokenizer,
    kind: type[Any] = CLIPTextModel,
    *,
    layers: int = 2,
    hidden_act: str = "quick_gelu",
    scale: float = 10.0,
) -> Any:
    encoder = kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            projection_dim=WIDTH,
            hidden_act=hidden_act,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    # At its default initial scale the text hardly moves an image; guidance must be seen.
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return encoder


def _vae(widths: tuple[int, ...], resolution: int, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=4,
        sample_size=resolution,
        **options,
    )


def tiny_pipeline(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A random pipeline of 16x16 images, 4x8x8 latents and a U-Net of 200,000 weights."""
    tokenizer = tiny_tokenizer()
    schedule = {**SCHEDULE, "prediction_type": prediction_type}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(16,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = _vae((8, 16), RESOLUTION)
        text_encoder = _text_encoder(tokenizer)
    # Stable Diffusion 1.x ships PNDM's configuration, which samplers must make their own.
    scheduler = (
        PNDMScheduler(skip_prk_steps=True, **schedule)
        if prediction_type == "epsilon"
        else DDIMScheduler(clip_sample=False, **schedule)
    )
    return _stable_diffusion(vae, text_encoder, tokenizer, unet, scheduler)


def _stable_diffusion(
    vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any
) -> StableDiffusionPipeline:
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


def tiny_sd1(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 in small: 64x64 images, 4x8x8 latents."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16, 16),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = _vae((4, 8, 8, 8), 64, layers_per_block=2)
        text_encoder = _text_encoder(tokenizer)
    scheduler = PNDMScheduler(skip_prk_steps=True, **SCHEDULE)
    return _stable_diffusion(vae, text_encoder, tokenizer, unet, scheduler)


def tiny_sd2(prediction_type: str = "v_prediction", seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 2.1 in small: linear projections, heads by block, a gelu text encoder."""
    tokenizer = tiny_tokenizer(pad_token="!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16, 16),
            cross_attention_dim=WIDTH,
            attention_head_dim=[1, 2, 4, 4],
            norm_num_groups=4,
            use_linear_projection=True,
            upcast_attention=True,
        )
        vae = _vae((4, 8, 8, 8), 64, layers_per_block=2)
        text_encoder = _text_encoder(tokenizer, hidden_act="gelu")
    scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction_type, **SCHEDULE)
    return _stable_diffusion(vae, text_encoder, tokenizer, unet, scheduler)


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL in small: two text encoders, pooled text and sizes, 64x64 images."""
    tokenizer, second = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    sizes, embedded = 6, 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 3],
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=2 * WIDTH,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=embedded,
            projection_class_embeddings_input_dim=WIDTH + sizes * embedded,
        )
        vae = _vae((4, 8, 8, 8), 64, layers_per_block=2, scaling_factor=0.13025, force_upcast=True)
        # States before the last layer are not normalised; larger ones than the real models'
        # would drive attention into saturation, where float error grows.
        told = {"layers": 3, "scale": 4.0}
        text_encoder = _text_encoder(tokenizer, **told)
        text_encoder_2 = _text_encoder(
            second, CLIPTextModelWithProjection, hidden_act="gelu", **told
        )
    scheduler = EulerDiscreteScheduler(
        beta_start=SCHEDULE["beta_start"],
        beta_end=SCHEDULE["beta_end"],
        beta_schedule=SCHEDULE["beta_schedule"],
        interpolation_type="linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    # The published configuration carries other schedulers' options too.
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_tiny_pipeline(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Write `tiny_pipeline` as an ordinary diffusers folder and return the folder."""
    tiny_pipeline(prediction_type, seed).save_pretrained(folder)
    return folder


def save_tiny_sd1(folder: Path, seed: int = 0) -> Path:
    """Write `tiny_sd1` as its published repository is laid out and return the folder."""
    return _publish(tiny_sd1(seed), folder)


def save_tiny_sd2(folder: Path, prediction_type: str = "v_prediction", seed: int = 0) -> Path:
    """Write `tiny_sd2` as its published repository is laid out and return the folder."""
    return _publish(tiny_sd2(prediction_type, seed), folder)


def save_tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Write `tiny_sdxl` as its published repository is laid out and return the folder."""
    return _publish(tiny_sdxl(seed), folder)


_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Names that the autoencoder's attention has in files written before diffusers 0.18."""


def _publish(pipeline: Any, folder: Path) -> Path:
    """Save a pipeline with the file and weight names of the published repositories."""
    pipeline.save_pretrained(folder)
    for place in folder.glob("tokenizer*"):
        saved = json.loads((place / "tokenizer.json").read_text())["model"]
        (place / "tokenizer.json").unlink()
        (place / "vocab.json").write_text(json.dumps(saved["vocab"]))
        merges = ["#version: 0.2", *(" ".join(pair) for pair in saved["merges"])]
        (place / "merges.txt").write_text("\n".join(merges) + "\n")
    for file in folder.glob("text_encoder*/model.safetensors"):
        state = {
            key if key.startswith("text_") else f"text_model.{key}": value
            for key, value in load(file.read_bytes()).items()
        }
        state["text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
        save_file(state, file, {"format": "pt"})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load(file.read_bytes())
    for key in [key for key in state if ".attentions." in key]:
        for new, old in _OLD_ATTENTION.items():
            if f".{new}." in key:
                state[key.replace(f".{new}.", f".{old}.")] = state.pop(key)
    save_file(state, file, {"format": "pt"})
    return folder
