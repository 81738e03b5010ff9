"""Reading images that people made: bytes of any kind to plain RGB."""

from __future__ import annotations

import io
import threading
from functools import cache
from typing import TYPE_CHECKING

from bench.lib.wording import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CENTER = (0.5, 0.5)
FORMATS = ("JPEG", "PNG", "WEBP", "MPO", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
"""Formats that are read. Others of Pillow's start programs (EPS) or are no pictures (PDF, HDF5)."""
MOST_PIXELS = 1 << 26
"""Of one image; a few kilobytes may claim thousands of millions."""
_ORIENTATION = 0x0112
"""The EXIF tag that says how the image is to be turned."""
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Its values by what undoes them (EXIF 2.3, 4.6.4); 1 is upright."""
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Where Pillow finds the tag in an image's `info`."""

_FILES = threading.Lock()
"""Held while Pillow reads an image that was opened but not yet read: it may be one of several."""


def decode(data: bytes) -> Image:
    """An upright RGB image from encoded bytes.

    Raises:
        ValueError: the bytes are no image, of a format that is not read, of too many pixels, or
            end too early; says what is wrong.
    """
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    try:
        with pil.open(io.BytesIO(data), formats=_formats()) as image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels, more than the {MOST_PIXELS:,} that "
                    f"are read"
                )
            image.load()
            return upright_rgb(image)
    except UnidentifiedImageError as error:
        # Its own message names an address in memory, another one in every run.
        raise ValueError("cannot identify image file") from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's readers raise whatever broken bytes make them run into.
        raise ValueError(one_line(error) or type(error).__name__) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads; its warning of many pixels is ours to give."""
    import warnings

    from PIL import Image as pil

    warnings.filterwarnings("ignore", category=pil.DecompressionBombWarning)
    pil.init()
    return tuple(name for name in FORMATS if name in pil.OPEN)


def upright_rgb(image: Image | Tensor) -> Image:
    """The image turned as its EXIF data says, as 8-bit RGB.

    Transparency is dropped, as `convert("RGB")` does; 16-bit greyscale is scaled down, where
    `convert` would clip it to white. Several threads may ask for the same image.

    Args:
        image: of any size and mode; or a tensor [3, H, W] or [1, H, W], uint8 or floats in [0, 1]
            (what diffusers calls "pt"), which are rounded to 8 bits.

    Raises:
        ValueError: it is neither, or nobody knows which of its numbers are white; says so.
        OSError: the image's file cannot be read.
    """
    from PIL import Image as pil

    if not isinstance(image, pil.Image):
        return _of_tensor(image)
    with _FILES:
        image.load()
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn:
        # ImageOps.exif_transpose would also write the other tags anew, of which any may be broken.
        image = image.transpose(pil.Transpose[turn])
        for key in _ORIENTED:
            image.info.pop(key, None)
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if image.mode == "F":
        raise ValueError("an image of floats, whose range is not known; convert it to 8 bits")
    if image.mode == "P":
        # The same colours, without the warning that Pillow gives where a palette has transparency.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image) -> Image:
    import numpy as np
    from PIL import Image as pil

    levels = np.asarray(image).astype(np.int64)
    largest = int(levels.max(initial=0))
    if levels.min(initial=0) < 0 or largest > 0xFFFF:
        raise ValueError(
            "an image of 32-bit integers, whose range is not known; convert it to 8 bits"
        )
    # Mode I holds what a file says, which is 16 bits where it is more than 8.
    wide = image.mode != "I" or largest > 0xFF
    return pil.fromarray((levels >> 8 if wide else levels).astype(np.uint8))


def _of_tensor(pixels: Tensor) -> Image:
    import torch
    from PIL import Image as pil

    if not isinstance(pixels, torch.Tensor):
        raise ValueError(f"neither a PIL image nor a tensor but {type(pixels).__name__}")
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or not pixels.numel():
        raise ValueError(f"a tensor of shape {tuple(pixels.shape)} instead of [3, height, width]")
    if pixels.is_floating_point():
        low, high = pixels.min().item(), pixels.max().item()
        # Written so that NaN fails too.
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a tensor with values from {low:.4g} to {high:.4g}, not in [0, 1]")
        pixels = (pixels.float() * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise ValueError(f"a tensor of {pixels.dtype}: give uint8, or floats in [0, 1]")
    array = pixels.detach().expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy()
    return pil.fromarray(array)


def png(image: Image) -> bytes:
    """The image as PNG: no pixel is lost, and the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def fit(image: Image, resolution: int, place: tuple[float, float] = CENTER) -> Image:
    """Scale the shorter side to `resolution` and cut out a square, as training scripts do.

    Args:
        image: of any size.
        resolution: height and width of the result.
        place: how far right and down the square lies, as shares of the way it can be moved.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if image.size == (resolution, resolution):
        return image
    return ImageOps.fit(
        image, (resolution, resolution), method=pil.Resampling.BICUBIC, centering=place
    )
