"""Runs in the environment of package image-reward 1.5 (Apache-2.0): its own model and `score`."""

from __future__ import annotations

from typing import Any

TOKENS = 35
"""That the package's `score` keeps."""


def check() -> None:
    """Import the package."""
    import ImageReward  # type: ignore[import-not-found]  # noqa: F401


def load(device: str, weights: str, med_config: str, vocabulary: str) -> Official:
    """The model with the weights of a local checkpoint.

    Raises:
        ValueError: the checkpoint lacks tensors, which the package would leave random.
    """
    import ImageReward
    import torch
    from ImageReward.models.BLIP import (  # type: ignore[import-not-found]
        blip_pretrain,
    )

    blip_pretrain.init_tokenizer = lambda: _tokenizer(vocabulary)
    model = ImageReward.load(weights, device=device, med_config=med_config)
    given = torch.load(weights, map_location="cpu", weights_only=True)
    # Counters, which only older versions of transformers saved.
    own = {key for key in model.state_dict() if not key.endswith("position_ids")}
    missing = sorted(own - set(given))
    if missing:
        raise ValueError(
            f"{weights} is no whole ImageReward checkpoint, it lacks {len(missing)} of "
            f"{len(own)} tensors: {', '.join(missing[:5])}"
        )
    return Official(model)


class Official:
    """`ImageReward.score`, image by image: given lists it would rank one prompt's images."""

    def __init__(self, model: Any) -> None:
        """`model` is the package's loaded model."""
        self._model = model

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        """The reward; about -2 to 2."""
        import torch

        pairs = zip(images, prompts, strict=True)
        with torch.inference_mode():
            return [self._model.score(prompt, image) for image, prompt in pairs]

    def truncated(self, prompts: list[str]) -> list[int]:
        """Positions of the prompts that are cut."""
        split = self._model.blip.tokenizer(list(prompts)).input_ids
        return [i for i, tokens in enumerate(split) if len(tokens) > TOKENS]


def _tokenizer(vocabulary: str) -> Any:
    """What the package's `init_tokenizer` gives, from a local file instead of the Hub."""
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocabulary)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
    return tokenizer
