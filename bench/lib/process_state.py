"""The state that all code of a process shares, such as global random generators.

Nothing of the core reads it, but plugins may, and may leave it other than they found it. Kept for
the length of a stage, it cannot carry anything from one cell to the next.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np

_Undo: TypeAlias = Callable[[], object]


@contextmanager
def kept(seed: int) -> Iterator[None]:
    """Begin with global generators seeded by `seed`; put everything back at the end.

    Put back are the generators of Python, NumPy and torch, the working folder, warnings that were
    made errors, NumPy's error handling, and torch's switches: gradients, default type and device,
    threads, determinism, anomaly detection, autocast, the back-ends' choices and hooks on all
    modules.

    Args:
        seed: below 2^63.
    """
    with ExitStack() as undo:
        undo.enter_context(np.errstate())
        for put_back in (*_folder(), *_generators(), *_warnings()):
            undo.callback(put_back)
        undo.enter_context(switches_kept())
        _seed(seed)
        yield


@contextmanager
def switches_kept() -> Iterator[None]:
    """Put torch's switches back at the end of a block, as `kept` does."""
    with ExitStack() as undo:
        for put_back in _torch_switches():
            undo.callback(put_back)
        yield


def collect_garbage() -> None:
    """Give back the memory that a failure has left in cycles, on a GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _folder() -> Iterator[_Undo]:
    try:
        folder = os.getcwd()
    except OSError:
        return

    def back() -> None:
        # It may have been removed meanwhile.
        with suppress(OSError):
            os.chdir(folder)

    yield back


def _warnings() -> Iterator[_Undo]:
    """Only what makes errors of them: libraries silence some for good when they are imported."""
    before = [*warnings.filters]

    def back() -> None:
        for entry in [*warnings.filters]:
            if entry[0] == "error" and entry not in before:
                warnings.filters.remove(entry)  # type: ignore[attr-defined]
        warnings._filters_mutated()  # type: ignore[attr-defined]

    yield back


def _generators() -> Iterator[_Undo]:
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield lambda: random.setstate(python)
    yield lambda: np.random.set_state(numpy)
    yield lambda: torch.set_rng_state(cpu)
    if torch.cuda.is_available():
        devices = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(devices)


def _seed(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _torch_switches() -> Iterator[_Undo]:
    """Ways back to torch's switches as they are now."""
    import torch

    cuda = torch.backends.cuda
    yield _way_back(torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield _way_back(torch.get_default_dtype, torch.set_default_dtype)
    yield _way_back(torch.get_num_threads, torch.set_num_threads)
    yield _way_back(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly)
    yield _way_back(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode)
    yield _way_back(cuda.flash_sdp_enabled, cuda.enable_flash_sdp)
    yield _way_back(cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp)
    yield _way_back(cuda.math_sdp_enabled, cuda.enable_math_sdp)
    yield _way_back(cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp)
    for kind in ("cpu", "cuda"):
        yield _way_back(
            partial(torch.is_autocast_enabled, kind), partial(torch.set_autocast_enabled, kind)
        )
        yield _way_back(
            partial(torch.get_autocast_dtype, kind), partial(torch.set_autocast_dtype, kind)
        )
    for owner, names in (
        (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
        (cuda.matmul, ("allow_tf32", *_REDUCED)),
        (torch.backends.mkldnn, ("enabled", "deterministic")),
        (torch.utils.deterministic, ("fill_uninitialized_memory",)),
    ):
        for name in names:
            yield _way_back(partial(getattr, owner, name), partial(setattr, owner, name))
    yield _way_back(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    yield from _float32_precisions()
    # It cannot be read, and nothing of the core switches it on.
    yield lambda: torch.set_flush_denormal(False)
    # Not back to none, after which torch 2.8 fails where it is asked for its default.
    yield _way_back(torch.get_default_device, torch.set_default_device)
    hooks = [
        value
        for name, value in vars(torch.nn.modules.module).items()
        if name.startswith("_global_") and isinstance(value, dict)
    ]
    for registered in hooks:
        yield partial(_refill, registered, dict(registered))


_REDUCED = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
)


def _float32_precisions() -> Iterator[_Undo]:
    """Since torch 2.9 every back-end has its own; the general one must be put back first."""
    import torch

    backends = torch.backends
    owners: list[Any] = [
        backends.cudnn.rnn if hasattr(backends.cudnn, "rnn") else None,
        backends.cudnn.conv if hasattr(backends.cudnn, "conv") else None,
        backends.cuda.matmul,
        backends.cudnn,
        backends,
    ]
    for owner in owners:
        if hasattr(owner, "fp32_precision"):
            name = "fp32_precision"
            yield _way_back(partial(getattr, owner, name), partial(setattr, owner, name))


def _way_back(read: Callable[[], Any], write: Callable[[Any], object]) -> _Undo:
    before = read()

    def back() -> None:
        try:
            same = read() == before
        except RuntimeError:
            # torch refuses to read an older switch while newer ones contradict it.
            same = False
        if not same:
            write(before)

    return back


def _refill(registered: dict[Any, Any], before: dict[Any, Any]) -> None:
    registered.clear()
    registered.update(before)
