"""torch.compile of a denoiser in place: the blocks that it repeats, or all of it.

A block is compiled once and used by all that are built alike, so that it takes seconds. Weights
keep their names, since the modules stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def compile_blocks(network: torch.nn.Module, *, dynamic: bool | None = None) -> None:
    """Compile what is not compiled yet; it stays so until `undo`.

    Args:
        network: a diffusers model, or any other.
        dynamic: leave batch sizes open from the start; None: once a second size comes.
    """
    for block in _blocks(network):
        if block._compiled_call_impl is None:
            block.compile(dynamic=dynamic)


def undo(network: torch.nn.Module) -> None:
    """Run the network as it is written again."""
    for block in _blocks(network):
        # What `compile` sets; torch has no public way back.
        block._compiled_call_impl = None


@contextmanager
def compiled(networks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Networks compiled for training, for the length of a block.

    Batch sizes are left open, since trajectories ask about fewer and fewer latents, and since a
    graph that is compiled again in between would not fit what gradient checkpointing has noted.
    """
    for network in networks:
        compile_blocks(network, dynamic=True)
    try:
        # Few widths of blocks, each with and without gradient and under each adapter, are more
        # graphs than torch's default limit, past which it goes back to running uncompiled.
        with torch._dynamo.config.patch(cache_size_limit=64):
            yield
    finally:
        for network in networks:
            undo(network)


def _blocks(network: torch.nn.Module) -> list[torch.nn.Module]:
    names = getattr(network, "_repeated_blocks", None) or ()
    return [m for m in network.modules() if type(m).__name__ in names] or [network]
