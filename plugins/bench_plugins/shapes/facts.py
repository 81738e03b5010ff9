"""Figures of the finished shapes world: how good the base is, how far scorers disagree."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench_plugins.shapes import files, learned, population
from bench_plugins.shapes.files import Report
from bench_plugins.shapes.pairs import PAIRS_FILE
from bench_plugins.shapes.train_scorers import PairData, PreferenceConfig, accuracy, read_pairs

FloatArray = NDArray[np.float64]

LEARNED = (learned.ENCODER, learned.AESTHETIC, learned.PREFERENCE)


def build_facts(assets: Path, report: Report) -> None:
    """Measure the world and write `assets/facts.json`; a minute."""
    target = assets / "facts.json"
    inputs = [assets / PAIRS_FILE, *(assets / "scorers" / f"{n}.safetensors" for n in LEARNED)]
    of = {p.name: files.hash_of(p) for p in inputs} | {"population": population.fingerprint()}
    if target.exists() and files.read_json(target).get("of") == of:
        report("facts: there already")
        return
    facts = world_facts(read_pairs(assets / PAIRS_FILE), assets / "scorers")
    files.write_json(target, {**facts, "of": of})
    report(f"facts: {json.dumps(facts)}")


def world_facts(data: PairData, weights: Path) -> dict[str, Any]:
    """The figures, all over the pictures of the pairs.

    Accuracies are the share of one person's choices that a scorer foretells, on the pairs that
    the preference model was not fitted to; agreements the share of pairs of which two scorers
    prefer the same picture.
    """
    images = [Image.fromarray(p) for p in data.pictures.reshape(-1, *data.pictures.shape[2:])]
    prompts = [c for c in data.captions for _ in (0, 1)]
    measured = np.stack([population.measures(i, p) for i, p in zip(images, prompts, strict=True)])
    scores = {n: learned.LearnedScorer(weights, n, "cpu").score(images, prompts) for n in LEARNED}
    scores["gold"] = population.gold_of(measured)
    margins = {name: s.reshape(-1, 2)[:, 0] - s.reshape(-1, 2)[:, 1] for name, s in scores.items()}
    unseen = slice(-round(PreferenceConfig().test_share * len(data.labels)), None)
    return {
        "pairs": len(data.labels),
        "ties": _rounded(np.mean(data.labels == 0.5)),
        "attributes_right": _rounded(measured[:, 0].mean()),
        "measures": {
            name: {"mean": _rounded(values.mean()), "std": _rounded(values.std())}
            for name, values in zip(population.MEASURES, measured.T, strict=True)
        },
        "choices_foretold": {
            name: _rounded(accuracy(margin[unseen], data.labels[unseen]))
            for name, margin in margins.items()
        },
        "agreement": {
            f"{a} / {b}": _rounded(np.mean((margins[a] > 0) == (margins[b] > 0)))
            for a, b in itertools.combinations(margins, 2)
        },
    }


def _rounded(value: Any) -> float:
    return round(float(value), 3)
