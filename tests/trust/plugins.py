"""Plugins that read, spend or change more than they say; none of them is of bad will."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from bench_plugins.losses import Sigmoid
from bench_plugins.methods import Base
from bench_plugins.references import Frozen
from bench_plugins.trajectories import Forward
from PIL.Image import Image

from bench import (
    Aggregation,
    Labels,
    Method,
    PairErrors,
    PairMethod,
    PairRewards,
    Scorer,
    option,
    uses,
)
from bench.api.kinds import TrainingSetup
from bench.api.policy import Condition, Moments, Policy
from bench.api.training import TrainingOutcome
from bench.diffusion.sampling import denoise, initial_latent
from bench.registry.registry import Entry, Registry
from bench.scoring.isolation import scorer as isolated
from tests import toy

PLAIN: Mapping[str, Mapping[str, float]] = {"shapes": {"beta": 100.0, "learning_rate": 1e-4}}


# Options that hold or name a scorer.


@dataclass(frozen=True, kw_only=True)
class ReadingLoss(Sigmoid):
    """A loss that holds a scorer."""

    name: ClassVar[str] = "reading_loss"
    scorer: Scorer = uses("scorers", "channel")


@dataclass(frozen=True, kw_only=True)
class ReadingTrajectory(Forward):
    """A trajectory that holds a scorer."""

    name: ClassVar[str] = "reading_trajectory"
    scorer: Scorer = uses("scorers", "channel")


@dataclass(frozen=True, kw_only=True)
class ReadingReference(Frozen):
    """A reference that names one."""

    name: ClassVar[str] = "reading_reference"
    judge: str = option("channel")


@dataclass(frozen=True, kw_only=True)
class ReadingLabels(Aggregation):
    """Labels that hold a scorer and need none."""

    name: ClassVar[str] = "reading_labels"
    scorer: Scorer = uses("scorers", "channel")

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        return ()

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        return Labels(p=pairs.human, kept=pairs.human != 0.5)


@dataclass(frozen=True, kw_only=True)
class Wrapping(toy.Channel):
    """A scorer that reads another one."""

    name: ClassVar[str] = "wrapping"
    inner: Scorer = uses("scorers", "channel")


@dataclass(frozen=True, kw_only=True)
class Reader(PairMethod):
    """A method with room for scorers in every form."""

    name: ClassVar[str] = "reader"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN
    several: tuple[Any, ...] = option(())
    named: str = option("")
    names: tuple[str, ...] = option(())
    path: str = option("", affects_results=False)


@dataclass(frozen=True, kw_only=True)
class Rewarded(PairMethod):
    """A method that uses a scorer, as the plugin guide has it."""

    name: ClassVar[str] = "rewarded"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN
    reward: Scorer = uses("scorers", "channel")

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        self.reward.load("cpu")
        return super().train(setup)


@dataclass(frozen=True, kw_only=True)
class Denying(PairMethod):
    """It says that its training reads no scorer, though its labels need some."""

    name: ClassVar[str] = "denying"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN
    labels: Aggregation = uses("aggregations", "majority_vote")

    def label_scorers(self, pool: Sequence[str]) -> tuple[str, ...]:
        return ()


# Scorers that are not what they say.


@dataclass(frozen=True, kw_only=True)
class Wavering(toy.Channel):
    """Held out, or not, as it likes."""

    name: ClassVar[str] = "wavering"

    @property
    def held_out(self) -> bool:  # type: ignore[override]
        return False


@dataclass(frozen=True, kw_only=True)
class Disguised(toy.Truth):
    """The held-out scorer by another name."""

    name: ClassVar[str] = "disguised"
    held_out: ClassVar[bool] = False


# Loads that nobody declared.


def _by_registry() -> None:
    registry().build("scorers", "truth").load("cpu")


def _by_class() -> None:
    toy.Truth().load("cpu")


def _by_isolation() -> None:
    isolated.load(toy.Truth(), "cpu")


def _in_a_worker() -> None:
    isolated.load(toy.Truth(isolate=True), "cpu")


def _not_held_out() -> None:
    toy.Channel(index=1).load("cpu")


def _in_disguise() -> None:
    Disguised().load("cpu")


def _through_a_declared_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Renamed(toy.Truth):
        name: ClassVar[str] = "channel"

    Renamed().load("cpu")


def _in_a_thread() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            _by_class()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


LOADS: dict[str, Callable[[], None]] = {
    load.__name__.lstrip("_"): load
    for load in (
        _by_registry,
        _by_class,
        _by_isolation,
        _in_a_worker,
        _not_held_out,
        _in_disguise,
        _in_a_thread,
    )
}

GLOBAL: list[Any] = []
"""A scorer that a loss keeps from one call to the next."""


@dataclass(frozen=True, kw_only=True)
class GlobalLoss(Sigmoid):
    """A loss that asks a held-out scorer, kept in a global."""

    name: ClassVar[str] = "global_loss"

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        if not GLOBAL:
            GLOBAL.append(toy.Truth().load("cpu"))
        return super().__call__(errors, p, beta)


@dataclass(frozen=True, kw_only=True)
class Secret(PairMethod):
    """It loads a scorer in the middle of training."""

    name: ClassVar[str] = "secret"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN
    how: str = option("by_class")

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        LOADS[self.how]()
        return super().train(setup)


@dataclass(frozen=True, kw_only=True)
class Planner(PairMethod):
    """It loads a scorer while the run is planned, to ask it later."""

    name: ClassVar[str] = "planner"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN

    def label_scorers(self, pool: Sequence[str]) -> tuple[str, ...]:
        toy.Truth().load("cpu")
        return ()


# Without training.


class Delegating(Policy):
    """Another class of policy around the backbone."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.schedule = inner.schedule
        self.scheduler_config = inner.scheduler_config
        self.latent_shape, self.device = inner.latent_shape, inner.device
        self.dtype = inner.dtype

    @property
    def denoiser(self) -> torch.nn.Module:  # type: ignore[override]
        return self.inner.denoiser

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return self.inner.encode_prompts(prompts)

    def encode_images(self, images: Sequence[Image]) -> Moments:
        return self.inner.encode_images(images)

    def decode(self, latents: torch.Tensor) -> list[Image]:
        return self.inner.decode(latents)

    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        return self.inner.predict_epsilon(denoiser, latents, timesteps, condition)

    def release(self, *, denoiser: bool = False) -> None:
        self.inner.release(denoiser=denoiser)

    def reset(self) -> None:
        self.inner.reset()

    def save_checkpoint(self, folder: Any) -> None:
        raise NotImplementedError

    def load_checkpoint(self, path: Any) -> None:
        raise NotImplementedError


class Best(Delegating):
    """Draws some more images and decodes the best, as best-of-n does."""

    def __init__(self, inner: Policy, n: int, scorer: Any) -> None:
        super().__init__(inner)
        self.n, self.scorer, self.prompts = n, scorer, list[str]()

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        if prompts != [""]:
            self.prompts = list(prompts)
        return super().encode_prompts(prompts)

    def decode(self, latents: torch.Tensor) -> list[Image]:
        drawn = [self.inner.decode(latents)]
        for seed in range(1, self.n):
            noise = torch.stack(
                [initial_latent(text, 100 + seed, self.latent_shape) for text in self.prompts]
            )
            more = denoise(self.inner, noise, self.prompts, scheduler="ddim", steps=2, guidance=2.0)
            drawn.append(self.inner.decode(more[0]))
        scores = np.stack([self.scorer.score(images, self.prompts) for images in drawn])
        return [drawn[k][i] for i, k in enumerate(scores.argmax(axis=0))]


@dataclass(frozen=True, kw_only=True)
class Untrained(Method):
    """The base of methods without training here."""

    name: ClassVar[str] = "untrained"
    trainable: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class BestOf(Untrained):
    """Best of n by a scorer, which it declares."""

    name: ClassVar[str] = "best_of"
    n: int = option(4)
    scorer: Scorer = uses("scorers", "channel")

    def model(self, backbone: Policy) -> Policy:
        return Best(backbone, self.n, self.scorer.load("cpu"))


@dataclass(frozen=True, kw_only=True)
class SecretBest(Untrained):
    """Best of n by a scorer that it does not declare."""

    name: ClassVar[str] = "secret_best"
    how: str = option("by_class")

    def model(self, backbone: Policy) -> Policy:
        LOADS[self.how]()
        return backbone


class Owning(Delegating):
    """A policy with a denoiser of its own."""

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)
        self._own = type(inner.denoiser).from_config(dict(inner.denoiser.config))  # type: ignore[attr-defined]

    @property
    def denoiser(self) -> torch.nn.Module:  # type: ignore[override]
        return self._own


@dataclass(frozen=True, kw_only=True)
class OwnDenoiser(Untrained):
    """Images of a network that is none of the backbone's."""

    name: ClassVar[str] = "own_denoiser"

    def model(self, backbone: Policy) -> Policy:
        torch.manual_seed(0)
        return Owning(backbone)


def ask(policy: Policy, latents: int) -> None:
    """So many evaluations."""
    shape = (latents, *policy.latent_shape)
    condition = policy.encode_prompts(["x"] * latents)
    with torch.no_grad():
        policy.predict_epsilon(
            policy.denoiser, torch.zeros(shape), torch.zeros(latents, dtype=torch.int64), condition
        )


@dataclass(frozen=True, kw_only=True)
class Preparing(Untrained):
    """It asks the denoiser before the first image, say to find a direction."""

    name: ClassVar[str] = "preparing"

    def model(self, backbone: Policy) -> Policy:
        ask(backbone, 7)
        return backbone


# In training.


@dataclass(frozen=True, kw_only=True)
class Cheap(PairMethod):
    """It says that it is cheap, and asks the denoiser beside the loop as well."""

    name: ClassVar[str] = "cheap"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN

    def nfe(self, pairs_seen: int) -> int:
        return 1

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        ask(setup.policy, 5)
        return super().train(setup)


@dataclass(frozen=True, kw_only=True)
class Careless(PairMethod):
    """It trains well and leaves everything that it was given changed."""

    name: ClassVar[str] = "a_careless"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        outcome = super().train(setup)
        for array in (setup.rewards.human, *setup.rewards.rewards.values(), setup.pairs.mean):
            try:
                array[...] = 0.25
            except ValueError:
                continue  # read-only
        setup.pairs.prompt_index.zero_()
        _spoil(setup.policy)
        return outcome


@dataclass(frozen=True, kw_only=True)
class CarelessModel(Untrained):
    """It changes everything of the backbone that it is given, in place."""

    name: ClassVar[str] = "a_careless_model"

    def model(self, backbone: Policy) -> Policy:
        _spoil(backbone)
        return backbone


def _spoil(policy: Any) -> None:
    with torch.no_grad():
        for module in (policy.vae, policy.denoiser):
            next(module.parameters()).add_(0.1)
    policy.vae.register_forward_hook(lambda module, args, output: output)
    for value in vars(policy.schedule).values():
        if isinstance(value, torch.Tensor):
            value.mul_(0.9)
    policy.scheduler_config["beta_end"] = 0.5
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)


# Identity.


@dataclass(frozen=True, kw_only=True)
class SecondBase(Base):
    """Another method that says it is the untouched backbone, and changes it."""

    name: ClassVar[str] = "a_base"

    def model(self, backbone: Policy) -> Policy:
        with torch.no_grad():
            next(backbone.denoiser.parameters()).add_(1.0)
        return backbone


@dataclass(frozen=True, kw_only=True)
class TrainedBase(PairMethod):
    """A base that is trained."""

    name: ClassVar[str] = "trained_base"
    baseline: ClassVar[bool] = True
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN


@dataclass(frozen=True, kw_only=True)
class ReadingBase(Base):
    """A base that reads a scorer."""

    name: ClassVar[str] = "reading_base"
    scorer: Scorer = uses("scorers", "channel")


@dataclass(frozen=True, kw_only=True)
class SometimesBase(Untrained):
    """It says of single instances that they are the base."""

    name: ClassVar[str] = "sometimes_base"

    @property
    def baseline(self) -> bool:  # type: ignore[override]
        return True

    def model(self, backbone: Policy) -> Policy:
        with torch.no_grad():
            next(backbone.denoiser.parameters()).add_(1.0)
        return backbone


@dataclass(frozen=True, kw_only=True)
class Becoming(PairMethod):
    """It resolves to another method, or to other options."""

    name: ClassVar[str] = "becoming"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN
    what: str = option("method")

    def resolved(self, family: str) -> Any:
        if self.what == "method":
            return registry().build("methods", "rewarded").resolved(family)
        return dataclasses.replace(super().resolved(family), beta=1.0)


@dataclass(frozen=True, kw_only=True)
class Impostor(PairMethod):
    """Its instances call themselves dpo."""

    name: ClassVar[str] = "impostor"
    family_defaults: ClassVar[Mapping[str, Mapping[str, float]]] = PLAIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", "dpo")


CLASSES: dict[str, tuple[type, ...]] = {
    "losses": (ReadingLoss, GlobalLoss),
    "trajectories": (ReadingTrajectory,),
    "references": (ReadingReference,),
    "aggregations": (ReadingLabels,),
    "scorers": (Wrapping, Wavering, Disguised),
    "methods": (
        Reader,
        Rewarded,
        Denying,
        Secret,
        Planner,
        BestOf,
        SecretBest,
        OwnDenoiser,
        Preparing,
        Cheap,
        Careless,
        CarelessModel,
        SometimesBase,
        Becoming,
        Impostor,
    ),
}


def registry(*more: type[Method]) -> Registry:
    """The toy world, and all of these; `more` methods only where they are asked for."""
    classes: list[tuple[Any, type]] = [(k, c) for k, many in CLASSES.items() for c in many]
    classes += [("methods", cls) for cls in more]
    own = [Entry(kind=k, cls=c, package="trust", package_version="1") for k, c in classes]
    return Registry([*toy.registry().entries(), *own])
