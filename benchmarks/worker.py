"""What a worker costs: constant scores for images, in this process and in a worker, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from bench import Scorer
from bench.scoring.isolation.scorer import load_in_worker

ROUNDS = 31
BATCHES = ((8, 512), (64, 512), (8, 1024))


@dataclass(frozen=True, kw_only=True)
class Constant(Scorer):
    """Every image is as good as the other, without looking at it."""

    name: ClassVar[str] = "constant"

    def load(self, device: str) -> Constant:
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        return np.ones(len(images))


def main() -> None:
    # From its module, not from the script: a worker cannot import what stands in `__main__`.
    from worker import Constant

    start = time.perf_counter()
    scorers = {"here": Constant(), "in a worker": load_in_worker(Constant(), "cpu")}
    print(f"starting the worker {1000 * (time.perf_counter() - start):8.1f} ms")
    rng = np.random.default_rng(0)
    for count, side in BATCHES:
        noise = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        images, prompts = [Image.fromarray(pixels) for pixels in noise], ["a prompt"] * count
        seconds: dict[str, list[float]] = {name: [] for name in scorers}
        for turn in range(ROUNDS + 1):
            for name, scorer in scorers.items():
                start = time.perf_counter()
                scorer.score(images, prompts)
                if turn:
                    seconds[name].append(1000 * (time.perf_counter() - start))
        for name, taken in seconds.items():
            median = statistics.median(taken)
            print(
                f"{count:3} images of {side}x{side} {name:<12} {median:8.2f} ms  "
                f"[{min(taken):.2f}, {max(taken):.2f}]"
            )


if __name__ == "__main__":
    main()
