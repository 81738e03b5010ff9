"""Scoring images in chunks that an interrupted run goes on from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError
from bench.protocols import LoadedScorer
from bench.store import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 64
"""Images scored between two saves."""


def score_in_chunks(
    scorer: LoadedScorer,
    name: str,
    image: Callable[[int], Image],
    prompts: Sequence[str],
    work: Path,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Score image i under prompt i, for all i.

    Args:
        scorer: rates a batch.
        name: the scorer's name, for messages.
        image: gives image i; called once for each that was not scored before.
        prompts: one a position.
        work: finished chunks are kept here.
        advance: called with the number of images of each finished chunk.

    Returns:
        float64 [N].

    Raises:
        BenchError: the scorer gave a wrong shape or a number that is not finite.
    """
    parts = []
    for start in range(0, len(prompts), CHUNK):
        rows = range(start, min(start + CHUNK, len(prompts)))
        file = work / f"scores-{start:07d}.npy"
        part = _read(file, len(rows))
        if part is None:
            batch = [image(i) for i in rows]
            part = np.asarray(scorer.score(batch, [prompts[i] for i in rows]), dtype=np.float64)
            if part.shape != (len(rows),):
                raise BenchError(
                    f"scorer {name!r} gave shape {part.shape} for {len(rows)} images, "
                    f"expected ({len(rows)},)"
                )
            if not np.isfinite(part).all():
                bad = rows[int(np.flatnonzero(~np.isfinite(part))[0])]
                raise BenchError(f"scorer {name!r} gave no finite score for image {bad}")
            buffer = io.BytesIO()
            np.save(buffer, part, allow_pickle=False)
            write_atomic(file, buffer.getvalue())
        parts.append(part)
        advance(len(rows))
    return np.concatenate(parts)


def _read(file: Path, rows: int) -> np.ndarray | None:
    """A finished chunk; None if it is absent or damaged, so that it is scored again."""
    try:
        part: np.ndarray = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == (rows,) else None
