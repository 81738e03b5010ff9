"""What is compared: what a user names becomes images with their prompts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.api import contracts
from bench.leaderboard.names import shortened
from bench.leaderboard.opening import Opened, cells_of, find_folder, open_folder
from bench.leaderboard.results import CellResult
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.wording import listed, quoted
from bench.recipe.prompt_table import PromptTable
from bench.registry.registry import Registry, spec_text
from bench.registry.spec_language import Spec
from bench.running.plan import Cell
from bench.scoring import manifests
from bench.scoring.folders import SUFFIXES
from bench.scoring.image_set import ImageSet
from bench.scoring.sources import open_images

_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
_CHECKPOINT = ("model_index.json", "config.json", "adapter_config.json", "unet")
"""Any of these makes a folder a checkpoint."""
_PRETRAINED = "pretrained"
"""The method that evaluates a checkpoint as it is."""
_SEED = re.compile(r"(?P<method>.*?)(?:\[(?:seed=)?(?P<seed>\d+)\])?", re.DOTALL)


class Kind(StrEnum):
    """Where images come from."""

    IMAGES = "images"
    """They lie in a folder, or a file lists them."""
    ROW = "row"
    """Of a run or board: their scores are in a result file."""
    CHECKPOINT = "checkpoint"
    """They are sampled by a plan without training."""


Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one prompt set."""

    prompt_set: str
    """'' where a file lists images with their prompts."""
    texts: tuple[str, ...]
    groups: tuple[Mapping[str, str], ...]
    seeds: tuple[int, ...]
    """One image a prompt and each of these."""
    noise_known: bool
    """Whether they are image seeds, which two may have in common; else numbers in file names."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of what is compared: N prompts, the same number of images for each."""

    name: str
    """What tables call it."""
    given: str
    """As the user named it."""
    kind: Kind
    parts: tuple[Part, ...]
    images: ImageSet | None = None
    """Of `Kind.IMAGES`."""
    order: Integers = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """[prompts, images of a prompt] of `Kind.IMAGES`: position in `images`."""
    row: CellResult | None = None
    """Of `Kind.ROW`."""
    cell: Cell | None = None
    """Of `Kind.CHECKPOINT`, once it is planned."""
    in_loop: tuple[str, ...] = ()
    """Scorers whose rewards its training is known to have read."""
    held_out: tuple[str, ...] = ()
    """Scorers that its run declared held out."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How its images were sampled (backbone, sampling), as far as it is known."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What `identify` makes of a name before anything is read."""

    text: str
    kind: Kind
    path: Path | None = None
    """Of images, or of a run's folder."""
    row: str = ""
    """Of a run: the method, '' for all."""
    spec: str = ""
    """Of a checkpoint: the method that gives the model."""


def identify(text: str, registry: Registry, roots: Sequence[Path]) -> Given:
    """What a name stands for: images, a run (or one of its rows), or a checkpoint.

    Raises:
        BenchError: there is nothing of the name, or it is a method that would have to be trained.
    """
    run, _, row = _split_row(text, roots)
    if run is not None:
        return Given(text=text, kind=Kind.ROW, path=run, row=row)
    known = {entry.cls.name for entry in registry.entries("methods")}
    if re.split(r"[\[:]", text, maxsplit=1)[0] in known:
        method = registry.build("methods", text)
        if contracts.trainable(method):
            raise BenchError(
                f"{text}: is a method that is trained; train it with `bench run` and name the row "
                f"of its run, e.g. bench-runs/shapes:{method.name}"
            )
        return Given(text=text, kind=Kind.CHECKPOINT, spec=spec_text(method))
    path = Path(text).expanduser()
    if _is_checkpoint(path):
        weights = registry.build("methods", Spec(_PRETRAINED, {"weights": str(path)}))
        return Given(text=text, kind=Kind.CHECKPOINT, spec=spec_text(weights))
    if path.exists():
        return Given(text=text, kind=Kind.IMAGES, path=path)
    near = sorted(place.parent.name for root in roots for place in root.glob("*/results"))
    remedy = (
        "name a folder of images, RUN, RUN:method, or a published checkpoint such as "
        "pretrained:OWNER/NAME"
    )
    if near:
        raise BenchError(f"{UnknownNameError('thing to compare', text, near)} Else {remedy}")
    raise BenchError(f"there is no {quoted(text)}; {remedy}")


def _split_row(text: str, roots: Sequence[Path]) -> tuple[Path | None, str, str]:
    """The folder of a run that a text begins with, and the row that it names."""
    whole = find_folder(text, roots)
    if whole is not None:
        return whole, text, ""
    for mark in re.finditer(":", text):
        name, row = text[: mark.start()], text[mark.end() :]
        folder = find_folder(name, roots)
        if folder is not None:
            if not row:
                raise BenchError(f"{text}: names no method behind the colon; give one, or no colon")
            return folder, name, row
    return None, "", ""


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is or holds weights; images in a folder make it a folder of images."""
    if not path.is_dir():
        return path.suffix in _WEIGHTS and path.is_file()
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if any(entry.suffix.lower() in SUFFIXES for entry in entries):
        return False
    return any(entry.name in _CHECKPOINT or entry.suffix in _WEIGHTS for entry in entries)


def of_images(given: Given, table: PromptTable | None, load: Any) -> Subject:
    """The images of a folder or of a file that lists them.

    Args:
        given: a folder, or a list.
        table: the prompts of --prompts.
        load: reads these prompts as a prompt set's; None where there are none.

    Raises:
        BenchError: as `open_images`, or a list gives prompts different numbers of images.
    """
    path = given.path
    assert path is not None
    lists = path.suffix.lower() in manifests.SUFFIXES
    images = open_images(path, None if lists else load)
    if lists or table is None:
        part, order = _listed(images, given.text)
    else:
        numbers = len(images) // len(table.texts)
        part = Part(
            prompt_set=table.name,
            texts=table.texts,
            groups=table.groups,
            seeds=tuple(range(numbers)),
            noise_known=False,
        )
        order = np.arange(len(images), dtype=np.int64).reshape(len(table.texts), numbers)
    name = path.resolve().name
    return Subject(
        name=name, given=given.text, kind=Kind.IMAGES, parts=(part,), images=images, order=order
    )


def _listed(images: ImageSet, given: str) -> tuple[Part, Integers]:
    """The images of a list by prompt: several lines of one prompt are its several images."""
    rows: dict[str, list[int]] = {}
    for position, text in enumerate(images.prompts):
        rows.setdefault(text, []).append(position)
    counts = Counter(map(len, rows.values()))
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [f"{len(at)} of {quoted(text)}" for text, at in rows.items() if len(at) != usual]
        raise BenchError(
            f"{given}: lists {usual} images of most prompts, but {listed(odd, 3)}; list as many of "
            f"each"
        )
    (number,) = counts
    first = [at[0] for at in rows.values()]
    part = Part(
        prompt_set="",
        texts=tuple(rows),
        groups=tuple(images.groups[i] for i in first),
        seeds=tuple(range(number)),
        noise_known=False,
    )
    return part, np.array([*rows.values()], dtype=np.int64)


def of_run(given: Given) -> list[Subject]:
    """The rows of a run or board: one a method and train seed, the base first.

    Raises:
        BenchError: a file is not valid, the method or seed is unknown, or nothing has finished.
    """
    opened = open_folder(str(given.path))
    cells = _cells(opened, given)
    short = shortened(cell.method for cell in opened.cells.values())
    often = Counter((cell.method, cell.variant) for cell in cells)
    specs = Counter(method for method, _ in often)
    subjects = []
    for cell in cells:
        name = short[cell.method]
        name += f" #{cell.variant[:8]}" if specs[cell.method] > 1 else ""
        name += f", seed {cell.seed}" if often[cell.method, cell.variant] > 1 else ""
        subjects.append(
            Subject(
                name=name,
                given=given.text,
                kind=Kind.ROW,
                parts=tuple(_parts(cell, opened)),
                row=cell,
                in_loop=cell.in_loop,
                held_out=cell.held_out,
                made={
                    "backbone": cell.evaluation.backbone,
                    "sampling": cell.evaluation.sampling,
                },
            )
        )
    return subjects


def _cells(opened: Opened, given: Given) -> list[CellResult]:
    """Those that a row names, or all of the folder."""
    if not given.row:
        done = [cell for cell in opened.cells.values() if isinstance(cell, CellResult)]
        if not done:
            raise BenchError(f"{opened.folder}: no cell has finished; run its `bench run` again")
        return sorted(done, key=lambda cell: (not cell.base, cell.method, cell.variant, cell.seed))
    try:
        return cells_of(opened.cells, given.row, opened.folder)
    except UnknownNameError:
        match = _SEED.fullmatch(given.row)
        if match is None or match["seed"] is None:
            raise
    cells = cells_of(opened.cells, match["method"], opened.folder)
    chosen = [cell for cell in cells if cell.seed == int(match["seed"])]
    if not chosen:
        seeds = ", ".join(str(cell.seed) for cell in cells)
        raise BenchError(
            f"{given.text}: {match['method']} has no finished cell of train seed {match['seed']}; "
            f"it has {seeds}"
        )
    return chosen


def _parts(cell: CellResult, opened: Opened) -> Iterator[Part]:
    for part in sorted(cell.evaluations, key=lambda part: part.prompt_set):
        table = opened.prompts.get(part.prompts_sha256)
        if table is None or len(table.texts) != part.prompts:
            raise BenchError(
                f"{opened.folder}: no file in prompts/ holds the {part.prompts} prompts of "
                f"{part.prompt_set!r} with hash {part.prompts_sha256[:12]}"
            )
        yield Part(
            prompt_set=part.prompt_set,
            texts=table.texts,
            groups=table.groups,
            seeds=part.image_seeds,
            noise_known=True,
        )


def of_checkpoint(given: Given, cell: Cell, tables: Sequence[PromptTable], made: Any) -> Subject:
    """A checkpoint whose sampling is planned."""
    seeds = tuple(sorted({seed for _, seed in cell.samples}))
    parts = tuple(
        Part(
            prompt_set=table.name,
            texts=table.texts,
            groups=table.groups,
            seeds=seeds,
            noise_known=True,
        )
        for table in tables
    )
    (name,) = shortened([given.spec]).values()
    return Subject(
        name=name,
        given=given.text,
        kind=Kind.CHECKPOINT,
        parts=parts,
        cell=cell,
        in_loop=cell.in_loop,
        made=made,
    )


def distinctly_named(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects under names that no two share: the source is added where it is needed.

    Raises:
        BenchError: one is given twice.
    """
    named = list(subjects)
    for longer in (_with_source, lambda subject: f"{subject.given}: {subject.name}"):
        often = Counter(subject.name for subject in named)
        named = [replace(s, name=longer(s)) if often[s.name] > 1 else s for s in named]
    often = Counter(subject.name for subject in named)
    twice = [subject.given for subject in named if often[subject.name] > 1]
    if twice:
        raise BenchError(f"{twice[0]} is named twice; compare it with something else")
    return named


def _with_source(subject: Subject) -> str:
    if subject.kind is Kind.ROW:
        return f"{Path(subject.given.partition(':')[0]).name}:{subject.name}"
    if subject.images is not None:
        return "/".join(subject.images.source.resolve().parts[-2:])
    return subject.given
