from __future__ import annotations

import math

import pytest
import torch
from bench_plugins.losses import Sigmoid, SmoothedSigmoid, SupervisedFineTuning, bench_losses

from bench import BenchError, Loss, PairErrors
from bench.api.pair_method import implicit_logit

BETA = 2.0


def errors(policy_0: float = 0.3, policy_1: float = 0.9, with_reference: bool = True) -> PairErrors:
    """d_theta = -0.6 and d_ref = 0.4 - 0.7 = -0.3 as given, so that u = 0.3 at beta 2."""

    def leaf(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64, requires_grad=True)

    return PairErrors(
        policy_0=leaf(policy_0),
        policy_1=leaf(policy_1),
        reference_0=leaf(0.4).detach() if with_reference else None,
        reference_1=leaf(0.7).detach() if with_reference else None,
    )


def value(loss: Loss, p: float, e: PairErrors | None = None) -> float:
    return loss(e or errors(), torch.tensor([p], dtype=torch.float64), BETA).item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_implicit_logit_by_hand() -> None:
    assert implicit_logit(errors(), BETA).item() == pytest.approx(0.3)
    with pytest.raises(BenchError, match="reference"):
        implicit_logit(errors(with_reference=False), BETA)


def test_sigmoid_by_hand() -> None:
    # -log sigmoid(0.3) = log(1 + e^-0.3) and, the order reversed, log(1 + e^0.3).
    assert value(Sigmoid(), 1.0) == pytest.approx(0.554355, abs=1e-6)
    assert value(Sigmoid(), 0.0) == pytest.approx(0.854355, abs=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_sigmoid_as_the_two_way_choice_of_bradley_and_terry(p: float) -> None:
    """The same as cross-entropy between the two images' rewards -beta/2 (MSE - MSE_ref)."""
    rewards = torch.tensor([[-0.5 * BETA * (0.3 - 0.4), -0.5 * BETA * (0.9 - 0.7)]])
    target = torch.tensor([0 if p == 1 else 1])
    expected = torch.nn.functional.cross_entropy(rewards, target).item()
    assert value(Sigmoid(), p) == pytest.approx(expected, abs=1e-6)


def test_sigmoid_gradient_by_hand() -> None:
    """dL/d policy_winner = 0.5 beta (1 - sigmoid(u)), and minus that for the loser."""
    e = errors()
    Sigmoid()(e, torch.ones(1), BETA).sum().backward()
    expected = 0.5 * BETA * (1 - sigmoid(0.3))
    assert e.policy_0.grad is not None
    assert e.policy_1.grad is not None
    assert e.policy_0.grad.item() == pytest.approx(expected)
    assert e.policy_1.grad.item() == pytest.approx(-expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.731])
@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_smoothed_sigmoid_is_the_geometric_mixture(p: float, gamma: float) -> None:
    """SmPO Eq. 8 put into the DPO loss: log p~_0 - log p~_1 = (2 alpha - gamma) u."""
    alpha = gamma * p
    log_0, log_1 = -0.5 * BETA * (0.3 - 0.4), -0.5 * BETA * (0.9 - 0.7)
    mixed_0 = alpha * log_0 + (gamma - alpha) * log_1
    mixed_1 = alpha * log_1 + (gamma - alpha) * log_0
    expected = -math.log(sigmoid(mixed_0 - mixed_1))
    assert value(SmoothedSigmoid(gamma=gamma), p) == pytest.approx(expected)


@pytest.mark.parametrize("loss", [Sigmoid(), SmoothedSigmoid()])
def test_tie_has_the_constant_loss_log_2_and_exactly_no_gradient(loss: Loss) -> None:
    e = errors()
    out = loss(e, torch.tensor([0.5]), BETA)
    out.sum().backward()
    assert out.item() == pytest.approx(math.log(2), abs=1e-12)
    assert e.policy_0.grad is not None
    assert e.policy_1.grad is not None
    assert e.policy_0.grad.item() == 0
    assert e.policy_1.grad.item() == 0


def test_gamma_one_is_sigmoid_to_the_bit() -> None:
    source = torch.Generator().manual_seed(0)
    p0, p1, r0, r1, p = torch.rand(5, 1000, generator=source)
    e = PairErrors(policy_0=p0, policy_1=p1, reference_0=r0, reference_1=r1)
    for labels in (p.round(), p):
        assert torch.equal(
            SmoothedSigmoid(gamma=1.0)(e, labels, 2000.0), Sigmoid()(e, labels, 2000.0)
        )


@pytest.mark.parametrize("loss", [Sigmoid(), SmoothedSigmoid()])
def test_swapping_images_and_label_changes_nothing(loss: Loss) -> None:
    e = errors()
    swapped = PairErrors(
        policy_0=e.policy_1,
        policy_1=e.policy_0,
        reference_0=e.reference_1,
        reference_1=e.reference_0,
    )
    assert value(loss, 0.8, e) == pytest.approx(value(loss, 0.2, swapped))


@pytest.mark.parametrize("policy_1", [1e6, -1e6])
def test_extreme_logits_stay_finite(policy_1: float) -> None:
    e = errors(policy_1=policy_1)
    out = SmoothedSigmoid()(e, torch.ones(1), BETA)
    out.sum().backward()
    assert e.policy_0.grad is not None
    assert torch.isfinite(out).all()
    assert torch.isfinite(e.policy_0.grad).all()


def test_sft_reads_the_shown_image_alone() -> None:
    e = PairErrors(
        policy_0=torch.tensor([0.25]),
        policy_1=torch.tensor([math.nan]),
        reference_0=None,
        reference_1=None,
    )
    assert SupervisedFineTuning()(e, torch.ones(1), BETA).tolist() == [0.25]
    assert SupervisedFineTuning.winner_only
    assert not SupervisedFineTuning.needs_reference


def test_names() -> None:
    assert [cls.name for cls in bench_losses()] == ["sigmoid", "smoothed_sigmoid", "sft"]
