"""The official code and ours, side by side on the same made up weights, images and prompts.

Build the two environments of the official packages (see docs/scorers.md), then

    python -m tests.reward_models.parity --hpsv2 ENV/bin/python --image-reward ENV/bin/python
    python -m tests.reward_models.parity --hpsv2 ... --image-reward ... --full
    python -m tests.reward_models.parity --hpsv2 ... --image-reward ... --write

compares at reduced width, at full size (12 GB of memory, 8 GB of disk, some minutes), or writes
the golden files that the test suite compares with. `clip-h14` needs no environment of its own and
no golden file, since its official code is open_clip, which this process has: it is always compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from tests.reward_models import cases, material

ENVIRONMENT = {
    "hpsv2": "hpsv2",
    "image_reward": "image_reward",
    "pickscore": "image_reward",
    "clip-l14": "image_reward",
    "aesthetic": "image_reward",
}
"""Scorer -> the environment that holds its official code: image-reward pulls in clip and
transformers 4, which PickScore's published code was written for."""

OWN = "clip-h14"
"""The scorer whose official code this process has."""


class Official:
    """The official code of a scorer, in a process of another environment."""

    def __init__(
        self, python: str, scorer: str, request: Mapping[str, Any], folder: Path, threads: int = 0
    ) -> None:
        """Load it; `versions` and `load_seconds` are known then."""
        question = folder / "request.json"
        question.write_text(json.dumps({**request, "threads": threads}), encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.errors = (folder / "errors.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [python, str(cases.HERE / "official.py"), scorer, str(question)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        told = self._answer()
        self.versions: dict[str, str] = told["versions"]
        self.load_seconds: float = told["seconds"]

    def rate(self, image: Path, prompt: str) -> tuple[float, float]:
        """Score and seconds of one pair."""
        assert self.process.stdin
        print(json.dumps({"image": str(image), "prompt": prompt}), file=self.process.stdin)
        self.process.stdin.flush()
        told = self._answer()
        return told["score"], told["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"the official code failed:\n{self.errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def difference(scorer: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, in the terms of `cases.TOLERANCE`."""
    apart = np.abs(ours - theirs)
    if scorer == "pickscore":
        apart = apart / np.maximum(np.abs(theirs), 1)
    return float(apart.max())


def official_scores(
    python: str, scorer: str, request: Mapping[str, Any], folder: Path
) -> tuple[list[float], dict[str, str]]:
    """Of all pairs, and the versions of the packages that gave them."""
    official = Official(python, scorer, request, folder)
    scores = []
    for name, image, prompt in material.pairs():
        path = folder / f"{name}.png"
        image.save(path)
        scores.append(official.rate(path, prompt)[0])
    official.close()
    return scores, official.versions


def open_clips_scores(weights: str, architecture: str) -> list[float]:
    """Of all pairs, by open_clip itself."""
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture, pretrained=weights, precision="fp32"
    )
    model.eval()
    read = open_clip.get_tokenizer(architecture)
    scores = []
    with torch.no_grad():
        for _, image, prompt in material.pairs():
            seen = model.encode_image(preprocess(image)[None], normalize=True)
            told = model.encode_text(read([prompt]), normalize=True)
            scores.append((seen @ told.T).item())
    return scores


def compare(python: str | None, scorer: str, *, full: bool, write: bool) -> bool:
    """Print the difference; whether it is within the bar. `python` is None for OWN alone."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        case = cases.make(scorer, folder, full=full)
        if python:
            scores, versions = official_scores(python, scorer, case.request, folder)
        else:
            scores, versions = (
                open_clips_scores(case.request["openai"], case.scorer.architecture),
                {},
            )
        images, prompts = zip(*((i, p) for _, i, p in material.pairs()), strict=True)
        ours = case.scorer.load("cpu").score(images, prompts)
    theirs = np.array(scores)
    apart = difference(scorer, ours, theirs)
    spread = theirs.max() - theirs.min()
    print(
        f"{scorer:<13} largest difference {apart:.1e} (bar {cases.TOLERANCE[scorer]:.0e}), "
        f"official scores from {theirs.min():.4f} to {theirs.max():.4f}, spread {spread:.4f}",
        flush=True,
    )
    if write and python:
        record = {
            "versions": versions,
            "weights_sha256": case.sha256,
            "scores": scores,
        }
        path = cases.GOLDEN / f"{scorer}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return apart <= cases.TOLERANCE[scorer]


def main() -> None:
    """Compare all scorers, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hpsv2", help="python of the environment of hpsv2")
    parser.add_argument("--image-reward", help="python of the environment of image-reward")
    parser.add_argument("--full", action="store_true", help="the real architectures")
    parser.add_argument("--write", action="store_true", help="write the golden files")
    parser.add_argument("scorers", nargs="*", help="default: all")
    given = parser.parse_args()
    if given.full and given.write:
        parser.error("golden files are written at reduced width")
    passed = []
    for scorer in given.scorers or (*ENVIRONMENT, OWN):
        python = None if scorer == OWN else getattr(given, ENVIRONMENT[scorer])
        if python or scorer == OWN:
            passed.append(compare(python, scorer, full=given.full, write=given.write))
        else:
            print(f"{scorer:<13} not compared: no environment was given")
    if not passed or not all(passed):
        raise SystemExit("not all within their bars" if passed else "nothing was compared")


if __name__ == "__main__":
    main()
