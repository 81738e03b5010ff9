"""Scoring images in chunks that an interrupted run goes on from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.distributed import ALONE, World
from bench.errors import BenchError
from bench.protocols import LoadedScorer
from bench.store import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 64
"""Images scored between two saves."""


def score_in_chunks(
    scorer: Callable[[], LoadedScorer],
    name: str,
    images: Callable[[Sequence[int]], Iterable[Image]],
    prompts: Sequence[str],
    work: Path,
    advance: Callable[[int], None],
    world: World = ALONE,
) -> np.ndarray:
    """Score image i under prompt i, for all i.

    The images of the next chunk are made while the scorer rates one.

    Args:
        scorer: loads what rates a batch; called only if there is something to score.
        name: the scorer's name, for messages.
        images: gives the images at ascending positions, in order; called once.
        prompts: one a position.
        work: finished chunks are kept here.
        advance: called with the number of images of each finished chunk.
        world: the processes that share the chunks; each gets the same result.

    Returns:
        float64 [N].

    Raises:
        BenchError: the scorer gave a wrong shape or a number that is not finite.
    """
    chunks = [range(i, min(i + CHUNK, len(prompts))) for i in range(0, len(prompts), CHUNK)]
    files = {chunk: work / f"scores-{chunk.start:07d}.npy" for chunk in chunks}
    with world.together():
        mine = world.share(chunks)
        missing = {chunk for chunk in mine if _read(files[chunk], len(chunk)) is None}
        wanted = [i for chunk in mine if chunk in missing for i in chunk]
        stream = iter(images(wanted))
        loaded = scorer() if missing else None
        for turn, chunk in enumerate(mine):
            if loaded and chunk in missing:
                batch = list(islice(stream, len(chunk)))
                part = np.asarray(loaded.score(batch, [prompts[i] for i in chunk]), dtype=float)
                # Not held while the images of the next chunk are collected.
                del batch
                _check(part, chunk, name)
                buffer = io.BytesIO()
                np.save(buffer, part, allow_pickle=False)
                write_atomic(files[chunk], buffer.getvalue())
            # The other processes are at their chunk of the same turn.
            advance(sum(map(len, chunks[turn * world.size : (turn + 1) * world.size])))
    parts = [_read(files[chunk], len(chunk)) for chunk in chunks]
    return np.concatenate([np.zeros(0), *(part for part in parts if part is not None)])


def _check(part: np.ndarray, chunk: range, name: str) -> None:
    if part.shape != (len(chunk),):
        raise BenchError(
            f"scorer {name!r} gave shape {part.shape} for {len(chunk)} images, "
            f"expected ({len(chunk)},)"
        )
    if not np.isfinite(part).all():
        bad = chunk[int(np.flatnonzero(~np.isfinite(part))[0])]
        raise BenchError(f"scorer {name!r} gave no finite score for image {bad}")


def _read(file: Path, rows: int) -> np.ndarray | None:
    """A finished chunk; None if it is absent or damaged, so that it is scored again."""
    try:
        part: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == (rows,) else None
