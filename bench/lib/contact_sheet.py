"""Images of all methods side by side: the same prompts, the same noise, nothing picked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench.lib.errors import BenchError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

MIN_CELL = 128
"""Smallest side of an image on the sheet in pixels."""
MAX_CELL = 256
MARGIN = 8
CAPTION_WIDTH = 200
FONT_SIZE = 13
INK, FAINT, PAPER, EMPTY = "#1a1a1a", "#8a8a8a", "#ffffff", "#eeeeee"


def choose_prompts(n_total: int, n_rows: int) -> tuple[int, ...]:
    """Indices of prompts spread evenly over all, each the middle of its stretch.

    Args:
        n_total: Prompts there are.
        n_rows: Prompts wanted; all are taken where there are fewer.
    """
    rows = min(n_total, n_rows)
    return tuple((2 * row + 1) * n_total // (2 * rows) for row in range(rows))


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Path | None]]], columns: Sequence[str]
) -> Image.Image:
    """Draw prompts as rows and methods as columns.

    Args:
        rows: Each prompt with one image file a column; None draws a gap (the cell failed).
        columns: Headings, e.g. the methods' specs.

    Returns:
        An RGB image; small images are enlarged to at least 128 px, large ones reduced to 256.

    Raises:
        BenchError: There is nothing to draw, a row has too few or too many images, or an image
            cannot be read.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows or not columns:
        raise BenchError("a contact sheet needs at least one prompt and one column")
    for prompt, paths in rows:
        if len(paths) != len(columns):
            raise BenchError(
                f"{len(paths)} images for {len(columns)} columns under prompt {prompt!r}"
            )
    images = {path: _open(path) for _, paths in rows for path in paths if path is not None}
    side = max([MIN_CELL, *(max(image.size) for image in images.values())])
    side = min(side, MAX_CELL)
    font = ImageFont.load_default(FONT_SIZE)
    line = int(font.getbbox("Ag")[3]) + 4
    # Specs have no spaces: let them break before their options, and behind parts of paths.
    spaced = [re.sub(r"(?=\[)|(?<=[,/])", " ", column) for column in columns]
    headings = [_wrap(heading, font, side) for heading in spaced]
    head = max(map(len, headings)) * line + 2 * MARGIN
    captions = [_cut(_wrap(prompt, font, CAPTION_WIDTH), side // line) for prompt, _ in rows]
    left = CAPTION_WIDTH + 2 * MARGIN
    step = side + MARGIN
    sheet = Image.new("RGB", (left + len(columns) * step, head + len(rows) * step), PAPER)
    draw = ImageDraw.Draw(sheet)

    def write(x: int, y: int, lines: Sequence[str]) -> None:
        for number, text in enumerate(lines):
            draw.text((x, y + number * line), text, INK, font)

    for column, heading in enumerate(headings):
        write(left + column * step, MARGIN, heading)
    for row, (caption, (_, paths)) in enumerate(zip(captions, rows, strict=True)):
        top = head + row * step
        write(MARGIN, top, caption)
        for column, path in enumerate(paths):
            x = left + column * step
            if path is None:
                draw.rectangle((x, top, x + side - 1, top + side - 1), EMPTY)
                middle = (x + side // 2, top + side // 2)
                draw.text(middle, "no image", FAINT, font, anchor="mm")
            else:
                _paste(sheet, images[path], (x, top), side)
    return sheet


def _open(path: Path) -> Image.Image:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as exc:
        raise BenchError(f"{path}: cannot be read as an image ({exc})") from exc


def _paste(sheet: Image.Image, image: Image.Image, corner: tuple[int, int], side: int) -> None:
    """Scale to fit a square and centre; whole multiples keep the pixels that were made."""
    from PIL import Image

    longest = max(image.size)
    width, height = (max(1, length * side // longest) for length in image.size)
    method = Image.Resampling.LANCZOS if side % longest else Image.Resampling.NEAREST
    x, y = corner[0] + (side - width) // 2, corner[1] + (side - height) // 2
    sheet.paste(image.resize((width, height), method), (x, y))


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break into lines of at most `width` pixels, at spaces where possible."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _cut(lines: list[str], room: int) -> list[str]:
    """Leave out lines for which there is no room, and show it."""
    return lines if len(lines) <= room else [*lines[: room - 1], f"{lines[room - 1][:-3]}..."]
