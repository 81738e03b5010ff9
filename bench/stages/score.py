"""score: what one scorer says of all images of a sampling, or of images that are there already.

Leaves `scores.parquet` (prompt: the row, score). Its key hashes the scorer, and the sampling or the
images with their prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api.kinds import Scorer
from bench.lib import images as image_files
from bench.lib.files import content_key
from bench.lib.prefetch import ahead
from bench.scoring import truncation
from bench.scoring.chunks import DECODE_AHEAD, score_in_chunks
from bench.stages.sample import SampleStage
from bench.stages.stage import Made, Stage
from bench.stages.tables import read_columns, write_columns

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.lib.progress import Task
    from bench.scoring.image_set import ImageSet
    from bench.stages.context import Context
    from bench.store.store import Partial

FILE = "scores.parquet"


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """Images that are there already."""

    sha256: str
    """Of all of them, in order: `bench.scoring.identity.identify`."""
    images: ImageSet


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStage(Stage):
    """One scorer's scores of image i under prompt i; units: images."""

    name: ClassVar[str] = "score"
    version: ClassVar[int] = 1

    images: SampleStage | FoundImages
    prompts: tuple[str, ...]
    prompts_name: str
    scorer: Scorer
    spec: str
    """The scorer's name in tables."""

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.images,) if isinstance(self.images, SampleStage) else ()

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        if isinstance(self.images, SampleStage):
            return {"images": self.images.key}
        return {"images": self.images.sha256, "prompts": content_key({"texts": self.prompts})}

    @property
    def units(self) -> int:  # noqa: D102
        return len(self.prompts)

    @property
    def seconds_per_load(self) -> float:  # noqa: D102
        return self.scorer.seconds_per_image

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        images, called = self._images(context)
        scores = score_in_chunks(
            truncation.noting(
                lambda: context.scorer(self.scorer), self.scorer, self.prompts, partial.work
            ),
            self.spec,
            images,
            self.prompts,
            partial.work,
            task.advance,
            context.world,
            called,
        )
        if context.world.is_main:
            columns = {"prompt": np.arange(len(scores)), "score": scores}
            write_columns(partial.out / FILE, columns)
        return Made(info={"images": len(scores), **truncation.noted(partial.work)})

    def notice(self, info: Mapping[str, Any], folder: Path) -> str:
        """Prompts that the scorer cuts; of images that were found, who asked reports them."""
        if isinstance(self.images, FoundImages):
            return ""
        warning = truncation.warning(f"{self.prompts_name}: {self.scorer.name}", info)
        return warning and f"warning: {warning}"

    def _images(
        self, context: Context
    ) -> tuple[Callable[[Sequence[int]], Iterable[Image]], Callable[[int], str]]:
        """What gives the images at ascending positions, and what they are called."""
        if isinstance(self.images, SampleStage):
            folder = context.folder(self.images) / "images"
            return bound(_decoded, folder), "image {}".format
        return self.images.images.decoded, self.images.images.names.__getitem__


def _decoded(folder: Path, positions: Sequence[int]) -> Iterator[Image]:
    files = (folder / f"{i:05d}.png" for i in positions)
    return ahead(lambda file: image_files.decode(file.read_bytes()), files, DECODE_AHEAD)


def read_scores(folder: Path) -> np.ndarray:
    """float64 [N]: the scores that a finished stage left, in the order of its images."""
    (scores,) = read_columns(folder / FILE, "score")
    return scores
