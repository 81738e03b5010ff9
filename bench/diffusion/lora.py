"""LoRA on a denoiser (Hu et al. 2021, 2106.09685): W + (alpha / rank) B A on the attention layers.

With the adapter off the network is the untouched backbone, so that a frozen reference needs no
second copy in memory; a reference that follows the policy is a second adapter.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bench.lib.errors import BenchError

POLICY = "policy"
REFERENCE = "reference"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers that diffusers' training scripts adapt: attention's projections, all linear."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """An adapter's size."""

    rank: int
    alpha: float


def add(denoiser: Any, settings: LoraSettings, *, seed: int, name: str = POLICY) -> None:
    """Add an adapter that changes nothing yet (B = 0), in float32; the policy's is the active one.

    Args:
        denoiser: a diffusers model.
        settings: rank and alpha.
        seed: of A's random start, drawn on the CPU so that every device gets the same.
        name: of the adapter.

    Raises:
        BenchError: the denoiser has nothing to adapt.
    """
    from peft import LoraConfig

    layers = [key for key, _ in denoiser.named_modules() if key.endswith(TARGETS)]
    if not layers or not hasattr(denoiser, "add_adapter"):
        raise BenchError(
            f"the backbone's denoiser, a {type(denoiser).__name__}, takes no LoRA: it is no model "
            f"of diffusers with layers named {', '.join(TARGETS)}; leave training.lora_rank out"
        )

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        init_lora_weights=True,
        target_modules=list(TARGETS),
    )
    if not names(denoiser):
        denoiser.requires_grad_(False)
    with warnings.catch_warnings():
        # A second adapter on one network is meant here.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        denoiser.add_adapter(config, adapter_name=name)
    source = torch.Generator().manual_seed(seed)
    for key, weight in _named(denoiser, name):
        weight.data = weight.data.float()
        if "lora_A" in key:
            # The reset of torch.nn.Linear, with a generator of our own.
            bound = weight.shape[1] ** -0.5
            drawn = torch.rand(weight.shape, generator=source) * 2 - 1
            weight.data.copy_(drawn * bound)
    for layer in _layers(denoiser):
        layer.set_adapter(POLICY)


def names(denoiser: torch.nn.Module) -> tuple[str, ...]:
    """The adapters that the denoiser carries."""
    return tuple(getattr(denoiser, "peft_config", {}))


def parameters(denoiser: torch.nn.Module, name: str = POLICY) -> list[torch.nn.Parameter]:
    """An adapter's weights, in an order that is the same for every adapter."""
    return [weight for _, weight in _named(denoiser, name)]


@contextmanager
def using(denoiser: torch.nn.Module, name: str | None) -> Iterator[None]:
    """Ask the network through adapter `name`, or with all adapters off (None).

    Only for passes without gradient: what gradient checkpointing runs again in the backward
    pass would see the adapter that is active then.
    """
    layers = _layers(denoiser)
    before = {layer: list(layer.active_adapters) for layer in layers}
    for layer in layers:
        if name is None:
            layer.enable_adapters(False)
        else:
            layer.set_adapter(name)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_adapter(before[layer])
            layer.enable_adapters(True)


def remove(denoiser: Any) -> None:
    """Take all adapters off; the denoiser is the untouched backbone again."""
    if names(denoiser):
        denoiser.unload_lora()


def change_norm(denoiser: torch.nn.Module, name: str = POLICY) -> float:
    """The L2 norm of the change of all weights, ||(alpha / rank) B A||, without forming it."""
    total = 0.0
    for layer in _layers(denoiser):
        a = layer.lora_A[name].weight.detach().double()
        b = layer.lora_B[name].weight.detach().double()
        # ||B A||^2 = trace(A^T B^T B A) = sum of (B^T B) * (A A^T), both rank x rank.
        total += layer.scaling[name] ** 2 * float(((b.T @ b) * (a @ a.T)).sum())
    return math.sqrt(total)


def _layers(denoiser: torch.nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def _named(denoiser: torch.nn.Module, name: str) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (key, weight)
        for key, weight in denoiser.named_parameters()
        if "lora_" in key and f".{name}." in key
    ]
