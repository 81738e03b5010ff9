"""Every scorer on made up weights: the files in their official formats, and the plugin on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from bench_plugins.reward_models import plugin
from bench_plugins.reward_models.architectures import CLIP_H, CLIP_L, BlipSize

from tests.reward_models import material

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
CONFIGS = HERE / "configs"
SMALL_H, SMALL_L = "reward-models-small", "reward-models-small-quickgelu"
SEED = 20

open_clip.add_model_config(CONFIGS)


def blip_size(size: material.Blip) -> BlipSize:
    """In the plugin's terms."""
    return BlipSize(
        vision={
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "image_size": 224,
            "patch_size": size.patch,
        },
        text={
            "hidden_size": size.text_width,
            "intermediate_size": 4 * size.text_width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads,
            "vocab_size": size.words + 2,
            "max_position_embeddings": size.positions,
            # Unused, but transformers warns of a token beyond the vocabulary.
            "bos_token_id": 101,
        },
    )


class SmallPickScore(plugin.PickScore):
    architecture = SMALL_H


class SmallHPSv2(plugin.HPSv2):
    architecture = SMALL_H


class SmallClipH14(plugin.ClipH14):
    architecture = SMALL_H


class SmallClipL14(plugin.ClipL14):
    architecture = SMALL_L


class SmallAesthetic(plugin.Aesthetic):
    architecture = SMALL_L


class SmallImageReward(plugin.ImageReward):
    size = blip_size(material.SMALL_BLIP)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scorer on made up weights."""

    scorer: Any
    """The plugin."""
    sha256: str
    """Of the weights that were drawn."""
    request: Mapping[str, Any]
    """What the official code must know, for `official.py`."""


TOLERANCE = {
    "hpsv2": 1e-6,
    "image_reward": 5e-6,
    "pickscore": 1e-5,
    "aesthetic": 1e-5,
    "clip-l14": 1e-6,
    "clip-h14": 1e-6,
}
"""Largest difference to the official score; for PickScore as a share of it, where it exceeds 1."""


def make(scorer: str, folder: Path, *, full: bool = False) -> Case:
    """Draw weights, write their files into `folder`, and build the plugin on them."""
    return MAKERS[scorer](folder, full)


def _clip(architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    config = open_clip.get_model_config(architecture)
    return config, material.draw(material.clip_shapes(config), SEED)


def _pickscore(folder: Path, full: bool) -> Case:
    config, state = _clip(CLIP_H if full else SMALL_H)
    path = folder / "model.safetensors"
    material.save_transformers(state, path)
    cls = plugin.PickScore if full else SmallPickScore
    return Case(
        scorer=cls(weights=str(folder)),
        sha256=material.sha256(state),
        request={"weights": str(path), "clip": config},
    )


def _hpsv2(folder: Path, full: bool) -> Case:
    _, state = _clip(CLIP_H if full else SMALL_H)
    path = folder / "HPS_v2_compressed.pt"
    material.save_hps(state, path)
    cls = plugin.HPSv2 if full else SmallHPSv2
    return Case(
        scorer=cls(weights=str(path)),
        sha256=material.sha256(state),
        request={
            "weights": str(path),
            "config": None if full else str(CONFIGS / f"{SMALL_H}.json"),
        },
    )


def _clip_h14(folder: Path, full: bool) -> Case:
    config, state = _clip(CLIP_H if full else SMALL_H)
    path = folder / "open_clip_model.safetensors"
    material.save_open_clip(state, path)
    cls = plugin.ClipH14 if full else SmallClipH14
    return Case(
        scorer=cls(weights=str(folder)),
        sha256=material.sha256(state),
        request={"openai": str(path), "clip": config},
    )


def _clip_l14(folder: Path, full: bool) -> Case:
    config, state = _clip(CLIP_L if full else SMALL_L)
    # OpenAI's weights are in half precision, and its code rounds whatever it loads to that.
    state = {name: value.half().float() for name, value in state.items()}
    original, path = folder / "openai.safetensors", folder / "model.safetensors"
    material.save_open_clip(state, original)
    material.save_transformers(state, path)
    cls = plugin.ClipL14 if full else SmallClipL14
    return Case(
        scorer=cls(weights=str(path)),
        sha256=material.sha256(state),
        request={"openai": str(original), "clip": config},
    )


def _aesthetic(folder: Path, full: bool) -> Case:
    clip = _clip_l14(folder, full)
    head = material.draw(material.head_shapes(clip.request["clip"]["embed_dim"]), SEED)
    path = folder / "head.pth"
    material.save_plain(head, path)
    cls = plugin.Aesthetic if full else SmallAesthetic
    return Case(
        scorer=cls(weights=str(path), clip=clip.scorer.weights),
        sha256=material.sha256(head),
        request={**clip.request, "head": str(path)},
    )


def _image_reward(folder: Path, full: bool) -> Case:
    size = material.LARGE_BLIP if full else material.SMALL_BLIP
    state = material.draw(material.image_reward_shapes(size), SEED)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(size.positions)[None]
    weights = folder / "ImageReward.pt"
    vocabulary = folder / "bert-base-uncased" / "vocab.txt"
    vocabulary.parent.mkdir()
    material.save_plain(state, weights)
    material.save_vocabulary(size.words, vocabulary)
    cls = plugin.ImageReward if full else SmallImageReward
    return Case(
        scorer=cls(weights=str(weights), vocabulary=str(vocabulary)),
        sha256=material.sha256(state),
        request={
            "weights": str(weights),
            "vocabulary": str(vocabulary),
            "size": dataclasses.asdict(size),
            "reduced": not full,
        },
    )


MAKERS = {
    "hpsv2": _hpsv2,
    "image_reward": _image_reward,
    "pickscore": _pickscore,
    "clip-l14": _clip_l14,
    "clip-h14": _clip_h14,
    "aesthetic": _aesthetic,
}


def golden(scorer: str) -> dict[str, Any]:
    """What the official code gave at reduced width."""
    found: dict[str, Any] = json.loads((GOLDEN / f"{scorer}.json").read_text(encoding="utf-8"))
    return found
