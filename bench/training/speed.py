"""What makes training faster or smaller without changing what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from bench.errors import BenchError

Precision = Literal["fp32", "bf16", "fp16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Run passes in `precision`; what must be exact, such as norms, stays in float32."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether GPUs may round the factors of float32 products to TF32 (10 digits of 23).

    Without asking, torch does so in convolutions but not in matrix products.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def settings_kept() -> Iterator[None]:
    """Undo, however the block ends, what it does to torch's settings of the whole process.

    A method that leaves them changed would change the numbers of the methods after it.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = [
        (cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
        (
            matmul,
            ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"),
        ),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, names in flags for name in names]
    gradients, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    device = torch.get_default_device()
    try:
        yield
    finally:
        for owner, name, value in before:
            if getattr(owner, name) != value:
                setattr(owner, name, value)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warned)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


@contextmanager
def checkpointed(denoiser: Any) -> Iterator[None]:
    """Compute activations again in the backward pass instead of holding them.

    diffusers does so in evaluation mode too, in which training keeps the denoiser: dropout, the
    only thing that training mode changes, would draw from the global generator.

    Raises:
        BenchError: the denoiser cannot.
    """
    if not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise BenchError(
            "the backbone's denoiser cannot compute its activations again; "
            "set training.gradient_checkpointing to false"
        )
    denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


@contextmanager
def compiled(networks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """torch.compile in place: the blocks that a diffusers model repeats, or the whole network.

    Weights keep their names, since the modules stay the same. Batch sizes are left open, since
    trajectories ask about fewer and fewer latents, and since a graph that is compiled again in
    between would not fit what gradient checkpointing has noted.
    """
    blocks = [module for network in networks for module in _repeated(network)]
    for module in blocks:
        module.compile(dynamic=True)
    try:
        # Few widths of blocks, each with and without gradient and under each adapter, are more
        # graphs than torch's default limit, past which it goes back to running uncompiled.
        with torch._dynamo.config.patch(cache_size_limit=64):
            yield
    finally:
        for module in blocks:
            # What `compile` sets; torch has no public way back.
            module._compiled_call_impl = None


def _repeated(network: torch.nn.Module) -> list[torch.nn.Module]:
    names = getattr(network, "_repeated_blocks", None) or ()
    return [m for m in network.modules() if type(m).__name__ in names] or [network]
