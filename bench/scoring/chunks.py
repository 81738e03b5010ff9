"""Scoring images in chunks that an interrupted run goes on from."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.api import contracts
from bench.api.kinds import LoadedScorer
from bench.lib import checksums
from bench.lib.distributed import ALONE, World
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.turns import chunks_of, turns

if TYPE_CHECKING:
    from PIL.Image import Image

SCORING_REMEDY = "out of memory; free some, or choose a half-precision dtype or another --device"
"""What to change where a scorer ran out of memory."""
CHUNK = 64
"""Images scored between two saves."""
DECODE_AHEAD = 64
"""Images decoded beside the scorer that will rate them."""


def score_in_chunks(
    scorer: Callable[[], LoadedScorer],
    name: str,
    images: Callable[[Sequence[int]], Iterable[Image]],
    prompts: Sequence[str],
    work: Path,
    advance: Callable[[int], None],
    world: World = ALONE,
    called: Callable[[int], str] = "image {}".format,
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
        called: what the image at a position is called in messages.

    Returns:
        float64 [N].

    Raises:
        BenchError: the scorer gave a wrong shape or a number that is not finite.
    """
    chunks = chunks_of(len(prompts), CHUNK)
    files = {chunk: work / f"scores-{chunk.start:07d}.npy" for chunk in chunks}
    with world.all_or_none():
        mine = turns(chunks, world)
        missing = [chunk for chunk, _ in mine if kept_chunk(files[chunk], (len(chunk),)) is None]
        stream = images([i for chunk in missing for i in chunk])
        parts: Iterator[np.ndarray] = iter(())
        if missing:
            checked = contracts.CheckedScorer(name, scorer())
            parts = rated(checked, name, stream, prompts, missing, called)
        for chunk, done in mine:
            if chunk in missing:
                keep_chunk(files[chunk], next(parts))
            # The other processes are at their chunk of the same turn.
            advance(done)
    scores = [kept_chunk(files[chunk], (len(chunk),)) for chunk in chunks]
    return np.concatenate([np.zeros(0), *(part for part in scores if part is not None)])


def rated(
    scorer: LoadedScorer,
    name: str,
    images: Iterable[Image],
    prompts: Sequence[str],
    chunks: Iterable[range],
    called: Callable[[int], str] = "image {}".format,
) -> Iterator[np.ndarray]:
    """The scores of one chunk after the other, float64 [len(chunk)].

    Args:
        scorer: rates a chunk.
        name: its name, for messages.
        images: those of the chunks' positions, in order.
        prompts: one a position.
        chunks: ascending.
        called: what the image at a position is called in messages.

    Raises:
        BenchError: the scorer gave a wrong shape or a number that is not finite.
    """
    stream = iter(images)
    for chunk in chunks:
        batch = list(islice(stream, len(chunk)))
        scores = scorer.score(batch, [prompts[i] for i in chunk])
        # Not held while the images of the next chunk are collected.
        del batch
        part = contracts.checked_scores(name, scores, len(chunk))
        if not np.isfinite(part).all():
            bad = chunk[int(np.flatnonzero(~np.isfinite(part))[0])]
            raise BenchError(f"scorer {name!r} gave no finite score for {called(bad)}")
        yield part


def keep_chunk(file: Path, part: np.ndarray) -> None:
    """Save what a chunk gave, so that an interrupted run need not make it again."""
    buffer = io.BytesIO()
    np.save(buffer, part, allow_pickle=False)
    write_atomic(file, checksums.add_checksum(buffer.getvalue()))


def kept_chunk(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """What was saved of a chunk; None if it is absent or damaged, so that it is made again."""
    try:
        part: np.ndarray = np.load(io.BytesIO(checksums.read_checked(file)), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == shape else None
