"""describe: what one cell's images of one prompt set look like, by their pixels.

Reads the samplings of all image seeds. Leaves `facts.parquet` (prompt: the row, image_seed, and a
column a fact of `bench.scoring.image_facts`) and `diversity.parquet` (prompt, diversity; empty with
one image seed). Its key hashes the samplings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.lib import images as image_files
from bench.lib.prefetch import ahead
from bench.lib.turns import chunks_of, turns
from bench.scoring import image_facts
from bench.scoring.chunks import DECODE_AHEAD, keep_chunk, kept_chunk
from bench.stages.sample import SampleStage, image_in
from bench.stages.stage import Made, Stage
from bench.stages.tables import read_columns, write_columns

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial

FACTS = "facts.parquet"
DIVERSITY = "diversity.parquet"
CHUNK = 64
"""Prompts whose images are described between two saves."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DescribeStage(Stage):
    """What the images of each prompt look like; units: images."""

    name: ClassVar[str] = "describe"
    version: ClassVar[int] = 1

    samples: tuple[SampleStage, ...]
    """Of one cell and prompt set, by ascending image seed."""

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return self.samples

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {"samples": [stage.key for stage in self.samples]}

    @property
    def units(self) -> int:  # noqa: D102
        return sum(stage.units for stage in self.samples)

    @property
    def seconds_per_load(self) -> float:
        """Decoding an image and counting its levels: 0.02 s at 512 x 512 pixels."""
        resolution = self.samples[0].backbone.resolution
        return 0.001 + 0.02 * (resolution / 512) ** 2

    @property
    def memory_remedy(self) -> str:  # noqa: D102
        return "out of memory; free some: a few hundred images are held at a time"

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        world, seeds = context.world, [stage.image_seed for stage in self.samples]
        prompts = self.samples[0].units
        chunks = chunks_of(prompts, CHUNK)
        files = {chunk: partial.work / f"facts-{chunk.start:07d}.npy" for chunk in chunks}
        shape = (len(seeds) * len(image_facts.FACTS) + 1,)
        with world.all_or_none():
            mine = turns(chunks, world)
            missing = [
                chunk for chunk, _ in mine if kept_chunk(files[chunk], (len(chunk), *shape)) is None
            ]
            stream = self._images(context, [row for chunk in missing for row in chunk])
            for chunk, done in mine:
                if chunk in missing:
                    rows = [_described([next(stream) for _ in seeds]) for _ in chunk]
                    keep_chunk(files[chunk], np.stack(rows))
                # The other processes are at their chunk of the same turn.
                task.advance(done * len(seeds))
        if world.is_main:
            parts = (kept_chunk(files[chunk], (len(chunk), *shape)) for chunk in chunks)
            self._write(partial.out, np.concatenate([part for part in parts if part is not None]))
        return Made(info={"images": prompts * len(seeds)})

    def _images(self, context: Context, rows: list[int]) -> Iterator[Image]:
        """All images of one prompt, by image seed, then those of the next."""
        folders = [context.folder(stage) for stage in self.samples]
        files = (image_in(folder, row) for row in rows for folder in folders)
        return ahead(lambda file: image_files.decode(file.read_bytes()), files, DECODE_AHEAD)

    def _write(self, folder: Path, table: np.ndarray) -> None:
        """Leave what `_described` gave, a row a prompt."""
        seeds = [stage.image_seed for stage in self.samples]
        prompts = np.arange(len(table))
        facts = table[:, :-1].reshape(-1, len(image_facts.FACTS))
        columns = {
            "prompt": np.repeat(prompts, len(seeds)),
            "image_seed": np.tile(seeds, len(table)),
        }
        columns |= {fact: facts[:, i] for i, fact in enumerate(image_facts.FACTS)}
        write_columns(folder / FACTS, columns)
        several = slice(None) if len(seeds) > 1 else slice(0)
        spread = {"prompt": prompts[several], "diversity": table[several, -1]}
        write_columns(folder / DIVERSITY, spread)


def _described(images: list[Image]) -> np.ndarray:
    """float64 [images * facts + 1]: the facts of each image of a prompt, then their diversity."""
    facts = [image_facts.facts(image) for image in images]
    diversity = image_facts.diversity(images) if len(images) > 1 else 0.0
    return np.array([*np.concatenate(facts), diversity])


def read_facts(folder: Path) -> dict[str, np.ndarray]:
    """Fact -> float64 [images] that a finished stage left: all seeds of prompt 0, then 1, ..."""
    columns = read_columns(folder / FACTS, *image_facts.FACTS)
    return dict(zip(image_facts.FACTS, columns, strict=True))


def read_diversity(folder: Path) -> np.ndarray:
    """float64 [prompts] that a finished stage left; [0] with one image seed."""
    (diversity,) = read_columns(folder / DIVERSITY, "diversity")
    return diversity
