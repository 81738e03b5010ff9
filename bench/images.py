"""Reading images that people made: bytes of any kind to plain RGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CENTER = (0.5, 0.5)
_ORIENTATION = 0x0112
"""The EXIF tag that says how the image is to be turned."""


def decode(data: bytes) -> Image:
    """An upright RGB image from encoded bytes.

    Raises:
        ValueError: the bytes are no image or end too early; says what is wrong.
    """
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    try:
        with pil.open(io.BytesIO(data)) as image:
            image.load()
            return upright_rgb(image)
    except UnidentifiedImageError as error:
        # Its own message names an address in memory, another one in every run.
        raise ValueError("cannot identify image file") from error
    except (OSError, SyntaxError, RuntimeError, pil.DecompressionBombError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def upright_rgb(image: Image | Tensor) -> Image:
    """The image turned as its EXIF data says, as 8-bit RGB.

    Transparency is dropped, as `convert("RGB")` does; 16-bit greyscale is scaled down, where
    `convert` would clip it to white.

    Args:
        image: of any size and mode; or a tensor [3, H, W] or [1, H, W], uint8 or floats in [0, 1]
            (what diffusers calls "pt"), which are rounded to 8 bits.

    Raises:
        ValueError: it is neither; says what is wrong.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if not isinstance(image, pil.Image):
        return _of_tensor(image)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        import numpy as np

        image = pil.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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
