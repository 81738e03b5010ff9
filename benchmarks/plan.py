"""How long a plan of many methods takes: `python benchmarks/plan.py [COUNT]`.

Runs `bench run --dry-run` on variants of dpo, as a user would, and then the parts of it in this
process: a plan is made anew at every start, of a run that resumes as well.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    methods = ",".join(f"dpo[beta={1000 + i}]" for i in range(count))
    with TemporaryDirectory() as store:
        command = ["run", "--methods", methods, "--dry-run", "--store", store]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "bench", *command], check=True, stdout=subprocess.DEVNULL
        )
        print(f"bench run --dry-run, {count} methods: {time.perf_counter() - start:.2f} s")
        _parts(methods, Path(store))


def _parts(methods: str, folder: Path) -> None:
    from bench.recipe.recipe import load
    from bench.registry.registry import default_registry
    from bench.running import planning
    from bench.running.estimates import estimate
    from bench.running.walk import status
    from bench.store.store import Store

    start = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal start
        print(f"  {what:<12} {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()

    registry = default_registry()
    lap("discovery")
    recipe = load(registry, "shapes", {"methods": methods})
    lap("recipe")
    plan = planning.make(recipe, registry, download=False)
    lap("plan")
    store = Store(folder)
    finished = status(plan.stages, store).finished
    lap("status")
    estimate(plan, store, finished).table()
    lap("estimate")


if __name__ == "__main__":
    main()
