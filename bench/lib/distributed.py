"""Several processes at one run: who does which share, and how results meet.

`accelerate launch`, `torchrun` and `bench run --num-processes` all start the same command once a
process and set RANK, LOCAL_RANK and WORLD_SIZE. Work that does not depend on other work (labelling,
sampling, scoring) is cut into the same pieces whatever the number of processes, and process r of W
does pieces r, r + W, ...; so the number of processes changes no result.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from bench.lib.errors import BenchError
from bench.lib.wording import quoted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_REMEDY = "unset such variables, or let accelerate or torchrun set them"
TIMEOUT = timedelta(hours=24)
"""A process may wait this long for another, which may be busy with a stage of its own."""


EVERYWHERE = "everywhere"
"""Set on an exception that all processes know of, so that none waits for the one that failed."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those of one run. Alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """The position on this machine, which is the GPU's number."""

    @classmethod
    def from_environment(cls) -> World:
        """What the launcher set; alone if this process was started by hand.

        Raises:
            BenchError: the variables are not what a launcher sets.
        """
        size = _variable("WORLD_SIZE", 1)
        rank = _variable("RANK", 0 if size <= 1 else None)
        local = _variable("LOCAL_RANK", rank)
        if not (size >= 1 and 0 <= rank < size and local >= 0):
            raise BenchError(
                f"WORLD_SIZE={size}, RANK={rank}, LOCAL_RANK={local} describe no group of "
                f"processes; {_REMEDY}"
            )
        return cls(rank=rank, size=size, local_rank=local)

    @property
    def is_main(self) -> bool:
        """Whether this process commits results and talks to people."""
        return self.rank == 0

    def connect(self, device: str) -> None:
        """Join the other processes; nothing to do alone.

        Raises:
            BenchError: the environment does not say where they meet.
        """
        if self.size == 1:
            return
        if not os.environ.get("MASTER_ADDR"):
            raise BenchError(f"MASTER_ADDR is not set, though WORLD_SIZE is; {_REMEDY}")
        if not 0 < (port := _variable("MASTER_PORT", None)) < 1 << 16:
            raise BenchError(f"MASTER_PORT={port} is no port; {_REMEDY}")
        import torch.distributed as dist

        if not dist.is_initialized():
            # Imported later, as torch._dynamo does, it takes the group into default arguments and
            # so keeps gloo's threads alive, which now and then abort a process that ends.
            import torch.distributed.nn  # noqa: F401

            # gloo carries objects and CPU tensors; nccl the gradients on GPUs.
            backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
            with _standard_output_on_standard_error():
                dist.init_process_group(backend, timeout=TIMEOUT)
            # However the command ends; only who has joined has anything to leave.
            atexit.register(self.close)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()

    def shard(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`, which must be the same list everywhere."""
        return items[self.rank :: self.size]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Do this process's share of a block; all leave it together or fail together.

        The block itself must not wait for other processes.

        Raises:
            BenchError: another process failed; says which and why.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            own = error
        reason = None if own is None else f"{type(own).__name__}: {own}"
        if isinstance(own, BenchError):
            reason = str(own)
        if own is not None:
            vars(own)[EVERYWHERE] = True
        failures = [(rank, text) for rank, text in enumerate(self.gather(reason)) if text]
        if own is not None:
            raise own
        if failures:
            raise BenchError(f"{failures[0][1]} (in process {failures[0][0]} of {self.size})")

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; any object that can be pickled."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The main process's value, everywhere."""
        result: T = self.gather(value)[0]
        return result

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)


def _variable(name: str, default: int | None) -> int:
    """A whole number from the environment; without a default it must be there."""
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        problem = f"is {quoted(text)}, not a number" if text else "is not set, though WORLD_SIZE is"
        raise BenchError(f"{name} {problem}; {_REMEDY}")
    return int(text)


@contextmanager
def _standard_output_on_standard_error() -> Iterator[None]:
    """Standard output is for results, and gloo of torch 2.8 and 2.9 prints there as it connects."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


ALONE = World()
