"""The named methods: each a choice of labels, trajectory, loss and reference, with defaults.

Learning rates of the published methods belong to batches of 1024 to 2048 pairs. Those of the
official Diffusion-DPO code are 1000 times those of the paper (SalesforceAIResearch/DiffusionDPO
issue 12); the defaults below follow the code. Those of the family "shapes" were chosen on that
world's development prompts (`assets/prompts/dev.json`), which no evaluation set holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench import (
    Aggregation,
    BenchError,
    Loss,
    Method,
    PairMethod,
    Reference,
    Trajectory,
    hookimpl,
    uses,
)

if TYPE_CHECKING:
    from bench import TrainingOutcome, TrainingSetup


@dataclass(frozen=True, kw_only=True)
class Base(Method):
    """The untouched backbone, which every comparison needs."""

    name: ClassVar[str] = "base"
    baseline: ClassVar[bool] = True
    trainable: ClassVar[bool] = False

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        """Refused."""
        raise BenchError("the method 'base' is the untouched backbone and is never trained")


@dataclass(frozen=True, kw_only=True)
class SupervisedFineTuning(PairMethod):
    """Supervised fine-tuning on the preferred images (Diffusion-DPO's baseline)."""

    name: ClassVar[str] = "sft"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        # The loss reads no beta; 1 only fills the option.
        "shapes": {"beta": 1.0, "learning_rate": 1e-5},
        # The Diffusion-DPO paper (2311.12908) says 1e-9; times the 1000 by which its other
        # rates and its code differ (above). That factor for SFT is our reading.
        "sd1": {"beta": 1.0, "learning_rate": 1e-6},
        "sd2": {"beta": 1.0, "learning_rate": 1e-6},
        # Our own choice, as for sd1. The paper found that SFT on Pick-a-Pic hurts SDXL.
        "sdxl": {"beta": 1.0, "learning_rate": 1e-6},
    }

    loss: Loss = uses("losses", "sft", "what is done with the errors")
    reference: Reference = uses("references", "none", "what the policy is measured against")


@dataclass(frozen=True, kw_only=True)
class DiffusionDpo(PairMethod):
    """Diffusion-DPO (Wallace et al., 2311.12908): human labels, frozen reference."""

    name: ClassVar[str] = "dpo"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "shapes": {"beta": 2000.0, "learning_rate": 2e-5},
        # Official launchers: beta_dpo 5000, lr 1e-8 scaled by 16 x 1 x 128 = 2048 pairs. The
        # paper: beta 2000 for its main SD 1.5 result, lr 2000/beta * 2.048e-8.
        "sd1": {"beta": 5000.0, "learning_rate": 2.048e-5},
        # No published SD 2.1 run is known to us: as for SD 1.5.
        "sd2": {"beta": 5000.0, "learning_rate": 2.048e-5},
        # Official launchers and, for beta, the paper. They use Adafactor; we use AdamW.
        "sdxl": {"beta": 5000.0, "learning_rate": 2.048e-5},
    }


@dataclass(frozen=True, kw_only=True)
class Smpo(PairMethod):
    """SmPO-Diffusion (2506.02698): smoothed labels, ReNoise inversion, frozen reference.

    The published SD 1.5 runs start from an SFT checkpoint and smooth PickScore's rewards; here
    the start is the recipe's backbone, and the rewards are those of its `label_scorers`. Nine
    inversion steps are the paper's reported configuration; its code uses a grid of 5 or 10.
    """

    name: ClassVar[str] = "smpo"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "shapes": {"beta": 2000.0, "learning_rate": 2e-5},
        # Official code: beta 2000, lr 1e-8 scaled by 8 x 1 x 128 = 1024 pairs; gamma is 10.
        "sd1": {"beta": 2000.0, "learning_rate": 1.024e-5},
        # No published SD 2.1 run is known to us: as for SD 1.5.
        "sd2": {"beta": 2000.0, "learning_rate": 1.024e-5},
        # Official code: beta 5000, same rate. It uses Adafactor; we use AdamW.
        "sdxl": {"beta": 5000.0, "learning_rate": 1.024e-5},
    }

    labels: Aggregation = uses("aggregations", "smoothed", "which image, how strongly")
    trajectory: Trajectory = uses(
        "trajectories", "renoise[steps=9]", "where the networks are asked"
    )
    loss: Loss = uses("losses", "smoothed_sigmoid", "what is done with the errors")


@dataclass(frozen=True, kw_only=True)
class BalancedDpo(PairMethod):
    """BalancedDPO (2503.12575): majority vote of scorers, reference renewed as training goes.

    The paper's abstract gives the vote and the "dynamic reference-model updates"; its tie rule,
    update period and hyper-parameters are not known to us and are our own choices.
    """

    name: ClassVar[str] = "balanced"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "shapes": {"beta": 2000.0, "learning_rate": 1e-5},
        # Our own choice, the same as for `dpo`, so that only labels and reference differ.
        "sd1": {"beta": 5000.0, "learning_rate": 2.048e-5},
        "sd2": {"beta": 5000.0, "learning_rate": 2.048e-5},
        "sdxl": {"beta": 5000.0, "learning_rate": 2.048e-5},
    }

    labels: Aggregation = uses("aggregations", "majority_vote", "which image, how strongly")
    reference: Reference = uses("references", "hard_copy", "what the policy is measured against")


@hookimpl
def bench_methods() -> Sequence[type[Method]]:
    """The untouched backbone, SFT, Diffusion-DPO, SmPO-Diffusion and BalancedDPO."""
    return [Base, SupervisedFineTuning, DiffusionDpo, Smpo, BalancedDpo]
