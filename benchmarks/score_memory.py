"""Memory of `bench score` over 3,200 images of mixed size, as many as HPSv2's benchmark has.

Writes 40 JPEG and PNG files of 64 to 512 pixels a side, and names for 3,200 images that link to
them, into a temporary folder; then scores them with the learned scorers of the shapes world. After
every 400 images it prints the process's resident memory, and its peak since the line before. The
folder is removed.

    python benchmarks/score_memory.py [--images 3200] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from streaming import resident_mb

from bench.api.kinds import Prompt
from bench.cli.frame import Frame
from bench.cli.score import score_all
from bench.lib.cost_meter import Meter
from bench.lib.distributed import ALONE
from bench.lib.progress import Progress, Task
from bench.registry.registry import default_registry
from bench.scoring.sources import open_images

FILES, SMALLEST, LARGEST, EVERY = 40, 64, 512, 400
SCORERS = ("shapes_clip", "shapes_aesthetic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3200)
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    options = parser.parse_args()
    registry = default_registry()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = Path(folder) / "images"
        write(images, options.images)
        prompts = [Prompt(f"a red circle, number {i}", {}) for i in range(options.images)]
        frame = Frame(folder=Path(folder) / "store", asked_device="cpu", world=ALONE)
        frame.progress = Watched(Console())
        scorers = {name: registry.build("scorers", name) for name in SCORERS}
        outcome = score_all(frame, open_images(images, lambda: prompts), scorers, registry)
    assert all(len(scored.values) == options.images for scored in outcome.scored.values())


def write(folder: Path, count: int) -> None:
    """Images with fine structure; every file is linked to by many names."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        name = folder / f"{number:05d}.{('jpg', 'png')[number % 2]}"
        if number >= FILES:
            os.link(folder / f"{number % FILES:05d}{name.suffix}", name)
            continue
        width, height = rng.integers(SMALLEST, LARGEST + 1, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        noisy = smooth + rng.normal(0, 14, (height, width, 1))
        buffer = io.BytesIO()
        form = "JPEG" if name.suffix == ".jpg" else "PNG"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, form)
        name.write_bytes(buffer.getvalue())


class Watched(Progress):
    """Prints memory where others print how much is left."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        self.say(f"{label}: {resident_mb():.0f} MB before")
        yield Watching(self)


class Watching:
    def __init__(self, progress: Progress) -> None:
        self.progress, self.done, self.told, self.meter = progress, 0, 0, Meter("cpu")

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        if self.done // EVERY > self.told // EVERY:
            self.told = self.done
            peak, seconds = self.meter.peak_memory_mb, self.meter.seconds
            self.progress.say(
                f"  {self.done:5} images  {resident_mb():5.0f} MB, peak {peak:5.0f} MB, "
                f"{seconds:5.1f} s"
            )
            self.meter = Meter("cpu")


if __name__ == "__main__":
    main()
