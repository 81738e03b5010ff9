"""Pictures of the gallery: small WebP files, beside the page or within it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.lib import images
from bench.report.gallery import Gallery, Picture, wanted
from bench.stages.sample import image_in
from bench.store.store import Store

SIDE, SIDE_WITHIN = 448, 256
"""Longest side in pixels, of files beside the page and of pictures within it."""
SHARP = 128
"""Up to this side a picture is kept to the last pixel."""
MOST, MOST_WITHIN = 2_500, 500
"""Pictures of a page; where there are more, those of the prompts that are most worth a look."""
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the gallery of a section has of pictures."""

    urls: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Item and method -> address within or beside the page."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Name within the page's folder of pictures -> WebP."""
    said: str = ""
    """What is not there and why, in a sentence; '' where nothing is missing."""


def prompts_shown(shown: Gallery, within: bool) -> int:
    """How many prompts have pictures at most."""
    return max(1, (MOST_WITHIN if within else MOST) // max(1, len(shown.names)))


def collect(
    shown: Gallery, chosen: Sequence[int], store: Store, folder: str, section: str, *, within: bool
) -> Pictures:
    """Read and shrink the pictures of some items.

    Args:
        shown: the gallery.
        chosen: items, see `bench.report.gallery.choose`.
        store: holds what was sampled.
        folder: of the pictures, as the page's addresses begin.
        section: begins the names of files.
        within: whether pictures stand in the page itself, and no file is made.
    """
    some = list(wanted(shown, chosen))
    side = SIDE_WITHIN if within else SIDE
    # Pillow lets go of the interpreter while it codes.
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda each: _thumbnail(store, each[2], side), some))
    urls: dict[tuple[int, int], str] = {}
    files: dict[str, bytes] = {}
    for (item, method, _), data in zip(some, made, strict=True):
        if data is None:
            continue
        if within:
            urls[item, method] = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
        else:
            name = f"{section}-{item:05d}-{method:02d}.webp"
            files[name] = data
            urls[item, method] = f"{folder}/{name}"
    return Pictures(urls=urls, files=files, said=_said(shown, chosen, some, len(urls)))


def _thumbnail(store: Store, picture: Picture, side: int) -> bytes | None:
    """None where there is no picture that can be read."""
    if not picture.sample:
        return None
    path = image_in(store.path("sample", picture.sample), picture.row)
    try:
        image = images.decode(path.read_bytes())
    except (OSError, ValueError):
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, lossless=max(image.size) <= SHARP)
    return buffer.getvalue()


def _said(
    shown: Gallery,
    chosen: Sequence[int],
    some: Sequence[tuple[int, int, Picture]],
    found: int,
) -> str:
    sentences = []
    known = sum(1 for *_, picture in some if picture.sample)
    if not known:
        return "The results do not say where their pictures are, so none are shown."
    if found < len(some):
        # Without the store's path, which says more of a machine than a page should.
        sentences.append(
            f"{len(some) - found:,} of {len(some):,} pictures are not in the store; "
            f"`bench report --store STORE` names another."
        )
    if len(chosen) < len(shown.items):
        sentences.append(
            f"Pictures of {len(chosen):,} of {len(shown.items):,} prompts: those that are most "
            f"won, lost and disputed, and an even spread; scores of all."
        )
    return " ".join(sentences)
