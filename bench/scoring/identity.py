"""What images are, byte for byte, and whether all of them can be decoded, before any is scored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.lib import checksums
from bench.lib import images as image_files
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.files import content_key, write_atomic
from bench.lib.prefetch import ahead
from bench.lib.progress import Progress
from bench.lib.turns import chunks_of, turns
from bench.scoring.chunks import CHUNK
from bench.scoring.image_set import ImageSet, listed

_THREADS = min(8, os.cpu_count() or 1)


def identify(images: ImageSet, store: Path, progress: Progress, world: World) -> str:
    """The sha256 of all images in order, once each has been decoded.

    Reads every image once. The result is noted in the store: as long as no file is written
    to, later calls read none.

    Raises:
        BenchError: an image cannot be read or decoded; names all such images.
    """
    note = store / "images" / f"{content_key({'state': images.state()})}.json"
    known = world.broadcast(checksums.read_note(note, "sha256", str) if world.is_main else None)
    if known is None:
        with progress.task("check images", len(images)) as task:
            known = _read(images, world, task.advance)
        if world.is_main:
            # A store that may only be read is as good, but slower.
            with suppress(OSError):
                note.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(note, checksums.seal({"sha256": known}))
    return known


def _read(images: ImageSet, world: World, advance: Callable[[int], None]) -> str:
    mine: dict[int, tuple[str, str]] = {}
    with world.all_or_none():
        chunks = turns(chunks_of(len(images), CHUNK), world)
        wanted = [i for chunk, _ in chunks for i in chunk]
        looked = ahead(_look, images.encoded(wanted), 2 * _THREADS, _THREADS)
        for chunk, done in chunks:
            mine.update(zip(chunk, looked, strict=False))
            advance(done)
    everyone = {i: result for part in world.gather(mine) for i, result in part.items()}
    broken = [
        f"{images.names[i]} ({problem})" for i, (_, problem) in sorted(everyone.items()) if problem
    ]
    if broken:
        raise BenchError(
            f"{images.source}: {len(broken):,} of {len(images):,} images cannot be decoded: "
            f"{listed(broken)}; replace them, nothing was scored"
        )
    digests = "".join(digest for _, (digest, _) in sorted(everyone.items()))
    return hashlib.sha256(digests.encode()).hexdigest()


def _look(data: bytes) -> tuple[str, str]:
    """The image's sha256, and what is wrong with it or ""."""
    if not data:
        return "", "it is empty"
    try:
        image_files.decode(data)
    except ValueError as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), ""
