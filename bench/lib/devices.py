"""The device that work runs on."""

from __future__ import annotations

from bench.lib.distributed import World
from bench.lib.errors import BenchError


def named(asked: str, world: World) -> str:
    """The device that `--device` means in this process.

    Raises:
        BenchError: there is no such device.
    """
    import torch

    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and world.size > 1:
        asked = f"cuda:{world.local_rank}"
    try:
        found = torch.device(asked)
        if found.type == "meta":
            raise BenchError(f"--device {asked}: holds no values; try cpu, cuda or auto")
        if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
            raise BenchError(f"--device {asked}: this machine has no such GPU")
    except RuntimeError as error:
        raise BenchError(f"--device {asked}: not a device; try cpu, cuda or auto") from error
    return asked
