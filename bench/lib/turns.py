"""Work cut in chunks: an interrupted run goes on from them, processes take turns at them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.lib.distributed import World


def chunks_of(count: int, size: int) -> list[range]:
    """The positions 0 to `count` - 1, `size` at a time."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def turns(chunks: Sequence[range], world: World) -> list[tuple[range, int]]:
    """This process's chunks; with each, how many positions all processes do in the same turn."""
    starts = range(0, len(chunks), world.size)
    done = [sum(map(len, chunks[start : start + world.size])) for start in starts]
    return list(zip(world.shard(chunks), done, strict=False))
