"""Timing two functions in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(
    name_a: str, a: Callable[[], object], name_b: str, b: Callable[[], object], rounds: int = 5
) -> float:
    """Run both in turns after a warm-up, print medians and return the ratio a / b."""
    seconds: dict[str, list[float]] = {name_a: [], name_b: []}
    for turn in range(rounds + 1):
        for name, function in ((name_a, a), (name_b, b)):
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        low, high = min(seconds[name]), max(seconds[name])
        print(f"{name:<32} {median:8.3f} s  [{low:.3f}, {high:.3f}]")
    ratio = medians[name_a] / medians[name_b]
    print(f"ratio {name_a} / {name_b}: {ratio:.2f}")
    return ratio
