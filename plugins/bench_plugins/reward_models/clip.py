"""CLIP's two towers in open_clip, and the scores that stand on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench_plugins.reward_models.architectures import Format
from bench_plugins.reward_models.checkpoints import Origin, load_weights, renamed
from bench_plugins.reward_models.heads import linear_stack
from bench_plugins.reward_models.imports import importing

_POSITION_IDS = tuple(f"{tower}_model.embeddings.position_ids" for tower in ("text", "vision"))
"""Counters that older versions of transformers saved with the weights."""


class Towers:
    """Texts and pictures as unit vectors in one space, and their cosine."""

    def __init__(
        self,
        user: str,
        architecture: str,
        weights: Path,
        weights_format: Format,
        texts: Format,
        device: str,
        dtype: torch.dtype,
        scaled: bool = False,
    ) -> None:
        """Read the weights.

        Args:
            user: the scorer's name, for messages.
            architecture: a name that open_clip has a configuration for.
            weights: a checkpoint.
            weights_format: how it names its tensors.
            texts: whose rules of cleaning texts apply.
            device: where the towers shall be.
            dtype: of their weights.
            scaled: ratings are cosines times what they were multiplied by in training.
        """
        with importing(user, open_clip="open_clip_torch>=3.0", torchvision="torchvision>=0.23"):
            import open_clip
        with torch.device("meta"):
            self.clip: Any = open_clip.CLIP(**open_clip.get_model_config(architecture))
        length = self.clip.context_length
        mask = torch.full((length, length), float("-inf"), device=device, dtype=dtype).triu_(1)
        self.clip.register_buffer("attn_mask", mask, persistent=False)
        foreign = weights_format == "transformers"
        load_weights(
            self.clip,
            weights,
            device=device,
            dtype=dtype,
            layout=transformers_layout(self.clip) if foreign else None,
            ignored=_POSITION_IDS if foreign else (),
        )
        self.device = device
        self.dtype = dtype
        # They differ: open_clip, as OpenAI's code, repairs encodings, quotes and HTML entities.
        self.split = _split_as_open_clip if texts == "open_clip" else _split_as_transformers
        self.factor = float(self.clip.logit_scale.exp()) if scaled else 1.0

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.clip.text_projection.shape[1])

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Texts as unit vectors, float32 [N, width]."""
        clip, limit = self.clip, self.clip.context_length
        kept = [
            split if len(split) <= limit else [*split[: limit - 1], split[-1]]
            for split in self.split(prompts)
        ]
        # Attention is causal: what would follow the end of the longest text changes none. But how
        # 16 bits are rounded depends on the length, so there it is the same for all texts.
        length = max(map(len, kept)) if self.dtype == torch.float32 else limit
        tokens = torch.tensor([[*text, *[0] * (length - len(text))] for text in kept])
        tokens = tokens.to(self.device)
        states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        states = clip.transformer(states, attn_mask=clip.attn_mask[:length, :length])
        # The end token has the highest number.
        ends = states[torch.arange(len(kept), device=self.device), tokens.argmax(dim=-1)]
        return F.normalize((clip.ln_final(ends) @ clip.text_projection).float(), dim=-1)

    def look(self, pictures: Tensor) -> Tensor:
        """Pictures as unit vectors, float32 [N, width]."""
        return F.normalize(self.clip.encode_image(pictures.to(self.dtype)).float(), dim=-1)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts with more tokens than the text tower reads."""
        length = self.clip.context_length
        return [i for i, split in enumerate(self.split(prompts)) if len(split) > length]

    def rate(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Cosines of pictures [N, 3, H, W] and texts as `read` gives them, times `factor`, [N]."""
        return self.factor * (self.look(pictures) * texts).sum(dim=-1)


class AestheticHead:
    """A linear head on a picture's unit vector, whatever the text."""

    def __init__(self, towers: Towers, head: Path) -> None:
        """`head` holds the linear layers."""
        self.towers = towers
        with torch.device("meta"):
            self.layers = nn.ModuleDict({"layers": linear_stack(towers.width)})
        load_weights(self.layers, head, device=towers.device, dtype=torch.float32)
        # It never reads a text: 0.5 GB of ViT-L/14.
        del towers.clip.transformer, towers.clip.token_embedding

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Nothing: [N, 0]."""
        return torch.zeros(len(prompts), 0, device=self.towers.device)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """None, since none is read."""
        return []

    def rate(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """[N]."""
        ratings: Tensor = self.layers["layers"](self.towers.look(pictures))
        return ratings.squeeze(-1)


_IN_TRANSFORMERS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.": "self_attn.",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding": "text_model.embeddings.token_embedding",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}


def transformers_layout(clip: nn.Module) -> dict[str, Origin]:
    """Where a file of transformers' CLIPModel holds the parameters of open_clip's CLIP."""
    return {name: _in_transformers(name) for name in clip.state_dict()}


def _in_transformers(name: str) -> Origin:
    place = renamed(name, _IN_TRANSFORMERS)
    module, joined, kind = place.partition("in_proj_")
    if joined:
        return Origin(tuple(f"{module}{part}_proj.{kind}" for part in "qkv"))
    return Origin((place,), transposed=name in ("text_projection", "visual.proj"))


def _split_as_open_clip(prompts: Sequence[str]) -> list[list[int]]:
    tokenizer = _vocabulary()
    start, end = tokenizer.all_special_ids
    return [[start, *tokenizer.encode(prompt), end] for prompt in prompts]


def _split_as_transformers(prompts: Sequence[str]) -> list[list[int]]:
    split: list[list[int]] = _transformers_tokenizer()(list(prompts))["input_ids"]
    return split


@cache
def _vocabulary() -> Any:
    import open_clip

    return open_clip.SimpleTokenizer()


@cache
def _transformers_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    known = _vocabulary()
    words = {word: i for word, i in known.encoder.items() if i not in known.all_special_ids}
    ends = zip(("<|startoftext|>", "<|endoftext|>"), known.all_special_ids, strict=True)
    return CLIPTokenizer(vocab=words | dict(ends), merges=list(known.bpe_ranks))
