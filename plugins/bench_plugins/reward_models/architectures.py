"""The sizes of the networks, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["open_clip", "transformers"]
"""By which package's rules CLIP's weights are named, or texts cleaned and pictures cut."""

CLIP_H = "ViT-H-14"
"""open_clip's name of LAION's CLIP, which PickScore and HPSv2 were tuned from."""

CLIP_L = "ViT-L-14-quickgelu"
"""open_clip's name of OpenAI's CLIP; without `quickgelu` its weights give other numbers."""


@dataclass(frozen=True)
class BlipSize:
    """Arguments of transformers' BlipVisionConfig and BlipTextConfig."""

    vision: Mapping[str, int]
    text: Mapping[str, int]


BLIP_LARGE = BlipSize(
    vision={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 16,
    },
    text={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 30524,
        "max_position_embeddings": 512,
    },
)
"""Of ImageReward."""
