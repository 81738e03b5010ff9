"""The scorers of the shapes world: three learned ones that disagree, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from bench import LoadedScorer, Scorer

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS = Path(__file__).parent / "assets" / "scorers"
"""Holds `NAME.safetensors` for each learned scorer; the heads need the encoder's as well."""

ENCODER = "shapes_clip"


@dataclass(frozen=True, kw_only=True)
class _Learned(Scorer):
    @property
    def tower(self) -> str:
        """The dual encoder, which all heads stand on."""
        return ENCODER

    def fingerprint(self) -> str:
        """SHA-256 of the weight files."""
        from bench_plugins.shapes import files

        names = dict.fromkeys((ENCODER, self.name))
        return files.hash_of(*(WEIGHTS / f"{name}.safetensors" for name in names))

    def load(self, device: str) -> LoadedScorer:
        """Read the weights."""
        from bench_plugins.shapes.learned import LearnedScorer

        return LearnedScorer(WEIGHTS, self.name, device)


@dataclass(frozen=True, kw_only=True)
class ShapesClip(_Learned):
    """Cosine (times 100) of picture and prompt in a small open_clip dual encoder."""

    name: ClassVar[str] = "shapes_clip"


@dataclass(frozen=True, kw_only=True)
class ShapesAesthetic(_Learned):
    """How much a picture's looks please, whatever the prompt; a head on the dual encoder."""

    name: ClassVar[str] = "shapes_aesthetic"


@dataclass(frozen=True, kw_only=True)
class ShapesPreference(_Learned):
    """A Bradley-Terry model of people's choices between the training pairs' pictures."""

    name: ClassVar[str] = "shapes_preference"


@dataclass(frozen=True, kw_only=True)
class Gold(Scorer):
    """The population's true mean utility of what a shapes picture shows; held out."""

    name: ClassVar[str] = "gold"
    held_out: ClassVar[bool] = True

    def fingerprint(self) -> str:
        """A hash of everyone's tastes."""
        from bench_plugins.shapes import population

        return population.fingerprint()

    def load(self, device: str) -> LoadedScorer:
        """Nothing is read: the truth is computed, on the CPU."""
        return _LoadedGold()


class _LoadedGold:
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> NDArray[np.float64]:
        """The gold utility of each picture under its prompt: float64 [N]."""
        from bench_plugins.shapes import population

        pairs = zip(images, prompts, strict=True)
        return np.asarray([population.gold(i, p) for i, p in pairs], dtype=np.float64)
