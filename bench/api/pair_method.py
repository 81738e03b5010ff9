"""Methods that are four choices: labels, trajectory, loss and reference.

The convention of `beta`, which code bases do not share. With d = MSE(image 0) - MSE(image 1),
each MSE the *mean* over C, H, W of the squared epsilon error, the implicit logit is

    u = -0.5 * beta * (d_theta - d_ref)

as in the official Diffusion-DPO code. The paper's appendix sums over C, H, W and has no 0.5;
with D = C * H * W of the latent, beta_sum = beta * 0.5 / D (`beta_to_sum_convention`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.api import contracts
from bench.api.kinds import Aggregation, Loss, Method, Reference, Trajectory, option, uses
from bench.lib.errors import BenchError

if TYPE_CHECKING:
    import torch

    from bench.api.kinds import PairErrors, TrainingSetup
    from bench.api.training import TrainingOutcome


def beta_to_sum_convention(beta: float, latent_size: int) -> float:
    """The beta of u = -beta * (sum-of-squares differences) that equals this project's `beta`.

    Args:
        beta: strength in the convention of this module (mean over C, H, W, factor 0.5).
        latent_size: D = C * H * W, e.g. 4 * 64 * 64 for Stable Diffusion 1.5.
    """
    return beta * 0.5 / latent_size


def beta_from_sum_convention(beta_sum: float, latent_size: int) -> float:
    """The inverse of `beta_to_sum_convention`."""
    return beta_sum * latent_size / 0.5


def implicit_logit(errors: PairErrors, beta: float) -> torch.Tensor:
    """u of image 0 over image 1, [B] (Diffusion-DPO, Eq. 14, in the convention above).

    Positive where the policy, more than the reference, prefers image 0.

    Raises:
        BenchError: there is no reference.
    """
    if errors.reference_0 is None or errors.reference_1 is None:
        raise BenchError("the implicit logit needs a reference, and there is none")
    gain_0 = errors.policy_0 - errors.reference_0
    gain_1 = errors.policy_1 - errors.reference_1
    return -0.5 * beta * (gain_0 - gain_1)


@dataclass(frozen=True, kw_only=True)
class PairMethod(Method):
    """Trains on labelled pairs: labels x trajectory x loss x reference."""

    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    """backbone family -> {"beta": ..., "learning_rate": ...}, used where an option is open."""

    labels: Aggregation = uses("aggregations", "human", "which image is preferred, how strongly")
    trajectory: Trajectory = uses("trajectories", "forward", "where the networks are asked")
    loss: Loss = uses("losses", "sigmoid", "what is done with the errors")
    reference: Reference = uses("references", "frozen", "what the policy is measured against")
    beta: float | None = option(None, "strength of the logit; none: the family's default", gt=0)
    learning_rate: float | None = option(None, "AdamW's; none: the family's default", gt=0)

    def resolved(self, family: str) -> PairMethod:
        """This method with `beta` and `learning_rate` set.

        Raises:
            BenchError: one is open and the family has no default for it, or the loss needs a
                reference and the method holds none.
        """
        self._check_reference()
        defaults = self.family_defaults.get(family, {})
        still_open = [name for name in ("beta", "learning_rate") if getattr(self, name) is None]
        missing = [name for name in still_open if name not in defaults]
        if missing:
            known = ", ".join(sorted(self.family_defaults)) or "none"
            given = ",".join(f"{name}=..." for name in missing)
            raise BenchError(
                f"method {self.name!r} has no default {' and '.join(missing)} for backbones of "
                f"the family {family!r} (families with defaults: {known}); "
                f"give {self.name}[{given}]"
            )
        filled: dict[str, Any] = {name: defaults[name] for name in still_open}
        return dataclasses.replace(self, **filled)

    def label_scorers(self, pool: Sequence[str]) -> tuple[str, ...]:
        """The scorers that the labels need."""
        return contracts.label_scorers(self.labels, pool)

    def nfe(self, pairs_seen: int) -> int:
        """Policy, reference and trajectory passes of every image shown."""
        images = 1 if self.loss.winner_only else 2
        networks = 1 + (self.reference.needed and self.loss.needs_reference)
        return round(pairs_seen * images * (networks + self.trajectory.nfe_per_image()))

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        """Label the pairs and run the training loop."""
        self._check_reference()
        if self.beta is None or self.learning_rate is None:
            raise BenchError(
                f"method {self.name!r} was asked to train with beta={self.beta} and "
                f"learning_rate={self.learning_rate}; give both, or use `resolved(family)`"
            )
        with setup.world.all_or_none():
            labels = contracts.labels_of(self.labels, setup.rewards, setup.seed)
        return setup.train_pairs(
            setup,
            labels=labels,
            trajectory=self.trajectory,
            loss=self.loss,
            reference=self.reference,
            beta=self.beta,
            learning_rate=self.learning_rate,
        )

    def _check_reference(self) -> None:
        if self.loss.needs_reference and not self.reference.needed:
            raise BenchError(
                f"method {self.name!r}: the loss {self.loss.name!r} needs a reference, but "
                f"reference={self.reference.name} holds none; "
                f"choose another, e.g. {self.name}[reference=frozen]"
            )
