"""The plan of `bench score`: one stage a scorer, over images that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.api.kinds import Scorer
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.progress import Progress
from bench.registry.registry import Registry
from bench.scoring.identity import identify
from bench.scoring.image_set import ImageSet
from bench.stages.score import FoundImages, ScoreStage, read_scores
from bench.store.store import Artefact, Store


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One scorer's scores of an image set."""

    values: np.ndarray
    """float64 [N], in the order of the images."""
    info: Mapping[str, Any]
    """For `bench.scoring.truncation.warning`."""


def plan(
    images: ImageSet,
    scorers: Mapping[str, Scorer],
    registry: Registry,
    store: Store,
    progress: Progress,
    world: World,
) -> tuple[dict[str, ScoreStage], dict[str, str]]:
    """Spec -> the stage that scores all images by a scorer; spec -> why there is none.

    What is finished, or half finished, is known by content: the images' bytes, the prompts, and
    all that can change the scorer's results.

    Raises:
        BenchError: an image cannot be read or decoded.
    """
    there = FoundImages(sha256=identify(images, store.root, progress, world), images=images)
    stages, failures = {}, {}
    for spec, scorer in scorers.items():
        label = f"score with {spec}"
        try:
            plugins = {"scorer": registry.key_data(scorer)}
        except BenchError as error:
            failures[spec] = f"{label}: {error}"
            continue
        stages[spec] = ScoreStage(
            label=label,
            plugins=plugins,
            images=there,
            prompts=tuple(images.prompts),
            prompts_name="",
            scorer=scorer,
            spec=spec,
        )
    return stages, failures


def read(stage: ScoreStage, store: Store) -> Scored:
    """What a finished stage left."""
    artefact = Artefact(store.path(stage.name, stage.key))
    return Scored(values=read_scores(artefact.path), info=artefact.info)
