"""Losses: what is done with the errors of winner and loser.

All take p, the probability that image 0 is preferred, and write the logit towards image 0 as
u (`bench.implicit_logit`); 2p - 1 is its sign for hard labels and its weight for soft ones. A tie
(p = 0.5) then has the constant loss log 2 and a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench import (
    Loss,
    PairErrors,
    hookimpl,
    implicit_logit,
    option,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Loss):
    """Diffusion-DPO: -log sigmoid((2p - 1) u)."""

    name: ClassVar[str] = "sigmoid"

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        """Wallace et al. 2311.12908, Eq. 14; with p in {0, 1} the order of winner and loser."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid((2 * p - 1) * implicit_logit(errors, beta))


@dataclass(frozen=True, kw_only=True)
class SmoothedSigmoid(Loss):
    """SmPO-Diffusion: -log sigmoid((2 alpha - gamma) u) with alpha = gamma p."""

    name: ClassVar[str] = "smoothed_sigmoid"

    gamma: float = option(10.0, "sharpness of the smoothed preference; 1 is `sigmoid`", gt=0)

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        """2506.02698, Eq. 9: 2 alpha - gamma = gamma (2p - 1)."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.gamma * (2 * p - 1) * implicit_logit(errors, beta))


@dataclass(frozen=True, kw_only=True)
class SupervisedFineTuning(Loss):
    """Supervised fine-tuning: the error of the preferred image; neither beta nor p is read."""

    name: ClassVar[str] = "sft"
    winner_only: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        """The epsilon error of DDPM (2006.11239, Eq. 14)."""
        return errors.policy_0


@hookimpl
def bench_losses() -> Sequence[type[Loss]]:
    """The losses of DPO, SmPO-Diffusion and SFT."""
    return [Sigmoid, SmoothedSigmoid, SupervisedFineTuning]
