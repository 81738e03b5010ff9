"""Prompts that are longer than a scorer can read: counted when it is loaded, told to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.api.contracts import asking
from bench.api.kinds import LoadedScorer, Scorer
from bench.lib import checksums
from bench.lib.files import write_atomic

CUT, DISTINCT = "prompts_cut", "distinct_prompts"
_NOTE = "truncation.json"


def count(scorer: LoadedScorer, prompts: Sequence[str]) -> dict[str, int]:
    """How many distinct prompts there are, and how many of them the scorer cuts.

    Args:
        scorer: may have a method `truncated(prompts)` that gives the positions of those it cuts.
        prompts: as they are scored; repeats count once.
    """
    texts = list(dict.fromkeys(prompts))
    truncated = getattr(scorer, "truncated", None)
    return {CUT: len(truncated(texts)) if truncated else 0, DISTINCT: len(texts)}


def noting(
    load: Callable[[], LoadedScorer], scorer: Scorer, prompts: Sequence[str], work: Path
) -> Callable[[], LoadedScorer]:
    """`load`, which also leaves in `work` what `count` says of the scorer, for `noted`."""

    def loaded() -> LoadedScorer:
        ready = load()
        note = work / _NOTE
        if not noted(work):
            with asking(scorer):
                counts = count(ready, prompts)
            write_atomic(note, checksums.seal(counts))
        return ready

    return loaded


def noted(work: Path) -> dict[str, int]:
    """What `noting` left: a part of the artefact's info."""
    try:
        return checksums.read(work / _NOTE)
    except (OSError, ValueError):
        return {}


def warning(scorer: str, info: Mapping[str, Any]) -> str:
    """One sentence where the artefact's info says that prompts were cut, else ""."""
    cut, distinct = info.get(CUT, 0), info.get(DISTINCT, 0)
    if not cut:
        return ""
    return (
        f"{scorer} reads only the beginning of {cut:,} of {distinct:,} distinct prompts: their "
        f"ends are beyond its limit"
    )
