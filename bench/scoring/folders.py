"""Folders of images that are named by the rows of their prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TypeAlias

from bench.api.kinds import Prompt
from bench.lib.errors import BenchError
from bench.scoring.image_set import ImageSet, listed

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
STYLE = "style"
"""The group of prompts that HPSv2's layout has a folder each for."""

_NUMBERED = re.compile(r"(\d+)(?:[_-](\d+))?")
_REMEDY = (
    "name images by the row of their prompt, from 0 (00000.png; 00000_0.png, 00000_1.png for "
    "several a prompt), or list them in a .csv with the columns image and prompt"
)

Place: TypeAlias = tuple[str, int, int]
"""Style ("" where folders do not count), row of the prompt in it, number of the image."""


def open_folder(folder: Path, prompts: Sequence[Prompt]) -> ImageSet:
    """The images of a folder, in the order of their prompts.

    Args:
        folder: holds 00000.png or 00000_1.jpg for row 0; or, as HPSv2's benchmark, a folder for
            each of the prompts' styles, with rows counted from 0 in each.
        prompts: what they show.

    Raises:
        BenchError: names are unclear; an image is missing, or shows none of the prompts.
    """
    styles = {prompt.groups[STYLE] for prompt in prompts if STYLE in prompt.groups}
    by_style = any(path.name in styles for path in _visible(folder) if path.is_dir())
    if by_style:
        _refuse_mixed(folder, styles, prompts)
        images = {path: place.name for place in _visible(folder) for path in _images(place)}
    else:
        images = dict.fromkeys(_images(folder), "")
    rows: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        rows.setdefault(prompt.groups[STYLE] if by_style else "", []).append(position)
    files = _places(folder, images)
    numbers = sorted({number for _, _, number in files}) or [0]
    wanted = {
        (style, row, number): position
        for style, positions in rows.items()
        for row, position in enumerate(positions)
        for number in numbers
    }
    if wanted.keys() != files.keys():
        raise BenchError(_unmatched(folder, wanted, files, rows))
    order = sorted(wanted, key=lambda place: (wanted[place], place))
    shown = [prompts[wanted[place]] for place in order]
    return ImageSet(
        source=folder,
        names=[files[place].relative_to(folder).as_posix() for place in order],
        prompts=[prompt.text for prompt in shown],
        groups=[prompt.groups for prompt in shown],
        files=[files[place] for place in order],
        by_style=by_style and len(numbers) == 1,
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.suffix.lower() in SUFFIXES and p.is_file()]


def _refuse_mixed(folder: Path, styles: Set[str], prompts: Sequence[Prompt]) -> None:
    """A folder a style holds nothing else that counts, and every prompt has a style."""
    foreign = [path.name for path in _visible(folder) if path.is_dir() and path.name not in styles]
    foreign += [path.name for path in _images(folder)]
    if foreign:
        raise BenchError(
            f"{folder}: not the folder of a style: {listed(foreign)}; the prompts' styles are "
            f"{', '.join(sorted(styles))}"
        )
    without = [repr(prompt.text) for prompt in prompts if STYLE not in prompt.groups]
    if without:
        raise BenchError(
            f"{folder}: holds a folder a style, but {_count(len(without), 'prompt')} of no style "
            f"({listed(without)}); give each its style"
        )


def _places(folder: Path, images: Mapping[Path, str]) -> dict[Place, Path]:
    """What the names of images, with their styles, say."""
    files: dict[Place, Path] = {}
    unclear = []
    for path, style in images.items():
        numbers = _NUMBERED.fullmatch(path.stem)
        if numbers is None:
            unclear.append(path.relative_to(folder).as_posix())
            continue
        place = style, int(numbers[1]), int(numbers[2] or 0)
        if place in files:
            raise BenchError(
                f"{folder}: {files[place].name} and {path.name} are named alike, so it is not "
                f"clear which one counts; {_REMEDY}"
            )
        files[place] = path
    if unclear:
        raise BenchError(
            f"{folder}: {_count(len(unclear), 'name')} without a prompt's row: {listed(unclear)}; "
            f"{_REMEDY}"
        )
    return files


def _unmatched(
    folder: Path,
    wanted: Mapping[Place, int],
    files: Mapping[Place, Path],
    rows: Mapping[str, Sequence[int]],
) -> str:
    if not files:
        inside = [path.name for path in _visible(folder) if path.is_dir() and _images(path)]
        hint = ""
        if inside:
            hint = f"; it has folders of images ({listed(inside)}), but the prompts have no such "
            hint += "styles"
        return f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))}){hint}"
    missing = [place for place in wanted if place not in files]
    extra = [place for place in files if place not in wanted]
    several = any(number for *_, number in files)
    parts = []
    if missing:
        names = [_name(place, several) for place in missing]
        parts.append(f"{_count(len(missing), 'image')} missing ({listed(names)})")
    if extra:
        names = [files[place].relative_to(folder).as_posix() for place in extra]
        parts.append(f"{_count(len(extra), 'image')} without a prompt ({listed(names)})")
    remedy = (
        "to score another choice of images than one of each prompt, list them in a .csv with the "
        "columns image and prompt"
    )
    from_one = {row for _, row, _ in missing} == {0}
    if from_one and all(row == len(rows[style]) for style, row, _ in extra) and extra:
        remedy = "names count from 1, but the first prompt's row is 0: rename them"
    return f"{folder}, {sum(map(len, rows.values())):,} prompts: {', '.join(parts)}; {remedy}"


def _name(place: Place, several: bool) -> str:
    style, row, number = place
    return (f"{style}/" if style else "") + f"{row:05d}" + (f"_{number}" if several else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
