"""A whole third-party package: it adds a scorer, an aggregation, a loss and a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bench import (
    Aggregation,
    BenchError,
    Labels,
    Loss,
    Method,
    PairErrors,
    PairMethod,
    PairRewards,
    Scorer,
    hookimpl,
    implicit_logit,
    option,
    uses,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Brightness(Scorer):
    """Mean brightness of the picture, whatever the prompt."""

    name: ClassVar[str] = "brightness"
    scale: float = option(1.0, "factor on the mean of 0 to 1", gt=0)

    def load(self, device: str) -> Brightness:
        """There are no weights to load."""
        return self

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        """Brightness in [0, scale]."""
        means = [np.asarray(image.convert("L"), dtype=np.float64).mean() for image in images]
        return self.scale * np.array(means) / 255


@dataclass(frozen=True, kw_only=True)
class Unanimous(Aggregation):
    """Keeps a pair only if all scorers prefer the same image."""

    name: ClassVar[str] = "unanimous"

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The whole pool."""
        if not pool:
            raise BenchError("unanimous needs scorers: name some in label_scorers")
        return tuple(pool)

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        """The sign that all share; no agreement drops the pair."""
        signs = np.stack([np.sign(r[:, 0] - r[:, 1]) for r in pairs.rewards.values()])
        agreed = np.abs(signs.sum(axis=0)) == len(signs)
        return Labels(p=(signs[0] + 1) / 2, kept=agreed)


@dataclass(frozen=True, kw_only=True)
class Hinge(Loss):
    """max(0, 1 - z), z the DPO logit towards the preferred image (SLiC-like)."""

    name: ClassVar[str] = "hinge"

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        """The loss of each pair, [B]."""
        return (1 - (2 * p - 1) * implicit_logit(errors, beta)).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class UnanimousHinge(PairMethod):
    """Unanimous labels, forward noising, hinge loss, frozen reference."""

    name: ClassVar[str] = "unanimous_hinge"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "shapes": {"beta": 2000.0, "learning_rate": 1e-5}
    }
    labels: Aggregation = uses("aggregations", "unanimous", "which image is preferred")
    loss: Loss = uses("losses", "hinge", "what is done with the errors")


@hookimpl
def bench_scorers() -> Sequence[type[Scorer]]:
    """Brightness."""
    return (Brightness,)


@hookimpl
def bench_aggregations() -> Sequence[type[Aggregation]]:
    """Unanimity."""
    return (Unanimous,)


@hookimpl
def bench_losses() -> Sequence[type[Loss]]:
    """Hinge."""
    return (Hinge,)


@hookimpl
def bench_methods() -> Sequence[type[Method]]:
    """Their combination."""
    return (UnanimousHinge,)
