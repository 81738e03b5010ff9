"""HPSv2 and ImageReward at full size on this CPU: the published packages, and this project.

Both score the same 32 pairs of a 512x512 image and a prompt, in turns of eight, on made up
weights. The packages run in environments of their own (docs/scorers.md says how to build them):

    python -m benchmarks.scorers --hpsv2 ENV/bin/python --image-reward ENV/bin/python

Each needs about 10 GB of memory and 4 GB of disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tests.reward_models import cases, material
from tests.reward_models.parity import ENVIRONMENT, Official, difference

PAIRS, TURN, THREADS = 32, 8, 2
SUBJECTS = ("a red fox in the snow", "an old harbour at dusk", "two astronauts playing chess")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hpsv2", help="python of the environment of hpsv2")
    parser.add_argument("--image-reward", help="python of the environment of image-reward")
    parser.add_argument("--dtype", default="fp32", help="precision of this project's scorer")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    for scorer in ("hpsv2", "image_reward"):
        python = getattr(given, ENVIRONMENT[scorer])
        if python:
            with tempfile.TemporaryDirectory() as place:
                measure(scorer, python, Path(place), given.dtype)


def measure(scorer: str, python: str, folder: Path, dtype: str) -> None:
    case = cases.make(scorer, folder, full=True)
    images = [material.picture(f"{scorer}-{i}", 512, 512) for i in range(PAIRS)]
    paths = [folder / f"{i}.png" for i in range(PAIRS)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    prompts = [f"{SUBJECTS[i % 3]}, highly detailed, number {i}" for i in range(PAIRS)]

    official = Official(python, scorer, case.request, folder, THREADS)
    started = time.perf_counter()
    model = dataclasses.replace(case.scorer, dtype=dtype).load("cpu")
    load_seconds = time.perf_counter() - started
    theirs, ours, their_seconds, our_seconds = [], [], [], []
    for at in range(0, PAIRS, TURN):
        turn = slice(at, at + TURN)
        started = time.perf_counter()
        ours += list(model.score(images[turn], prompts[turn]))
        our_seconds.append(time.perf_counter() - started)
        answers = [official.rate(p, t) for p, t in zip(paths[turn], prompts[turn], strict=True)]
        theirs += [score for score, _ in answers]
        their_seconds.append(sum(seconds for _, seconds in answers))
        print(
            f"{scorer}, pairs {at + 1} to {at + TURN}: official {their_seconds[-1] / TURN:.2f} s, "
            f"ours {our_seconds[-1] / TURN:.2f} s a pair",
            flush=True,
        )
    official.close()
    apart = difference(scorer, torch.tensor(ours).numpy(), torch.tensor(theirs).numpy())
    ratios = [a / b for a, b in zip(their_seconds, our_seconds, strict=True)]
    whole = (official.load_seconds + sum(their_seconds)) / (load_seconds + sum(our_seconds))
    print(
        f"{scorer}: loading takes {official.load_seconds:.1f} s (official, but hpsv2 loads in its "
        f"first call) and {load_seconds:.1f} s (ours); ratio official / ours a pair: median "
        f"{statistics.median(ratios):.2f}, least {min(ratios):.2f}; of all {PAIRS} pairs with "
        f"loading {whole:.2f}; scores differ by at most {apart:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
