"""The adapter that loads a scorer plugin in a worker of the same Python."""

from __future__ import annotations

import base64
import pickle

from bench.api.kinds import LoadedScorer, Scorer


def load(device: str, scorer: str) -> LoadedScorer:
    """The loaded plugin, from its pickle in base64."""
    plugin: Scorer = pickle.loads(base64.b64decode(scorer))
    return plugin.load(device)
