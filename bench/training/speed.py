"""What makes training faster or smaller without changing what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from bench.lib.errors import BenchError
from bench.lib.process_state import switches_kept

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
    with switches_kept():
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        yield


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
