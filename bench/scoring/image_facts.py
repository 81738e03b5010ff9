"""What pictures look like, by their pixels alone: facts of an image, and diversity of several.

Plain measures of 8-bit RGB without any model: they show collapse (all images of a prompt alike) and
drift (more saturated, flatter), not quality. All sums are of whole numbers, so that every machine
gives the same; what is given is rounded to `DIGITS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FACTS = ("saturation", "contrast", "sharpness", "clipping")
"""In the order that `facts` gives them."""
DIGITS = 6
"""Decimals that are kept; one level of one of 512 x 512 pixels moves a mean by 1.5e-8."""
SIDE = 32
"""Height and width of what diversity compares."""
_WHITE = 255


def facts(image: Image) -> np.ndarray:
    """What one image looks like, at its own size.

    Args:
        image: RGB, 8 bits.

    Returns:
        float64 [4], each in [0, 1]: `saturation`, `contrast`, `sharpness`, `clipping`.
    """
    pixels = np.asarray(image, dtype=np.uint8)
    luma = np.asarray(image.convert("L"), dtype=np.int64)
    values = (saturation(pixels), contrast(luma), sharpness(luma), clipping(pixels))
    return np.round(np.array(values), DIGITS)


def saturation(pixels: np.ndarray) -> float:
    """Mean over pixels of the saturation of HSV (Smith 1978, "Color gamut transform pairs").

    (max - min) / max of a pixel's red, green and blue, 0 where it is black. In [0, 1]: 0 for greys,
    1 where every pixel lacks one of the three.

    Args:
        pixels: uint8 [height, width, 3].
    """
    red, green, blue = (pixels[..., i] for i in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    # The sum of max - min over pixels of each max is whole; there are 256 of them.
    spread = np.bincount(
        highest.ravel(), (highest - lowest).ravel().astype(np.float64), minlength=_WHITE + 1
    )
    return float(np.sum(spread[1:] / np.arange(1, _WHITE + 1)) / highest.size)


def contrast(luma: np.ndarray) -> float:
    """RMS contrast (Peli 1990, "Contrast in complex images"): twice luma's standard deviation.

    Luma is that of ITU-R BT.601. The factor is our choice: without it the most, of an image that is
    half black and half white, would be 0.5. In [0, 1].

    Args:
        luma: int64 [height, width], from 0 to 255.
    """
    return float(2 * _deviation(luma) / _WHITE)


def sharpness(luma: np.ndarray) -> float:
    """Standard deviation of luma's Laplacian, over its most.

    The square of it is, up to the scale, the variance of the Laplacian, a usual measure of focus
    (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy"). The Laplacian is
    that of four neighbours, 4 y - (up + down + left + right), at pixels that have them all. In
    [0, 1]: 0 for one colour (and below 3 x 3 pixels), 1 for a checkerboard of black and white
    pixels.

    Args:
        luma: int64 [height, width], from 0 to 255.
    """
    inner = luma[1:-1, 1:-1]
    if not inner.size:
        return 0.0
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(_deviation(4 * inner - around) / (4 * _WHITE))


def clipping(pixels: np.ndarray) -> float:
    """Share of the red, green and blue values that are at an end of their range, 0 or 255.

    Our choice. In [0, 1]: 1 for white, black and the six full colours, where detail may be lost.

    Args:
        pixels: uint8 [height, width, 3].
    """
    ends = np.count_nonzero(pixels == 0) + np.count_nonzero(pixels == _WHITE)
    return ends / pixels.size


def diversity(images: Sequence[Image]) -> float:
    """How much the images of one prompt differ: the mean distance over all pairs of them.

    The distance of two images is the root of the mean squared difference of their red, green and
    blue values in [0, 1], both scaled to 32 x 32 pixels by box averages. A plain measure of pixels,
    our choice, and not LPIPS: a shift of the same picture counts as much as another picture. In
    [0, 1]: 0 where all are equal, 1 for black and white.

    Args:
        images: RGB, 8 bits, two or more, of any sizes.
    """
    from PIL.Image import Resampling

    small = [
        np.asarray(image.resize((SIDE, SIDE), Resampling.BOX), dtype=np.int64) for image in images
    ]
    distances = [
        np.sqrt(np.mean(np.square(one - other))) / _WHITE for one, other in combinations(small, 2)
    ]
    return float(np.round(np.mean(distances), DIGITS))


def _deviation(values: np.ndarray) -> float:
    """The standard deviation of whole numbers, by exact sums."""
    count, total = values.size, int(values.sum())
    squares = int(np.square(values).sum())
    return math.sqrt(count * squares - total * total) / count
