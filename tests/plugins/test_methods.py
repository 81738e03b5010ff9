from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.aggregations import Human, MajorityVote, Smoothed
from bench_plugins.losses import Sigmoid, SmoothedSigmoid
from bench_plugins.losses import SupervisedFineTuning as SftLoss
from bench_plugins.methods import (
    BalancedDpo,
    Base,
    DiffusionDpo,
    Smpo,
    SupervisedFineTuning,
    bench_methods,
)
from bench_plugins.references import Frozen, HardCopy, NoReference
from bench_plugins.trajectories import DdimInversion, Forward, Renoise

from bench import BenchError, PairMethod
from bench.api.pair_method import beta_from_sum_convention, beta_to_sum_convention
from bench.registry.registry import Registry, default_registry, spec_text
from bench.training.loop import train_pairs
from tests.training.conftest import toy_setup

FOUR = ("labels", "trajectory", "loss", "reference")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return default_registry()


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("sft", (Human(), Forward(), SftLoss(), NoReference())),
        ("dpo", (Human(), Forward(), Sigmoid(), Frozen())),
        ("smpo", (Smoothed(), Renoise(steps=9), SmoothedSigmoid(gamma=10.0), Frozen())),
        ("balanced", (MajorityVote(), Forward(), Sigmoid(), HardCopy(every=20))),
    ],
)
def test_each_method_is_its_four_choices(
    registry: Registry, name: str, choices: tuple[object, ...]
) -> None:
    method = registry.build("methods", name)
    assert tuple(getattr(method, field) for field in FOUR) == choices


def test_choices_can_be_crossed(registry: Registry) -> None:
    spec = "smpo[labels=majority_vote[ties=human],loss=sigmoid,beta=7]"
    method = registry.build("methods", spec)
    assert method.labels == MajorityVote(ties="human")
    assert (method.loss, method.beta, method.trajectory) == (Sigmoid(), 7.0, Renoise(steps=9))
    assert registry.build("methods", spec_text(method)) == method


@pytest.mark.parametrize("cls", [m for m in bench_methods() if issubclass(m, PairMethod)])
@pytest.mark.parametrize("family", ["shapes", "sd1", "sdxl"])
def test_every_family_has_defaults(registry: Registry, cls: Any, family: str) -> None:
    method = registry.build("methods", cls.name).resolved(family)
    assert method.beta > 0
    assert 0 < method.learning_rate < 1e-3
    assert method.resolved(family) == method


def dpo(**options: Any) -> DiffusionDpo:
    choices: dict[str, Any] = {
        "labels": Human(),
        "trajectory": Forward(),
        "loss": Sigmoid(),
        "reference": Frozen(),
    }
    return DiffusionDpo(**{**choices, **options})


def test_published_settings() -> None:
    assert DiffusionDpo.family_defaults["sd1"] == {
        "beta": 5000,
        "learning_rate": pytest.approx(1e-8 * 16 * 128),
    }
    assert Smpo.family_defaults["sd1"] == {
        "beta": 2000,
        "learning_rate": pytest.approx(1e-8 * 8 * 128),
    }


def test_given_options_stand() -> None:
    resolved = dpo(beta=3.0).resolved("sd1")
    assert (resolved.beta, resolved.learning_rate) == (3.0, 2.048e-5)
    assert dpo(beta=3.0, learning_rate=1.0).resolved("unknown").beta == 3.0


def test_unknown_family_says_what_to_give() -> None:
    with pytest.raises(BenchError, match=r"'flux'.*dpo\[beta=...,learning_rate=...\]"):
        dpo().resolved("flux")
    with pytest.raises(BenchError, match=r"no default learning_rate .*dpo\[learning_rate=...\]"):
        dpo(beta=1.0).resolved("flux")


def test_loss_without_the_reference_it_needs_is_refused_while_planning() -> None:
    with pytest.raises(BenchError, match="the loss 'sigmoid' needs a reference"):
        dpo(reference=NoReference()).resolved("sd1")


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ({}, 400),
        ({"loss": SftLoss()}, 100),
        ({"loss": SftLoss(), "reference": NoReference()}, 100),
        ({"trajectory": DdimInversion(steps=1)}, 600),
    ],
)
def test_planned_passes(options: dict[str, Any], nfe: int) -> None:
    assert dpo(**options).nfe(100) == nfe


def test_planned_passes_are_those_spent(tmp_path: Path) -> None:
    setup = toy_setup(tmp_path)
    method = dpo(beta=20.0, learning_rate=1e-3)
    outcome = method.train(setup)
    assert outcome.steps[-1].nfe == method.nfe(outcome.pairs_seen)


def test_training_is_the_loop_on_the_labels(tmp_path: Path) -> None:
    a, b = toy_setup(tmp_path / "a"), toy_setup(tmp_path / "b")
    first = dpo(beta=20.0, learning_rate=1e-3).train(a)
    second = train_pairs(
        b,
        labels=Human().label(b.rewards, b.seed),
        trajectory=Forward(),
        loss=Sigmoid(),
        reference=Frozen(),
        beta=20.0,
        learning_rate=1e-3,
    )
    assert first == second
    for x, y in zip(a.policy.denoiser.parameters(), b.policy.denoiser.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("cls", [SupervisedFineTuning, DiffusionDpo, Smpo, BalancedDpo])
def test_every_method_trains_the_toy(registry: Registry, tmp_path: Path, cls: Any) -> None:
    setup = toy_setup(tmp_path, steps=2)
    method = registry.build("methods", cls.name).resolved("shapes")
    outcome = method.train(setup)
    assert len(outcome.steps) == 2
    assert outcome.steps[-1].relative_weight_change > 0
    assert outcome.steps[-1].nfe == setup.policy.counter[0]  # type: ignore[attr-defined]


def test_open_options_are_not_trained_with(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="beta=None"):
        dpo().train(toy_setup(tmp_path))


def test_label_scorers() -> None:
    assert dpo().label_scorers(["a"]) == ()
    assert dpo(labels=MajorityVote()).label_scorers(["a", "b"]) == ("a", "b")


def test_base_is_never_trained(tmp_path: Path) -> None:
    assert not Base().trainable
    assert Base().resolved("anything") == Base()
    assert Base().label_scorers(["a"]) == ()
    with pytest.raises(BenchError, match="never trained"):
        Base().train(toy_setup(tmp_path))


def test_beta_conventions() -> None:
    """beta 5000 on SD 1.5 is 0.1526 in the summed convention without the 0.5."""
    size = 4 * 64 * 64
    assert beta_to_sum_convention(5000, size) == pytest.approx(0.1526, abs=5e-5)
    assert beta_from_sum_convention(beta_to_sum_convention(5000, size), size) == 5000
    a, b = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).square()
    mean = 0.5 * 5000 * (a.mean() - b.mean())
    summed = beta_to_sum_convention(5000, 256) * (a.sum() - b.sum())
    torch.testing.assert_close(mean, summed)


def test_importing_and_resolving_needs_no_torch() -> None:
    code = (
        "import sys; from bench.registry.registry import default_registry as r;"
        "m = r().build('methods', 'smpo').resolved('sd1'); m.nfe(10);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_methods_are_frozen_dataclasses() -> None:
    for cls in bench_methods():
        assert dataclasses.is_dataclass(cls)
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
