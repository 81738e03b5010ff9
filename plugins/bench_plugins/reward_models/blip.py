"""ImageReward: BLIP reads the prompt while it looks at the picture, a head rates what it saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import BenchError
from bench_plugins.reward_models.architectures import BlipSize
from bench_plugins.reward_models.checkpoints import Origin, load_weights, renamed
from bench_plugins.reward_models.heads import linear_stack
from bench_plugins.reward_models.imports import importing

CONTEXT = 35
"""Tokens of a prompt that the official code reads, its two ends included."""

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw rewards on the training data; `ImageReward.py` of the package image-reward."""

_ADDED_TOKENS = ("[DEC]", "[ENC]")
"""Rows of the text encoder behind those of BERT's vocabulary."""

_UNUSED = (
    "blip.vision_proj.weight",
    "blip.vision_proj.bias",
    "blip.text_proj.weight",
    "blip.text_proj.bias",
    "blip.text_encoder.embeddings.position_ids",
)
"""In the official file, but without a part in the score."""

_OFFICIAL = {
    "head.": "mlp.layers.",
    "text.": "blip.text_encoder.",
    "vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
    "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed",
    "vision.embeddings.patch_embedding": "blip.visual_encoder.patch_embed.proj",
    "vision.post_layernorm": "blip.visual_encoder.norm",
    "vision.encoder.layers.": "blip.visual_encoder.blocks.",
    "self_attn.projection": "attn.proj",
    "self_attn.qkv": "attn.qkv",
    "layer_norm": "norm",
}
"""Parts of names here -> of those in the official file."""


class ImageRewardNetwork:
    """Picture and prompt to a reward, by cross-attention."""

    def __init__(
        self,
        user: str,
        size: BlipSize,
        weights: Path,
        vocabulary: Path,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        """Read weights and vocabulary.

        Args:
            user: the scorer's name, for messages.
            size: of the two encoders.
            weights: the official checkpoint.
            vocabulary: BERT's, one token a line.
            device: where the network shall be.
            dtype: of its encoders' weights.
        """
        self.tokenizer = _tokenizer(vocabulary, size.text["vocab_size"])
        with importing(user, transformers="transformers>=5.6"):
            from transformers import BlipTextConfig, BlipVisionConfig
            from transformers.models.blip.modeling_blip import BlipVisionModel
            from transformers.models.blip.modeling_blip_text import BlipTextModel
        vision_config = BlipVisionConfig(**size.vision, layer_norm_eps=1e-6)
        text_config = BlipTextConfig(
            **size.text,
            encoder_hidden_size=size.vision["hidden_size"],
            layer_norm_eps=1e-12,
            # This builds the cross-attention; at the call the mask is bidirectional.
            is_decoder=True,
        )
        with torch.device("meta"):
            network: Any = nn.ModuleDict(
                {
                    "vision": BlipVisionModel(vision_config),
                    "text": BlipTextModel(text_config, add_pooling_layer=False),
                    "head": linear_stack(size.text["hidden_size"]),
                }
            )
        # Not part of any checkpoint.
        positions = torch.arange(size.text["max_position_embeddings"], device=device)[None]
        network["text"].embeddings.register_buffer("position_ids", positions, persistent=False)
        load_weights(
            network,
            weights,
            device=device,
            dtype=dtype,
            layout={name: Origin((renamed(name, _OFFICIAL),)) for name in network.state_dict()},
            ignored=_UNUSED,
            full=("head.",),
        )
        self.vision, self.text, self.head = network["vision"], network["text"], network["head"]
        self.device = device
        self.dtype = dtype

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers and their mask, int64 [N, 2, CONTEXT]."""
        encoded = self.tokenizer.encode_batch(list(prompts))
        return torch.tensor([[e.ids, e.attention_mask] for e in encoded], device=self.device)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts with more than CONTEXT tokens."""
        encoded = self.tokenizer.encode_batch(list(prompts))
        return [i for i, e in enumerate(encoded) if e.overflowing]

    def rate(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """[N]."""
        seen = self.vision(pixel_values=pictures.to(self.dtype)).last_hidden_state
        states = self.text(
            input_ids=texts[:, 0],
            attention_mask=texts[:, 1],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
            use_cache=False,
        ).last_hidden_state
        raw: Tensor = self.head(states[:, 0].float())
        return (raw.squeeze(-1) - MEAN) / STD


def _tokenizer(vocabulary: Path, rows: int) -> Any:
    from tokenizers import BertWordPieceTokenizer
    from tokenizers.models import WordPiece

    try:
        tokenizer = BertWordPieceTokenizer(WordPiece.read_file(str(vocabulary)), lowercase=True)
    except Exception as error:
        # tokenizers raises a bare Exception on foreign bytes.
        reason = " ".join(str(error).split())
        raise BenchError(
            f"{vocabulary} is no BERT vocabulary, one token a line: {reason}"
        ) from error
    expected = rows - len(_ADDED_TOKENS)
    if tokenizer.get_vocab_size() != expected:
        raise BenchError(
            f"{vocabulary} has {tokenizer.get_vocab_size()} tokens instead of {expected}: give the "
            f"vocab.txt of bert-base-uncased"
        )
    tokenizer.add_special_tokens(list(_ADDED_TOKENS))
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(length=CONTEXT)
    return tokenizer
