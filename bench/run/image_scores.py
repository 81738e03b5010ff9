"""Scoring images that are there already: each scorer's scores become an artefact of the store."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.api.contracts import asking
from bench.api.kinds import LoadedScorer, Scorer
from bench.lib.distributed import World
from bench.lib.errors import BenchError, DamagedArtefactError, StoreError
from bench.lib.files import content_key, write_atomic
from bench.lib.io_errors import is_full
from bench.lib.progress import Progress, Task
from bench.registry.registry import Registry
from bench.run.making import Maker
from bench.scoring import truncation
from bench.scoring.chunks import SCORING_REMEDY, score_in_chunks
from bench.scoring.identity import identify
from bench.scoring.image_set import ImageSet
from bench.scoring.isolation.scorer import load
from bench.store.store import Artefact, Partial, Store

VERSION = 1
"""Raise it when this code changes the scores that it writes."""
_STAGE, _FILE = "image-scores", "scores.npy"


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """All images by one scorer."""

    key: str
    spec: str
    """The scorer's spec, which is its name in tables."""
    scorer: Scorer

    @property
    def name(self) -> str:
        """The artefact's folder in the store."""
        return _STAGE

    @property
    def label(self) -> str:
        """For people."""
        return f"score with {self.spec}"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One scorer's scores of an image set."""

    values: np.ndarray
    """float64 [N], in the order of the images."""
    info: Mapping[str, Any]
    """For `truncation.warning`."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of each scorer, by spec."""

    scored: Mapping[str, Scored]
    failures: Mapping[str, str]
    """Why a scorer has no scores."""


def score_all(
    images: ImageSet,
    scorers: Mapping[str, Scorer],
    registry: Registry,
    store: Store,
    device: Callable[[], str],
    progress: Progress,
    world: World,
) -> Outcome:
    """Score all images by every scorer that has not scored them before.

    What is finished, or half finished, is known by content: the images' bytes, the prompts, and
    all that can change the scorer's results. A scorer that fails leaves the others alone.

    Args:
        images: what is scored.
        scorers: spec -> scorer.
        registry: describes the scorers.
        store: holds what is finished.
        device: says what to work on; asked only if there is work.
        progress: told what is going on.
        world: the processes that share the work.

    Raises:
        BenchError: an image cannot be read or decoded; `--device` is none.
    """
    found = identify(images, store.root, progress, world)
    jobs, failures = [], {}
    for spec, scorer in scorers.items():
        data = {
            "stage": _STAGE,
            "version": VERSION,
            "images": found,
            "prompts": list(images.prompts),
        }
        try:
            key = content_key(data | {"scorer": registry.key_data(scorer)})
            jobs.append(ScoreJob(key=key, spec=spec, scorer=scorer))
        except BenchError as error:
            failures[spec] = f"score with {spec}: {error}"
    finished = world.broadcast({job.key for job in jobs if world.is_main and _is_in(store, job)})
    if world.is_main:
        store.sweep(finished)
    maker = None
    for job in jobs:
        if job.key in finished:
            continue
        if maker is None:
            maker = Maker(store=store, device=device(), progress=progress, world=world)
            progress.say(f"Running on {maker.device}.")
        try:
            maker.make(job, images.__len__, _Work(images, job, maker.device, world))
        except (OSError, StoreError):
            raise
        except Exception as error:
            if is_full(error):
                raise
            failures[job.spec] = maker.failed(job, error, SCORING_REMEDY)
    scored = {job.spec: _read(store, job) for job in jobs if job.spec not in failures}
    return Outcome(scored=scored, failures=failures)


@dataclass(frozen=True)
class _Work:
    images: ImageSet
    job: ScoreJob
    device: str
    world: World

    def __call__(self, partial: Partial, task: Task) -> tuple[dict[str, Any], int]:
        prompts = self.images.prompts
        scores = score_in_chunks(
            truncation.noting(self._load, self.job.scorer, prompts, partial.work),
            self.job.spec,
            self.images.decoded,
            prompts,
            partial.work,
            task.advance,
            self.world,
            self.images.names.__getitem__,
        )
        if self.world.is_main:
            buffer = io.BytesIO()
            np.save(buffer, scores, allow_pickle=False)
            write_atomic(partial.out / _FILE, buffer.getvalue())
        return {"images": len(scores), **truncation.noted(partial.work)}, 0

    def _load(self) -> LoadedScorer:
        with asking(self.job.scorer):
            return load(self.job.scorer, self.device)


def _is_in(store: Store, job: ScoreJob) -> bool:
    try:
        return store.find(job.name, job.key) is not None
    except DamagedArtefactError:
        # Whoever makes it says so and makes it again.
        return False


def _read(store: Store, job: ScoreJob) -> Scored:
    artefact = Artefact(store.path(job.name, job.key))
    values: np.ndarray = np.load(artefact.path / _FILE, allow_pickle=False)
    return Scored(values=values, info=artefact.info)
