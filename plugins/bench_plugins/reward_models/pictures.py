"""Images of any size and mode as the square, normalised pictures that networks see.

Two ways exist: `cropped` scales 8-bit images with Pillow and cuts out the centre (CLIP, PickScore,
ImageReward), `padded` scales tensors and pads with black (HPSv2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as pil
from PIL.Image import Image
from torch import Tensor

from bench.files import upright_rgb
from bench_plugins.reward_models.architectures import Format

SIZE = 224
"""Side of the pictures that all networks here see."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, by channel."""


Preprocessing: TypeAlias = Callable[["Image | Tensor"], Tensor]
"""One image as `upright_rgb` takes it -> float32 [3, SIZE, SIZE] on the CPU."""


def cropped(image: Image | Tensor, rules: Format = "open_clip") -> Tensor:
    """Scale the shortest side to SIZE with Pillow's bicubic filter and cut out the centre.

    They are exactly the 8-bit pixels that the official code sees. Of an odd number of pixels that
    are cut off, `rules` say whether half is rounded to the even neighbour (open_clip, torchvision)
    or down (transformers).
    """
    rgb = upright_rgb(image)
    shortest = min(rgb.size)
    width, height = (int(SIZE * side / shortest) for side in rgb.size)
    halves = ((side - SIZE) / 2 for side in (width, height))
    left, top = (math.floor(h) if rules == "transformers" else round(h) for h in halves)
    # Which side is scaled first decides what is rounded. Asked for both at once, Pillow begins
    # with the width, but since version 13 with the height of tall images.
    rgb = rgb.resize((width, rgb.height), pil.Resampling.BICUBIC)
    rgb = rgb.crop((left, 0, left + SIZE, rgb.height))
    rgb = rgb.resize((SIZE, height), pil.Resampling.BICUBIC)
    return _normalise(_tensor(rgb.crop((0, top, SIZE, top + SIZE))))


def padded(image: Image | Tensor, antialias: bool = True) -> Tensor:
    """Scale the longest side to SIZE as a float tensor, unclamped, and pad with black.

    An image that is as long as SIZE is padded too, unlike in the official code, which under
    torchvision 0.16 and older did not antialias.
    """
    pixels = _tensor(upright_rgb(image))
    height, width = pixels.shape[-2:]
    scale = SIZE / max(height, width)
    if scale != 1:
        height, width = (max(round(side * scale), 1) for side in (height, width))
        pixels = F.interpolate(
            pixels[None], size=(height, width), mode="bicubic", antialias=antialias
        )[0]
    spare_x, spare_y = SIZE - width, SIZE - height
    left, top = spare_x // 2, spare_y // 2
    return _normalise(F.pad(pixels, (left, spare_x - left, top, spare_y - top)))


def _tensor(image: Image) -> Tensor:
    """8-bit RGB as float32 [3, H, W] in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).float().div_(255)


def _normalise(picture: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (picture - mean) / std
