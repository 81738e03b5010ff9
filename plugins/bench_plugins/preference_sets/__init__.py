"""Preference pairs: Pick-a-Pic v2, HPDv2 and HPDv3, and tables with columns of any name."""

from __future__ import annotations

from collections.abc import Sequence

from bench import PreferenceSet, hookimpl
from bench_plugins.preference_sets.hpd import HPD
from bench_plugins.preference_sets.pickapic import PickAPic
from bench_plugins.preference_sets.table import PairsTable

__all__ = ["HPD", "PairsTable", "PickAPic"]


@hookimpl
def bench_preference_sets() -> Sequence[type[PreferenceSet]]:
    """The formats above."""
    return (PickAPic, HPD, PairsTable)
