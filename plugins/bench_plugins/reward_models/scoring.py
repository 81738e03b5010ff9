"""A reward model with its weights in memory: batches of images and prompts to scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from bench.ahead import ahead
from bench_plugins.reward_models.pictures import Preprocessing


def batch_size(device: str) -> int:
    """Images a pass: a few spare a CPU reading the weights for each, a GPU wants many."""
    return 8 if device == "cpu" else 32


class Network(Protocol):
    """What a reward model knows of texts and pictures."""

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Texts in the form that `rate` takes: a tensor with one row a prompt."""
        ...

    def overlong(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts of which the network sees only the beginning."""
        ...

    def rate(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Rate picture i [3, H, W] under text i: float32 [N], differentiable in the pictures."""
        ...


class RewardModel:
    """Scores images under prompts, pairs by position."""

    def __init__(self, network: Network, preprocessing: Preprocessing, device: str) -> None:
        """`network` lies on `device` already."""
        self.network = network
        self.preprocessing = preprocessing
        self.device = device
        self.batch = batch_size(device)

    def score(self, images: Sequence[Image | Tensor], prompts: Sequence[str]) -> np.ndarray:
        """Rate image i under prompt i.

        Args:
            images: N images of any size and mode, upright by their EXIF data; or tensors
                [3, H, W], uint8 or floats in [0, 1].
            prompts: N prompts; of those that `overlong` names the end is not seen.

        Returns:
            float64 [N], higher is better.
        """
        _check(len(images), prompts)
        if not prompts:
            return np.zeros(0)
        parts = []
        with torch.inference_mode():
            texts, rows = self._read(prompts)
            for at, pictures in self._prepared(images):
                chosen = texts[rows[at : at + len(pictures)]]
                scores = self.network.rate(pictures.to(self.device), chosen)
                parts.append(scores.cpu().double().numpy())
        return np.concatenate(parts)

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rate image i under prompt i, differentiably.

        Args:
            pixels: [N, 3, H, W] in [0, 1] on this model's device.
            prompts: N prompts.

        Returns:
            float32 [N], equal to `score` of the same images.
        """
        _check(len(pixels), prompts)
        with torch.no_grad():
            texts, rows = self._read(prompts)
        return self.network.rate(self.preprocessing.of_pixels(pixels.float()), texts[rows])

    def overlong(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts that are longer than the model's limit and so are cut."""
        return self.network.overlong(prompts)

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Each distinct text once, and for each prompt its row."""
        # By length, so that a short text is seldom padded to the length of a long one.
        distinct = sorted(dict.fromkeys(prompts), key=len)
        spans = range(0, len(distinct), self.batch)
        texts = torch.cat([self.network.read(distinct[i : i + self.batch]) for i in spans])
        place = {prompt: row for row, prompt in enumerate(distinct)}
        return texts, torch.tensor([place[p] for p in prompts], device=texts.device)

    def _prepared(self, images: Sequence[Image | Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Batches and where they start; the next one is made while one is rated."""
        pictures = ahead(self.preprocessing.of_image, images, depth=self.batch)
        for at in range(0, len(images), self.batch):
            yield at, torch.stack(list(islice(pictures, self.batch)))


def _check(images: int, prompts: Sequence[str]) -> None:
    if images != len(prompts):
        raise ValueError(f"{images} images but {len(prompts)} prompts: they are scored in pairs")
