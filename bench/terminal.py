"""Where output goes and what the work runs on, for every command alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.distributed import World
from bench.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console


def console(*, quiet: bool = False) -> Console:
    """The terminal; where the output goes to a file, wide enough for the tables."""
    from rich.console import Console

    found = Console(quiet=quiet)
    narrow = not found.is_terminal and "COLUMNS" not in os.environ
    return Console(width=120, quiet=quiet) if narrow else found


def device(asked: str, world: World) -> str:
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
        if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
            raise BenchError(f"--device {asked}: this machine has no such GPU")
    except RuntimeError as error:
        raise BenchError(f"--device {asked}: not a device; try cpu, cuda or auto") from error
    return asked
