"""Denoiser evaluations, counted where the denoiser is asked: one latent through it once is one.

Every network that a policy hands out as its denoiser, or is asked through, carries one hook from
then on (`watch`). The hook is a plain function, so that copies of the network (references, moving
averages) carry it too; it stands on the outermost module alone, so that neither compiled blocks
nor activations that gradient checkpointing computes again count twice. Whoever wants to know how
many evaluations a block of work takes opens a `counting` around it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Evaluations:
    """How many evaluations this process has spent since `counting` began."""

    spent: int = 0
    carried: int = 0
    """Evaluations, of all processes, behind the state that work goes on from after a kill."""


_open: list[Evaluations] = []
"""Plain and not a context variable: autograd and plugins ask from threads of their own."""


@contextmanager
def counting() -> Iterator[Evaluations]:
    """Count until the block ends; an inner count does not take from an outer one."""
    count = Evaluations()
    _open.append(count)
    try:
        yield count
    finally:
        # By identity: two counts may be equal.
        _open[:] = [other for other in _open if other is not count]


def carry(evaluations: int) -> None:
    """Tell every open count what went, in earlier attempts, into the state that work goes on from.

    Steps that a killed attempt had done after that state are done again and not told, so that
    what was interrupted ends with the count of what was not. Every process tells the same.
    """
    for count in _open:
        count.carried += evaluations


def watch(network: torch.nn.Module) -> None:
    """Have what `network` is asked from now on counted, however often this is called.

    What wraps a watched network (torch.compile, peft, data parallelism) is counted through it.
    """
    if not any(_count in module._forward_pre_hooks.values() for module in network.modules()):
        network.register_forward_pre_hook(_count, with_kwargs=True)


# Where a whole network is compiled, the hook is called from the compiled code: a graph that was
# made for one count must not be made again for the next.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Add the batch of latents, which are what a denoiser is given first."""
    if _open:
        first = next(iter(inspect.signature(module.forward).parameters))
        latents = args[0] if args else kwargs[first]
        for count in _open:
            count.spent += len(latents)
