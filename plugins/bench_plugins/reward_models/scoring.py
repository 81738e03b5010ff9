"""A reward model with its weights in memory: batches of images and prompts to scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from bench.files import ahead
from bench_plugins.reward_models.pictures import Preprocessing


class Network(Protocol):
    """What a reward model knows of texts and pictures."""

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Texts in the form that `rate` takes: a tensor with one row a prompt."""
        ...

    def truncated(self, prompts: Sequence[str]) -> list[int]:
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
        # A few images a pass spare a CPU reading the weights for each, a GPU wants many.
        self.batch = 8 if device == "cpu" else 32

    def score(self, images: Sequence[Image | Tensor], prompts: Sequence[str]) -> np.ndarray:
        """Rate image i under prompt i.

        Args:
            images: N images of any size and mode, upright by their EXIF data; or tensors
                [3, H, W], uint8 or floats in [0, 1].
            prompts: N prompts; of those that `truncated` names the end is not seen.

        Returns:
            float64 [N], higher is better.

        Raises:
            ValueError: an image cannot be read; names its position.
        """
        if len(images) != len(prompts):
            raise ValueError(
                f"{len(images)} images but {len(prompts)} prompts: they are scored in pairs"
            )
        if not prompts:
            return np.zeros(0)
        # Made while texts are read and other pictures are rated.
        pictures = ahead(self._prepare, enumerate(images), depth=self.batch)
        parts = []
        with torch.inference_mode(), _without_tf32():
            texts, rows = self._read(prompts)
            for at in range(0, len(prompts), self.batch):
                chosen = texts[rows[at : at + self.batch]]
                batch = torch.stack(list(islice(pictures, len(chosen))))
                scores = self.network.rate(batch.to(self.device), chosen)
                parts.append(scores.cpu().double().numpy())
        return np.concatenate(parts)

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        """Positions of the prompts that are longer than the model's limit and so are cut."""
        return self.network.truncated(prompts)

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Each distinct text once, and for each prompt its row."""
        # By length, so that a short text is seldom padded to the length of a long one.
        distinct = sorted(dict.fromkeys(prompts), key=len)
        spans = range(0, len(distinct), self.batch)
        texts = torch.cat([self.network.read(distinct[i : i + self.batch]) for i in spans])
        place = {prompt: row for row, prompt in enumerate(distinct)}
        return texts, torch.tensor([place[p] for p in prompts], device=texts.device)

    def _prepare(self, numbered: tuple[int, Image | Tensor]) -> Tensor:
        position, image = numbered
        try:
            return self.preprocessing(image)
        except (ValueError, OSError) as error:
            # PIL reads a file when its pixels are asked for.
            raise ValueError(f"image {position}: {error}") from error


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Leave the factors of float32 products on a GPU as they are.

    By default PyTorch rounds those of convolutions to TF32, 10 digits of 23.
    """
    # Newer versions refuse to read `allow_tf32` where somebody has set `fp32_precision`.
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    name, exact = ("fp32_precision", "ieee") if convolutions else ("allow_tf32", False)
    switches = (convolutions or torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, exact)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
