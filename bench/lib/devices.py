"""The device that work runs on."""

from __future__ import annotations

from bench.lib.distributed import World
from bench.lib.errors import BenchError


def named(wanted: str, world: World) -> str:
    """The device that `--device` means in this process.

    Raises:
        BenchError: there is no such device.
    """
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and world.size > 1:
        wanted = f"cuda:{world.local_rank}"
    try:
        device = torch.device(wanted)
        if device.type == "meta":
            raise BenchError(f"--device {wanted}: holds no values; try cpu, cuda or auto")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise BenchError(f"--device {wanted}: this machine has no such GPU")
    except RuntimeError as error:
        raise BenchError(f"--device {wanted}: not a device; try cpu, cuda or auto") from error
    return wanted
