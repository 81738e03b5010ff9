"""Images of any size and mode as the square, normalised pictures that networks see.

Two recipes exist: `ShortestSide` scales 8-bit images with Pillow and cuts out the centre (CLIP,
PickScore, ImageReward), `LongestSide` scales tensors and pads with black (HPSv2). Each works on
images and, differentiably, on tensors of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as pil
from PIL.Image import Image
from torch import Tensor

from bench.images import upright_rgb

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
        if rgb.size != (width, height):
            rgb = rgb.resize((width, height), pil.Resampling.BICUBIC)
        left, top = self._cut(width), self._cut(height)
        return _normalise(_tensor(rgb.crop((left, top, left + SIZE, top + SIZE))))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Pillow's two passes, each rounded to 8 bits; the gradient passes the rounding by."""
        height, width = pixels.shape[-2:]
        new_width, new_height = self._scaled(width, height)
        if new_width != width:
            pixels = _eight_bit(_bicubic(pixels, height, new_width))
        if new_height != height:
            pixels = _eight_bit(_bicubic(pixels, new_height, new_width))
        left, top = self._cut(new_width), self._cut(new_height)
        return _normalise(pixels[..., top : top + SIZE, left : left + SIZE])

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
            pixels = _bicubic(pixels, height, width, antialias=self.antialias)
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


def _bicubic(pixels: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    return F.interpolate(
        pixels, size=(height, width), mode="bicubic", align_corners=False, antialias=antialias
    )


def _eight_bit(pixels: Tensor) -> Tensor:
    clamped = pixels.clamp(0, 1)
    rounded = (clamped * 255).round() / 255
    return clamped + (rounded - clamped).detach()
