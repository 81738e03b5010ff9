"""One latent through the denoiser once is one evaluation, whoever asks and however."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from bench.diffusion import compiling, lora
from bench.diffusion.sampling import sample
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.evaluations import carry, counting
from bench.training import speed
from tests.tiny import LATENT_SHAPE, TOKENS, WIDTH, save_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def policy(folder: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(folder, "cpu")


def _arguments(batch: int = 3) -> dict[str, Any]:
    return {
        "sample": torch.zeros(batch, *LATENT_SHAPE),
        "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.zeros(batch, TOKENS, WIDTH),
    }


def _positional(network: Any) -> None:
    a = _arguments()
    network(a["sample"], a["timestep"], a["encoder_hidden_states"])


def _through(policy: StableDiffusionPolicy, network: Any) -> None:
    a = _arguments()
    told = {"prompt": a["encoder_hidden_states"]}
    policy.predict_epsilon(network, a["sample"], torch.full((3,), 5), told)


def _fresh(policy: StableDiffusionPolicy) -> Any:
    """A network of a method's own, in no way derived from the policy's."""
    return UNet2DConditionModel.from_config(dict(policy.denoiser.config))


ASKED: dict[str, Callable[[StableDiffusionPolicy], object]] = {
    "by position": lambda p: _positional(p.denoiser),
    "by keyword": lambda p: p.denoiser(**dict(reversed(_arguments().items()))),
    "through the policy": lambda p: _through(p, p.denoiser),
    "a copy": lambda p: _positional(copy.deepcopy(p.denoiser)),
    "a copy of a copy": lambda p: _positional(copy.deepcopy(copy.deepcopy(p.denoiser))),
    "a network of its own": lambda p: _through(p, _fresh(p)),
    "under autocast": lambda p: _autocast(p),
    "with a LoRA": lambda p: _with_lora(p),
    "wrapped": lambda p: _positional(_Wrapper(p.denoiser)),
    "wrapped for good": lambda p: (_wrap(p), _through(p, p.denoiser)),
    "compiled for good": lambda p: (_compile(p), _through(p, p.denoiser)),
    "after a reset": lambda p: (p.reset(), _positional(p.denoiser)),
    "computed again in the backward pass": lambda p: _checkpointed(p),
}


class _Wrapper(torch.nn.Module):
    """What data-parallel and compiled modules do: another module around it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def _wrap(policy: StableDiffusionPolicy) -> None:
    policy.denoiser = _Wrapper(policy.denoiser)


def _compile(policy: StableDiffusionPolicy) -> None:
    policy.denoiser = torch.compile(policy.denoiser, backend="eager")


def _autocast(policy: StableDiffusionPolicy) -> None:
    with speed.autocast(torch.device("cpu"), "bf16"):
        _positional(policy.denoiser)


def _with_lora(policy: StableDiffusionPolicy) -> None:
    lora.add(policy.denoiser, lora.LoraSettings(rank=2, alpha=2), seed=0)
    with lora.using(policy.denoiser, None):
        _positional(policy.denoiser)


def _checkpointed(policy: StableDiffusionPolicy) -> None:
    with speed.checkpointed(policy.denoiser):
        policy.denoiser(**_arguments()).sample.sum().backward()


@pytest.mark.parametrize("how", ASKED)
def test_every_way_of_asking_counts_once(policy: StableDiffusionPolicy, how: str) -> None:
    with counting() as spent:
        ASKED[how](policy)
    assert spent.spent == 3


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_compiled_network_is_counted_and_not_compiled_again(
    policy: StableDiffusionPolicy, whole: bool
) -> None:
    denoiser = policy.denoiser
    if whole:
        denoiser._repeated_blocks = ()
    compiled = []

    def note(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    with counting() as spent, torch.no_grad():
        for module in compiling._blocks(denoiser):
            module.compile(backend=note, dynamic=True)
        _positional(denoiser)
        graphs = len(compiled)
        for _ in range(3):
            _positional(denoiser)
    assert spent.spent == 12
    assert len(compiled) == graphs > 0


@pytest.mark.parametrize(("guidance", "copies"), [(7.5, 2), (1.0, 1)])
def test_sampling_counts_guidance_as_it_is(
    policy: StableDiffusionPolicy, guidance: float, copies: int
) -> None:
    with counting() as spent:
        sample(policy, ["a", "b"], [0, 0], steps=3, guidance=guidance)
    assert spent.spent == copies * 3 * 2


def test_counts_nest_and_end(policy: StableDiffusionPolicy) -> None:
    with counting() as outer:
        _positional(policy.denoiser)
        with counting() as inner:
            _positional(policy.denoiser)
            carry(7)
        _positional(policy.denoiser)
    _positional(policy.denoiser)
    assert (outer.spent, inner.spent) == (9, 3)
    assert (outer.carried, inner.carried) == (7, 7)


def test_the_denoiser_is_not_read_before_it_is_asked_for(policy: StableDiffusionPolicy) -> None:
    with counting():
        policy.encode_prompts(["a"])
    assert "unet" not in policy._parts
