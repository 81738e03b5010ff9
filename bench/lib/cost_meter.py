"""What a block of work costs: wall-clock seconds and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Meter:
    """Measures from its making on."""

    def __init__(self, device: str) -> None:
        """Reset the peaks where the system allows it."""
        self._device = device
        self._start = time.monotonic()
        self._resident = _reset_peak()
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    @property
    def seconds(self) -> float:
        """Wall clock since the start."""
        return time.monotonic() - self._start

    @property
    def peak_memory_mb(self) -> float:
        """Peak of device allocations on a GPU, else of resident memory, in MB (10^6 bytes)."""
        if self._device.startswith("cuda"):
            import torch

            return float(torch.cuda.max_memory_allocated(self._device)) / 1e6
        if self._resident:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
        # Without a peak that can be reset, the process's all-time peak is the honest bound.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True
