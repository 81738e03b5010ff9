"""The command line with the toys and with plugins that take their time, for tests of interrupts.

`python -m tests.lingering ARGUMENTS` is `bench ARGUMENTS`. A plugin that is at work makes the file
that the variable LINGERING names, and then stays at it for a minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

import bench.registry.registry
from bench import PreferencePair, PreferenceSet, option
from bench.registry.registry import Entry, Registry
from tests import toy


def linger() -> None:
    """Say that the work has begun, and go on with it."""
    Path(os.environ["LINGERING"]).touch()
    time.sleep(60)


@dataclass(frozen=True, kw_only=True)
class Lingering(toy.Channel):
    """A scorer that lingers while it is loaded, or while it scores."""

    name: ClassVar[str] = "lingering"
    at: str = option("score", "fingerprint, load, score, swallow or once")

    def fingerprint(self) -> str:
        if self.at == "fingerprint":
            linger()
        return ""

    def load(self, device: str) -> Lingering:
        if self.at == "load":
            linger()
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        if self.at == "swallow":
            try:
                linger()
            except BaseException:
                # As bare `except:` does, which is found in published code.
                return np.zeros(len(images))
        elif self.at != "fingerprint":
            linger()
        return super().score(images, prompts)


@dataclass(frozen=True, kw_only=True)
class LingeringPairs(PreferenceSet):
    """A preference set whose second pair takes its time."""

    name: ClassVar[str] = "lingering_pairs"

    def fingerprint(self) -> str:
        return ""

    def count(self) -> int:
        return 3

    def read(self, rows: Iterable[int] | None = None) -> Iterator[PreferencePair]:
        linger()
        yield from ()


@dataclass(frozen=True, kw_only=True)
class LingeringBackbone(toy.ToyBackbone):
    """A backbone that takes its time to load."""

    name: ClassVar[str] = "lingering_backbone"

    def load(self, device: str) -> Any:
        linger()
        return super().load(device)


def registry() -> Registry:
    """The toys and these."""
    added: list[tuple[Any, type]] = [
        ("scorers", Lingering),
        ("preference_sets", LingeringPairs),
        ("backbones", LingeringBackbone),
    ]
    own = [Entry(kind=k, cls=c, package="toys", package_version="1") for k, c in added]
    return Registry([*toy.registry().entries(), *own])


if __name__ == "__main__":
    from bench.cli.main import main

    # The plugins' module is to be found under this name by workers too.
    from tests.lingering import registry as found

    bench.registry.registry.default_registry = found  # type: ignore[assignment]
    main()
