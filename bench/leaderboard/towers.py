"""Which scorers stand on one pretrained network, so that they are no independent judges."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from bench.leaderboard.protocol import flat

_DIGEST = 16
"""A word of a fingerprint shorter than this says too little to be the name of a file's bytes."""


def shared_towers(
    described: Mapping[str, Mapping[str, Any]], declared: Mapping[str, str]
) -> dict[frozenset[str], str]:
    """The pairs of scorers that share a network, as far as is known.

    Two share one where both declare the same `Scorer.tower`. Results that do not say what was
    declared show at least where one scorer's weights are among the other's: all words of its
    fingerprint, one a file, are words of the other's.

    Args:
        described: scorer -> the scorer, described (`EvaluationProtocol.scorers`).
        declared: scorer -> its tower; "" or no entry: not known.

    Returns:
        Pair of scorers -> the network, in words. A pair that is missing may still share one.
    """
    weights = {name: _weights(scorer) for name, scorer in described.items()}
    shared = {}
    for pair in combinations(sorted(described), 2):
        towers = {declared.get(name, "") for name in pair}
        contained = [
            name
            for name, other in (pair, pair[::-1])
            if weights[name] and weights[name] <= weights[other]
        ]
        if len(towers) == 1 and "" not in towers:
            shared[frozenset(pair)] = towers.pop()
        elif contained:
            shared[frozenset(pair)] = f"the weights of {contained[0]}"
    return shared


def _weights(described: Mapping[str, Any]) -> frozenset[str]:
    """What identifies the files of a scorer and of the plugins that its options hold."""
    facts = flat(described).items()
    texts = [str(value) for key, value in facts if key.rpartition(".")[2] == "fingerprint"]
    words = {word for text in texts for word in text.split()}
    return frozenset(words) if all(len(word) >= _DIGEST for word in words) else frozenset()
