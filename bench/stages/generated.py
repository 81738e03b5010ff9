"""Preference pairs that the run itself makes, before and after they are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.api.kinds import PreferenceSet
from bench.preferences.generating import FILE
from bench.stages.stage import Stage

if TYPE_CHECKING:
    from bench.stages.context import Context


@dataclass(frozen=True, kw_only=True)
class GeneratedPairs(PreferenceSet):
    """Stands for the artefact of a `PairsStage` until it is there."""

    name: ClassVar[str] = "generated"

    stage: Stage
    pair_count: int
    scorers: tuple[str, ...]
    """Those that decide."""
    reader: Callable[[Path], PreferenceSet]
    """The preference set in a file, by the plugin that reads it."""

    def fingerprint(self) -> str:
        """The key of the stage that makes them."""
        return self.stage.key

    def labelled_by(self) -> tuple[str, ...]:
        """The scorers that decide."""
        return self.scorers

    def count(self) -> int:
        """Pairs that the stage forms."""
        return self.pair_count


def opened(pairs: PreferenceSet, context: Context) -> PreferenceSet:
    """The preference set itself, where it stands for an artefact of this run."""
    if isinstance(pairs, GeneratedPairs):
        return pairs.reader(context.folder(pairs.stage) / FILE)
    return pairs
