from __future__ import annotations

import math
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.references import HardCopy

from bench import BenchError
from bench.api.kinds import TrainingSetup
from bench.api.training import StepReport
from bench.diffusion.compiling import compiled
from bench.lib.errors import DivergedError
from bench.training import speed
from bench.training.loop import STATE_FILE
from tests.training.conftest import Broken, tiny_setup, toy_setup, train

FULL: dict[str, Any] = {"lora_rank": None}


def trained(setup: TrainingSetup) -> dict[str, torch.Tensor]:
    return {
        name: weight.detach().clone()
        for name, weight in setup.policy.denoiser.named_parameters()
        if weight.requires_grad
    }


def same_bytes(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([w.flatten() for w in weights.values()])


@pytest.mark.parametrize("method", [FULL, {"lora_rank": 4}])
def test_checkpointing_computes_again_and_changes_no_bit(
    tmp_path: Path, pipeline: Path, method: dict[str, Any]
) -> None:
    calls, results, outcomes = [], [], []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        setup = tiny_setup(pipeline, folder, gradient_checkpointing=checkpointing, **method)
        denoiser: Any = setup.policy.denoiser
        asked: list[bool] = []
        block = denoiser.up_blocks[-1].resnets[0]
        block.register_forward_pre_hook(lambda m, _, a=asked: a.append(torch.is_grad_enabled()))
        generator = torch.get_rng_state()
        outcomes.append(train(setup))
        assert torch.equal(generator, torch.get_rng_state())
        assert not denoiser.is_gradient_checkpointing
        assert not denoiser.training
        calls.append(sum(asked))
        results.append(trained(setup))
    assert calls == [4, 8], "once forward, and once more on the way back, a step"
    assert same_bytes(*results)
    assert outcomes[0] == outcomes[1]


def test_checkpointing_needs_a_network_that_can(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"set training\.gradient_checkpointing to false"):
        train(toy_setup(tmp_path, gradient_checkpointing=True))


@pytest.mark.parametrize("method", [FULL, {"lora_rank": 4}])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_passes_train_float32_weights_nearly_alike(
    tmp_path: Path, pipeline: Path, method: dict[str, Any], precision: str
) -> None:
    moved, losses = [], []
    for name in ("fp32", precision):
        setup = tiny_setup(pipeline, tmp_path / name, precision=name, max_grad_norm=1e9, **method)
        start = trained(setup)
        outcome = train(setup, learning_rate=1e-3)
        assert {w.dtype for w in trained(setup).values()} == {torch.float32}
        end = trained(setup)
        moved.append(flat({k: end[k] - start.get(k, torch.zeros(())) for k in end}))
        losses.append([r.loss for r in outcome.steps])
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[1] != losses[0], "autocast must really be on"
    assert float(torch.cosine_similarity(*moved, dim=0)) > 0.8


def test_weights_loaded_in_16_bits_are_trained_in_32(tmp_path: Path, pipeline: Path) -> None:
    setup = tiny_setup(pipeline, tmp_path, dtype=torch.bfloat16, lora_rank=None)
    assert {w.dtype for w in trained(setup).values()} == {torch.bfloat16}
    start = flat(trained(setup)).float()
    outcome = train(setup, learning_rate=1e-6, reference=HardCopy(every=2))
    end = flat(trained(setup))
    assert end.dtype == torch.float32
    # Steps of 1e-6, which bfloat16 cannot add to weights of ordinary size.
    assert 0 < float((end - start).abs().max()) < 1e-5
    assert outcome.steps[-1].relative_weight_change > 0


def overflowing(pipeline: Path, folder: Path, report: Any = lambda _: None) -> TrainingSetup:
    """At a beta of 200, gradients that a scale of 65,536 takes past float16's largest number."""
    return tiny_setup(pipeline, folder, report, precision="fp16", steps=6, **FULL)


class Stop(Exception):
    """Stands for a killed process."""


def test_overflow_skips_the_step_and_resumes_to_the_same_bytes(
    tmp_path: Path, pipeline: Path
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    whole: TrainingSetup = overflowing(
        pipeline, tmp_path / "whole", lambda _: states.append(trained(whole))
    )
    states.append(trained(whole))
    expected = train(whole, beta=200.0)
    skipped = [r.step for r in expected.steps if not math.isfinite(r.grad_norm)]
    assert skipped
    assert len(skipped) < 6, "the scale must come down until steps succeed"
    for step in range(1, 7):
        assert same_bytes(states[step - 1], states[step]) == (step in skipped)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(overflowing(pipeline, tmp_path / "cut", kill), beta=200.0)
    resumed = overflowing(pipeline, tmp_path / "cut")
    outcome = train(resumed, beta=200.0)
    assert same_bytes(trained(whole), trained(resumed))
    assert [repr(r) for r in outcome.steps] == [repr(r) for r in expected.steps]


def test_gradient_that_never_is_finite_diverges_in_fp16_too(tmp_path: Path) -> None:
    setup = toy_setup(tmp_path, precision="fp16", steps=30)
    before = trained(setup)
    # 65,536 is halved 16 times.
    with pytest.raises(DivergedError, match="step 17: the gradient"):
        train(setup, loss=Broken(in_gradient=True))
    assert same_bytes(before, trained(setup))


def test_tf32_is_set_and_restored() -> None:
    def now() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = now()
    with speed.tf32(True):
        assert now() == ("high", True)
        with speed.tf32(False):
            assert now() == ("highest", False)
        assert now() == ("high", True)
    assert now() == before


@pytest.mark.slow
def test_blocks_that_repeat_are_compiled_and_let_go(pipeline: Path, tmp_path: Path) -> None:
    unet = tiny_setup(pipeline, tmp_path).policy.denoiser

    def compiled_now() -> list[str]:
        return [type(m).__name__ for m in unet.modules() if m._compiled_call_impl is not None]

    with compiled([unet]):
        assert compiled_now() == ["BasicTransformerBlock"] * 3
    assert compiled_now() == []


@pytest.mark.parametrize(
    "which", ["whole network", pytest.param("repeated blocks", marks=pytest.mark.slow)]
)
def test_compiled_networks_train_alike_and_keep_their_names(
    tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Traced for real, but run without a C++ compiler, which not every machine has."""

    def setup(folder: str, **changes: Any) -> TrainingSetup:
        if which == "whole network":
            return toy_setup(tmp_path / folder, **changes)
        changes |= {"gradient_checkpointing": True, "steps": 2}
        return tiny_setup(pipeline, tmp_path / folder, **changes)

    plain = setup("plain")
    expected = train(plain, reference=HardCopy(every=2))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_ = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    fast = setup("compiled", compile=True)
    outcome = train(fast, reference=HardCopy(every=2))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert trained(fast).keys() == trained(plain).keys()
    assert all("_orig_mod" not in name for name in fast.policy.denoiser.state_dict())
    assert all(m._compiled_call_impl is None for m in fast.policy.denoiser.modules())
    assert [r.grad_norm for r in outcome.steps] == pytest.approx(
        [r.grad_norm for r in expected.steps], rel=1e-3
    )


def test_adafactor_takes_the_given_learning_rate(tmp_path: Path) -> None:
    """Its first step on a vector is the sign of the gradient, times the rate and nothing else."""
    setup = toy_setup(tmp_path, optimizer="adafactor", steps=1, warmup_steps=1, weight_decay=0.0)
    before = trained(setup)["outer.bias"]
    train(setup, learning_rate=1e-3)
    moved = (trained(setup)["outer.bias"] - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw8bit"])
def test_other_optimizers_resume_to_the_same_bytes(
    tmp_path: Path, pipeline: Path, optimizer: str
) -> None:
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes")

    def setup(folder: str, report: Any = lambda _: None) -> TrainingSetup:
        return tiny_setup(pipeline, tmp_path / folder, report, optimizer=optimizer, **FULL)

    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise Stop

    whole = setup("whole")
    expected = train(whole)
    with pytest.raises(Stop):
        train(setup("cut", kill))
    resumed = setup("cut")
    assert train(resumed) == expected
    assert same_bytes(trained(whole), trained(resumed))


def test_8_bit_adam_keeps_its_states_in_8_bits(tmp_path: Path, pipeline: Path) -> None:
    pytest.importorskip("bitsandbytes")
    sizes, losses = {}, {}
    for optimizer in ("adamw", "adamw8bit"):
        setup = tiny_setup(pipeline, tmp_path / optimizer, optimizer=optimizer, **FULL)
        losses[optimizer] = [r.loss for r in train(setup, learning_rate=1e-4).steps]
        sizes[optimizer] = (tmp_path / optimizer / STATE_FILE).stat().st_size
    assert losses["adamw8bit"] == pytest.approx(losses["adamw"], rel=0.05)
    # Weights and two moments, in 4 + 4 + 4 bytes and in about 4 + 1 + 1.
    assert sizes["adamw8bit"] < 0.7 * sizes["adamw"]


def test_8_bit_adam_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.optim", raising=False)
    with pytest.raises(BenchError, match=r"pip install 'diffusion-preference-bench\[8bit\]'"):
        train(toy_setup(tmp_path, optimizer="adamw8bit"))
