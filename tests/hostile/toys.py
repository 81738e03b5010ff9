"""The plugins of the hostile suite's world, found by an entry point as anyone's are."""

from __future__ import annotations

from collections.abc import Sequence

from bench import Backbone, Scorer, hookimpl
from tests.toy import Channel, ToyBackbone, Truth


@hookimpl
def bench_backbones() -> Sequence[type[Backbone]]:
    """A tiny pipeline."""
    return [ToyBackbone]


@hookimpl
def bench_scorers() -> Sequence[type[Scorer]]:
    """Means of a colour channel, one of them held out."""
    return [Channel, Truth]
