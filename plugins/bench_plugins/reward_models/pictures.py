"""Images of any size and mode as the square, normalised pictures that networks see.

Two recipes exist: `ShortestSide` scales 8-bit images with Pillow and cuts out the centre (CLIP,
PickScore, ImageReward), `LongestSide` scales tensors and pads with black (HPSv2). Each works on
images and, differentiably, on tensors of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as pil
from PIL.Image import Image
from torch import Tensor

from bench.lib.images import upright_rgb

SIZE = 224
"""Side of the pictures that all networks here see."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, by channel."""


class Preprocessing(Protocol):
    """From images or pixels to normalised pictures."""

    def of_image(self, image: Image | Tensor) -> Tensor:
        """One image as `upright_rgb` takes it -> float32 [3, SIZE, SIZE] on the CPU."""
        ...

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] in [0, 1] -> [N, 3, SIZE, SIZE], differentiable."""
        ...


@dataclass(frozen=True)
class ShortestSide:
    """Scale the shortest side to SIZE with Pillow's bicubic filter and cut out the centre."""

    odd: Literal["even", "down"]
    """Where an odd number of pixels is cut off, half of it is rounded to the even neighbour
    (torchvision: CLIP, ImageReward) or down (transformers: PickScore)."""

    def of_image(self, image: Image | Tensor) -> Tensor:
        """Exactly the 8-bit pixels that the official code sees."""
        rgb = upright_rgb(image)
        width, height = self._scaled(*rgb.size)
        left, top = self._cut(width), self._cut(height)
        # Which side is scaled first decides what is rounded. Asked for both at once, Pillow begins
        # with the width, but since version 13 with the height of tall images.
        rgb = rgb.resize((width, rgb.height), pil.Resampling.BICUBIC)
        rgb = rgb.crop((left, 0, left + SIZE, rgb.height))
        rgb = rgb.resize((SIZE, height), pil.Resampling.BICUBIC)
        return _normalise(_tensor(rgb.crop((0, top, SIZE, top + SIZE))))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Pillow's two passes, each rounded to 8 bits; the gradient passes the rounding by."""
        height, width = pixels.shape[-2:]
        new_width, new_height = self._scaled(width, height)
        left, top = self._cut(new_width), self._cut(new_height)
        if (new_width, new_height) == (width, height):
            return _normalise(pixels[..., top : top + SIZE, left : left + SIZE])
        columns, across = _pillow_weights(width, new_width, left)
        rows, down = _pillow_weights(height, new_height, top)
        # This product gives back whole numbers where the pixels are 8-bit values over 255.
        levels = (pixels[..., rows, columns] * 255).double()
        levels = _weighted(levels, across)
        levels = _weighted(levels.mT, down).mT
        return _normalise(levels.to(pixels.dtype) / 255)

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        if width <= height:
            return SIZE, int(SIZE * height / width)
        return int(SIZE * width / height), SIZE

    def _cut(self, length: int) -> int:
        spare = length - SIZE
        return spare // 2 if self.odd == "down" else round(spare / 2)


@dataclass(frozen=True)
class LongestSide:
    """Scale the longest side to SIZE as a float tensor, unclamped, and pad with black."""

    antialias: bool
    """False scales as the official code did under torchvision 0.16 and older."""

    def of_image(self, image: Image | Tensor) -> Tensor:
        """The same as `of_pixels`."""
        return self.of_pixels(_tensor(upright_rgb(image))[None])[0]

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """An image that is as long as SIZE is padded too, unlike in the official code."""
        height, width = pixels.shape[-2:]
        scale = SIZE / max(height, width)
        if scale != 1:
            height, width = (max(round(side * scale), 1) for side in (height, width))
            pixels = F.interpolate(
                pixels, size=(height, width), mode="bicubic", antialias=self.antialias
            )
        spare_x, spare_y = SIZE - width, SIZE - height
        left, top = spare_x // 2, spare_y // 2
        return _normalise(F.pad(pixels, (left, spare_x - left, top, spare_y - top)))


def _tensor(image: Image) -> Tensor:
    """8-bit RGB as float32 [3, H, W] in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).float().div_(255)


def _normalise(pictures: Tensor) -> Tensor:
    mean = torch.tensor(MEAN, dtype=pictures.dtype, device=pictures.device)[:, None, None]
    std = torch.tensor(STD, dtype=pictures.dtype, device=pictures.device)[:, None, None]
    return (pictures - mean) / std


@lru_cache(maxsize=32)
def _pillow_weights(length: int, scaled: int, cut: int) -> tuple[slice, np.ndarray]:
    """How Pillow's bicubic filter scales a line of pixels, of which SIZE are kept.

    `precompute_coeffs` and `normalize_coeffs_8bpc` in Pillow's src/libImaging/Resample.c.

    Args:
        length: pixels of the line.
        scaled: pixels of the scaled line.
        cut: the first of them that is kept.

    Returns:
        The pixels that count, and their weights, float64 [SIZE, pixels that count]: multiples of
        2^-22, so that products with 8-bit values are exact.
    """
    step = length / scaled
    spread = max(step, 1.0)
    centres = (np.arange(cut, cut + SIZE)[:, None] + 0.5) * step
    first = np.maximum((centres - 2 * spread + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * spread + 0.5).astype(int), length)
    counts = slice(int(first[0, 0]), int(last[-1, 0]))
    taps = np.arange(counts.start, counts.stop)
    x = np.abs((taps - centres + 0.5) * (1 / spread))
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights[(taps < first) | (taps >= last)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return counts, np.trunc(weights * 2**22 + np.copysign(0.5, weights)) / 2**22


def _weighted(levels: Tensor, weights: np.ndarray) -> Tensor:
    """Rows of levels from 0 to 255 under `weights`, rounded and clamped as Pillow does it."""
    exact = levels @ torch.from_numpy(weights).to(levels.device).T
    # In this order the sum is the rounded level itself, and its gradient that of the other two.
    passed = exact.clamp(0, 255)
    return (exact.detach() + 0.5).floor().clamp(0, 255) + (passed - passed.detach())
