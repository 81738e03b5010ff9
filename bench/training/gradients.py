"""Gradients of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bench.lib.distributed import World

BUCKET = 2**25
"""Numbers summed in one call over the processes: few calls, and little memory beside them."""


def sum_gradients(weights: Sequence[torch.nn.Parameter], world: World) -> None:
    """Replace each weight's gradient by its sum over all processes, the same bits in each.

    A process without a share of the batch adds nothing; a weight that no process used keeps no
    gradient, so that the optimiser leaves it alone as it would in one process.
    """
    if world.size == 1:
        return
    used = torch.tensor([w.grad is not None for w in weights], dtype=torch.int32)
    world.sum_([used])
    shared = [w for w, count in zip(weights, used.tolist(), strict=True) if count]
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in shared]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        world.sum_([flat])
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for w, gradient in zip(shared, gradients, strict=True):
        w.grad = gradient


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Neighbours whose numbers together are at most `BUCKET`, or one that is larger itself."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
