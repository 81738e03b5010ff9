"""Reading images that people made: bytes of any kind to plain RGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

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


def upright_rgb(image: Image) -> Image:
    """The image turned as its EXIF data says, as 8-bit RGB.

    Transparency is dropped, as `convert("RGB")` does; 16-bit greyscale is scaled down, where
    `convert` would clip it to white.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        import numpy as np

        image = pil.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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
