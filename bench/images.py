"""Reading images that people made: bytes of any kind to plain RGB."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.protocols import PreferencePairs

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(data: bytes) -> Image:
    """An upright RGB image from encoded bytes.

    Raises:
        ValueError: the bytes are no image or end too early; says what is wrong.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    try:
        with pil.open(io.BytesIO(data)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except (OSError, SyntaxError, pil.DecompressionBombError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def fit(image: Image, resolution: int) -> Image:
    """Scale the shorter side to `resolution` and cut out the centre, as training scripts do."""
    from PIL import Image as pil
    from PIL import ImageOps

    if image.size == (resolution, resolution):
        return image
    return ImageOps.fit(image, (resolution, resolution), method=pil.Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """A pair that cannot be used, and why."""

    row: int
    """Position in the preference set, from 0."""
    reason: str


def broken_rows(pairs: PreferencePairs, max_share: float) -> tuple[BrokenRow, ...]:
    """Every pair with an image that cannot be decoded.

    Raises:
        BenchError: more than `max_share` of the pairs are broken.
    """
    broken = []
    for row, images in enumerate(zip(pairs.images_0, pairs.images_1, strict=True)):
        for column, data in zip(("jpg_0", "jpg_1"), images, strict=True):
            try:
                decode(data)
            except ValueError as error:
                broken.append(BrokenRow(row=row, reason=f"{column}: {error}"))
                break
    if len(broken) > max_share * len(pairs.captions):
        raise BenchError(
            f"{pairs.source}: {len(broken)} of {len(pairs.captions)} pairs have an image that "
            f"cannot be decoded, more than the {max_share:.1%} that max_broken_share allows; "
            f"{describe(broken)}"
        )
    return tuple(broken)


def describe(broken: Sequence[BrokenRow], most: int = 3) -> str:
    """The first few broken rows in words."""
    shown = "; ".join(f"row {b.row} ({b.reason})" for b in broken[:most])
    more = f"; and {len(broken) - most} more" if len(broken) > most else ""
    return shown + more
