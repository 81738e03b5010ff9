from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_plugins.losses import Sigmoid, SmoothedSigmoid, SupervisedFineTuning
from bench_plugins.references import Ema, Frozen, HardCopy, NoReference
from bench_plugins.trajectories import Forward, Renoise

from bench import Labels, Loss, Reference
from bench.api.kinds import TrainingSetup
from bench.api.training import StepReport, TrainingOutcome
from bench.diffusion import lora
from bench.diffusion.lora import LoraSettings
from bench.lib.seeding import derive_seed
from bench.training.loop import STATE_FILE, draw, pair_order
from tests.tiny import LATENT_SHAPE
from tests.training.conftest import labels_of, tiny_setup, train

BETA, RATE = 2000.0, 2e-2


def adapter(setup: TrainingSetup, name: str = lora.POLICY) -> list[torch.Tensor]:
    return [w.detach().clone() for w in lora.parameters(setup.policy.denoiser, name)]


def base(denoiser: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The frozen weights under the names that they have without adapters."""
    return {
        name.replace(".base_layer", ""): weight.detach().clone()
        for name, weight in denoiser.named_parameters()
        if "lora_" not in name
    }


def same_bytes(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(w.square().sum()) for w in tensors.values()))


def change(weights: Sequence[torch.Tensor]) -> float:
    """||B A|| over all layers; the weights come as A, B, A, B, ..."""
    products = {str(i): weights[i + 1] @ weights[i] for i in range(0, len(weights), 2)}
    return norm({name: product.detach() for name, product in products.items()})


def apart(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """||a - b|| / ||b||: Adam makes a large step of a gradient that is nothing but float error."""
    x, y = (torch.cat([w.flatten() for w in weights]) for weights in (a, b))
    return float((x - y).norm() / y.norm())


def by_hand(
    setup: TrainingSetup, pipeline: Path, reference: Reference
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float], list[float]]:
    """DPO on a LoRA with a second network for the reference, in plain torch.

    Returns the adapter, the reference's adapter, the losses and the distances.
    """
    policy, other = setup.policy, tiny_setup(pipeline, setup.workspace).policy
    settings = LoraSettings(rank=4, alpha=4.0)
    origin = base(policy.denoiser)
    for network in (policy.denoiser, other.denoiser):
        lora.add(network, settings, seed=derive_seed(3, "lora"))
    trained, followed = lora.parameters(policy.denoiser), lora.parameters(other.denoiser)
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    mean, std = (torch.from_numpy(a)[:, :, 0] for a in (setup.pairs.mean, setup.pairs.std))
    told = torch.from_numpy(setup.pairs.conditions["prompt"])
    labels = labels_of(setup)
    kept = torch.from_numpy(labels.kept).nonzero().flatten()
    losses, distances = [], []
    for step in range(1, setup.budget.steps + 1):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, step / 2)
        rows = pair_order(kept, 3, 4 * (step - 1), 4 * step)
        d = draw(3, step, pairs=4, timesteps=1000, empty_share=0.25, latent_shape=LATENT_SHAPE)
        condition = {"prompt": told[torch.where(d.emptied, 0, setup.pairs.prompt_index[rows])]}

        def error(model: Any, image: int, rows: Any = rows, d: Any = d, c: Any = condition) -> Any:
            clean = mean[rows, image] + std[rows, image] * d.encoding[:, image]
            x = policy.schedule.add_noise(clean, d.noise, d.timesteps)
            eps = model.predict_epsilon(model.denoiser, x, d.timesteps, c)
            return (d.noise - eps).square().mean(dim=(1, 2, 3))

        with torch.no_grad():
            theirs = error(other, 0) - error(other, 1)
        u = -0.5 * BETA * ((error(policy, 0) - error(policy, 1)) - theirs)
        p = torch.from_numpy(labels.p)[rows]
        loss = -torch.nn.functional.logsigmoid((2 * p - 1) * u).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rho = reference.decay_at(step)
        with torch.no_grad():
            for theta, ref in zip(trained, followed, strict=True):
                ref.copy_(rho * ref + (1 - rho) * theta)
        losses.append(float(loss.detach()))
        distances.append(change(trained) / norm(origin))
    return [w.detach() for w in trained], [w.detach() for w in followed], losses, distances


@pytest.mark.parametrize(
    ("reference", "checkpointing"),
    [
        (HardCopy(every=2), False),
        (Frozen(), True),
        (HardCopy(every=2), True),
        (Ema(decay=0.5), True),
    ],
)
def test_adapters_on_one_network_equal_two_networks(
    tmp_path: Path, pipeline: Path, reference: Reference, checkpointing: bool
) -> None:
    """Above all with gradient checkpointing, which asks the network again in the backward pass."""
    trained, followed, losses, distances = by_hand(
        tiny_setup(pipeline, tmp_path / "hand"), pipeline, reference
    )
    setup = tiny_setup(
        pipeline, tmp_path / "loop", micro_batch_size=2, gradient_checkpointing=checkpointing
    )
    outcome = train(setup, reference=reference, beta=BETA, learning_rate=RATE)
    assert apart(adapter(setup), trained) < 1e-2
    assert [r.loss for r in outcome.steps] == pytest.approx(losses, rel=1e-3)
    assert [r.relative_weight_change for r in outcome.steps] == pytest.approx(distances, rel=1e-3)
    assert abs(losses[-1] - losses[0]) > 0.1
    state = torch.load(tmp_path / "loop" / STATE_FILE, weights_only=True)["weights"]
    if isinstance(reference, Frozen):
        assert state["reference"] is None
        assert lora.names(setup.policy.denoiser) == (lora.POLICY,)
    else:
        assert apart(state["reference"], followed) < 1e-2
        assert not same_bytes(state["reference"], state["policy"]) or reference == HardCopy(every=2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_base_stays_as_it_is(tmp_path: Path, pipeline: Path, precision: str) -> None:
    setup = tiny_setup(pipeline, tmp_path, dtype=torch.bfloat16, precision=precision)
    before = base(setup.policy.denoiser)
    train(setup, reference=HardCopy(every=2))
    after = base(setup.policy.denoiser)
    kept = torch.float32 if precision == "fp32" else torch.bfloat16
    assert {w.dtype for w in after.values()} == {kept}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name].to(torch.bfloat16)) for name in before)
    assert {w.dtype for w in adapter(setup)} == {torch.float32}


def test_ties_under_smpo_move_nothing(tmp_path: Path, pipeline: Path) -> None:
    setup = tiny_setup(pipeline, tmp_path, weight_decay=0.0)
    n = len(setup.rewards.human)
    ties = Labels(p=np.full(n, 0.5), kept=np.ones(n, dtype=bool))
    outcome = train(setup, labels=ties, loss=SmoothedSigmoid(), trajectory=Renoise(steps=2))
    assert all(r.grad_norm == 0 and r.relative_weight_change == 0 for r in outcome.steps)
    assert all(r.loss == pytest.approx(math.log(2)) for r in outcome.steps)
    # B starts at zero, so the network is still the backbone, to the bit.
    assert all(bool((b == 0).all()) for b in adapter(setup)[1::2])


@pytest.mark.parametrize(("micro", "loss"), [(3, SmoothedSigmoid()), (1, SupervisedFineTuning())])
def test_micro_batches_change_no_number(
    tmp_path: Path, pipeline: Path, micro: int, loss: Loss
) -> None:
    outcomes, adapters = [], []
    for size in (4, micro):
        setup = tiny_setup(pipeline, tmp_path / str(size), micro_batch_size=size)
        outcomes.append(train(setup, loss=loss, trajectory=Renoise(steps=2)))
        adapters.append(adapter(setup))
    assert apart(*adapters) < 1e-2
    assert outcomes[0].steps[-1].nfe == outcomes[1].steps[-1].nfe
    for a, b in zip(outcomes[0].steps, outcomes[1].steps, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-2)


class Stop(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize(
    ("reference", "killed_at"),
    [
        (Frozen(), 1),
        (HardCopy(every=3), 3),
        (Ema(decay=0.5), 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((Frozen(), 3), (HardCopy(every=3), 1), (Ema(decay=0.5), 1))
        ),
    ],
)
def test_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, pipeline: Path, reference: Reference, killed_at: int
) -> None:
    def run(folder: str, report: Any = lambda _: None) -> tuple[TrainingSetup, TrainingOutcome]:
        setup = tiny_setup(pipeline, tmp_path / folder, report)
        return setup, train(setup, reference=reference)

    def kill(report: StepReport) -> None:
        if report.step == killed_at:
            raise Stop

    whole, expected = run("whole")
    with pytest.raises(Stop):
        run("cut", kill)
    seen: list[int] = []
    resumed, outcome = run("cut", lambda r: seen.append(r.step))
    assert same_bytes(adapter(whole), adapter(resumed))
    assert outcome == expected
    assert seen == list(range(killed_at // 2 * 2 + 1, 5))


def test_state_holds_the_adapter_and_its_optimiser_alone(tmp_path: Path, pipeline: Path) -> None:
    setup = tiny_setup(pipeline, tmp_path)
    train(setup, reference=HardCopy(every=3))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    moments = [
        value
        for weight in state["optimizer"]["state"].values()
        for value in weight.values()
        if value.ndim
    ]
    held = [*state["weights"]["policy"], *state["weights"]["reference"], *moments]
    size = sum(w.numel() for w in adapter(setup))
    assert sum(t.numel() for t in held) == 4 * size
    assert (tmp_path / STATE_FILE).stat().st_size < 4 * 4 * size + 300_000
    assert size < sum(w.numel() for w in base(setup.policy.denoiser).values()) / 10


def test_alpha_scales_and_defaults_to_the_rank(tmp_path: Path, pipeline: Path) -> None:
    norms = {}
    for alpha in (None, 4.0, 8.0):
        setup = tiny_setup(pipeline, tmp_path / str(alpha), steps=1, lora_alpha=alpha)
        report = train(setup).steps[-1]
        norms[alpha] = report.grad_norm
        expected = change(adapter(setup)) / norm(base(setup.policy.denoiser))
        assert report.relative_weight_change == pytest.approx(
            (alpha or 4.0) / 4 * expected, rel=1e-4
        )
    assert norms[None] == norms[4.0]
    assert norms[8.0] == pytest.approx(2 * norms[4.0], rel=1e-3)


def test_trained_adapter_is_saved_alone(tmp_path: Path, pipeline: Path) -> None:
    """A reference adapter that is left on the denoiser must not reach the checkpoint."""
    setup = tiny_setup(pipeline, tmp_path / "work")
    train(setup, loss=Sigmoid(), reference=HardCopy(every=3))
    (tmp_path / "out").mkdir()
    setup.policy.save_checkpoint(tmp_path / "out")
    fresh = tiny_setup(pipeline, tmp_path / "fresh").policy
    fresh.load_checkpoint(tmp_path / "out")
    x = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(1))
    t, c = (
        torch.tensor([10, 700]),
        {"prompt": torch.from_numpy(setup.pairs.conditions["prompt"][:2])},
    )
    with torch.no_grad():
        expected = setup.policy.predict_epsilon(setup.policy.denoiser, x, t, c)
        found = fresh.predict_epsilon(fresh.denoiser, x, t, c)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reference", [NoReference(), HardCopy(every=1)])
def test_no_reference_is_held_where_none_is_needed(
    tmp_path: Path, pipeline: Path, reference: Reference
) -> None:
    setup = tiny_setup(pipeline, tmp_path, steps=2)
    outcome = train(setup, loss=SupervisedFineTuning(), reference=reference, trajectory=Forward())
    assert outcome.steps[-1].nfe == outcome.pairs_seen
    assert lora.names(setup.policy.denoiser) == (lora.POLICY,)
