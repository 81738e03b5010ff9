"""References: the model that the policy is measured against, and how it follows the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench import Reference, hookimpl, option


@dataclass(frozen=True, kw_only=True)
class Frozen(Reference):
    """The untouched backbone throughout (Diffusion-DPO, SmPO-Diffusion)."""

    name: ClassVar[str] = "frozen"

    def decay_at(self, step: int) -> float:
        """All of it."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class HardCopy(Reference):
    """A copy of the policy, renewed every so many steps.

    BalancedDPO's "dynamic reference-model updates"; its period and form are not known to us.
    After each copy the logit starts from zero again, so that beta does not bound how far the
    policy drifts from the backbone in all: watch `StepReport.relative_weight_change`.
    """

    name: ClassVar[str] = "hard_copy"

    every: int = option(20, "optimiser steps between copies", ge=1)

    def decay_at(self, step: int) -> float:
        """Nothing at every multiple of `every`, all otherwise."""
        return 0.0 if step % self.every == 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class Ema(Reference):
    """An exponential moving average of the policy (2505.18736)."""

    name: ClassVar[str] = "ema"

    decay: float = option(0.99, "share of the reference that each step keeps", ge=0, le=1)

    def decay_at(self, step: int) -> float:
        """The decay."""
        return self.decay


@dataclass(frozen=True, kw_only=True)
class NoReference(Reference):
    """No reference, for losses that read none."""

    name: ClassVar[str] = "none"
    needed: ClassVar[bool] = False

    def decay_at(self, step: int) -> float:
        """There is nothing to change."""
        return 1.0


@hookimpl
def bench_references() -> Sequence[type[Reference]]:
    """Frozen, renewed, averaged, none."""
    return [Frozen, HardCopy, Ema, NoReference]
