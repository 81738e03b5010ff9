"""Forming preference pairs from scored images of the same prompt.

An aggregation compares every two images of a prompt. Their mean chances of being preferred rank
them (Borda's rule), the form says which of them are paired by rank, and each pair is labelled by
the comparison of its own two images, so that a pair says what the aggregation says of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import contracts
from bench.api.kinds import Aggregation, PairRewards, PreferenceImage, PreferencePair
from bench.lib.seeding import derive_seed
from bench.preferences.writing import PairWriter
from bench.registry.registry import OWN_PACKAGE, spec_text

FILE = "pairs.parquet"


def write(
    path: Path,
    *,
    prompts: Sequence[str],
    image: Callable[[int, int], bytes],
    models: Sequence[str],
    seeds: Sequence[int],
    rewards: Mapping[str, np.ndarray],
    label_with: Aggregation,
    form: str,
    advance: Callable[[int], None],
    sampling: Mapping[str, Any],
) -> dict[str, int]:
    """Pair the images of each prompt and write them in the schema of Pick-a-Pic v2.

    A pair that ties, or that the aggregation drops, gets the label 0.5. Models, seeds and rewards
    of the images stand beside them.

    Args:
        path: the .parquet file; the same arguments give the same bytes.
        prompts: P distinct prompts.
        image: the encoded image i of a prompt, called with (prompt's number, i).
        models: who drew image i, for I images, at least two.
        seeds: of the noise of image i.
        rewards: scorer -> float64 [P, I].
        label_with: compares two images by their rewards.
        form: "best-worst", "adjacent" or "all"; see `paired`.
        advance: called with 1 after each prompt.
        sampling: how the images were drawn, for the file's provenance.

    Returns:
        Counts of `prompts`, `images` (made, not all of them are paired), `pairs`, and `ties` among
        the pairs.
    """
    chances = compare(prompts, rewards, label_with)
    provenance = {
        "made_by": "bench data generate",
        "version": version(OWN_PACKAGE),
        "prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps([*prompts]).encode()).hexdigest(),
        "models": [*models],
        "sampling": dict(sampling),
        "scorers": sorted(rewards),
        "label_with": spec_text(label_with),
        "form": form,
    }
    ties = 0
    with PairWriter(path, provenance, rewards, seeds=True) as writer:
        for row, prompt in enumerate(prompts):
            pairs = [seated(prompt, *two) for two in paired(rank(prompt, chances[row]), form)]
            drawn = {
                i: PreferenceImage(
                    data=image(row, i),
                    model=models[i],
                    seed=seeds[i],
                    scores={name: float(values[row, i]) for name, values in rewards.items()},
                )
                for i in {i for two in pairs for i in two}
            }
            for first, second in pairs:
                label = 0.5 * (1 + float(np.sign(chances[row, first, second] - 0.5)))
                ties += label == 0.5
                images = drawn[first], drawn[second]
                writer.add(
                    PreferencePair(row=writer.count, caption=prompt, images=images, human=label)
                )
            advance(1)
        count = writer.count
    images_made = len(prompts) * len(models)
    return {"prompts": len(prompts), "images": images_made, "pairs": count, "ties": ties}


def seated(prompt: str, one: int, other: int) -> tuple[int, int]:
    """Two images of a prompt in the order that they are shown, drawn from prompt and numbers.

    So that being image 0 says nothing about which image, or which model's, it is.
    """
    low, high = sorted((one, other))
    swapped = derive_seed("generated pair", prompt, low, high) % 2
    return (high, low) if swapped else (low, high)


def compare(
    prompts: Sequence[str], rewards: Mapping[str, np.ndarray], label_with: Aggregation
) -> np.ndarray:
    """Compare every two images of each prompt.

    All pairs of the data set are labelled in one call, each image as often as any other, so that
    normalisation over the data set is normalisation over the images.

    Args:
        prompts: P distinct prompts.
        rewards: scorer -> float64 [P, I].
        label_with: decides; the human label that it sees is always a tie.

    Returns:
        float64 [P, I, I]: the chance that image i is preferred to image j of the same prompt; 0.5
        where they tie, where the aggregation drops the pair, and where i is j.
    """
    count = next(iter(rewards.values())).shape[1]
    shown = [
        (row, *seated(prompt, *pair))
        for row, prompt in enumerate(prompts)
        for pair in combinations(range(count), 2)
    ]
    row, first, second = np.array(shown).T
    oriented = {name: np.stack([r[row, first], r[row, second]], 1) for name, r in rewards.items()}
    unlabelled = PairRewards(human=np.full(len(row), 0.5), rewards=oriented)
    labels = contracts.labels_of(label_with, unlabelled, 0)
    p = np.where(labels.kept, labels.p, 0.5)
    chances = np.full((len(prompts), count, count), 0.5)
    chances[row, first, second] = p
    chances[row, second, first] = 1 - p
    return chances


def rank(prompt: str, chances: np.ndarray) -> list[int]:
    """The images of a prompt, best first, by their mean chance of being preferred.

    Args:
        prompt: draws the order of images that stand equal.
        chances: float64 [I, I], as `compare` gives them.
    """
    standing = chances.mean(axis=1)
    # Sums of the same chances in another order differ in their last bits.
    return sorted(
        range(len(chances)),
        key=lambda i: (-round(standing[i], 12), derive_seed("generated rank", prompt, i)),
    )


def paired(ranking: Sequence[int], form: str) -> list[tuple[int, int]]:
    """The images of a ranking that are paired, the better-ranked first.

    Args:
        ranking: best first, at least two.
        form: "best-worst", "adjacent" (neighbours in rank) or "all".
    """
    match form:
        case "best-worst":
            return [(ranking[0], ranking[-1])]
        case "adjacent":
            return list(pairwise(ranking))
        case "all":
            return list(combinations(ranking, 2))
    raise ValueError(form)
