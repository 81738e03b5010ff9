"""`--num-processes N`: the same command once a process, on this machine.

Several machines are a matter for `accelerate launch` or `torchrun`, which set the same variables.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.errors import BenchError

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 15.0
"""How long the others may take to end by themselves after one has failed."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Start `python -m bench arguments` in N processes and wait for all; the exit code.

    If one fails, the others, which may wait for it, are ended.

    Raises:
        BenchError: a process other than the main one, which reports its own failures, ended.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        **meeting_point(processes),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    try:
        return _wait(running)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def meeting_point(processes: int) -> dict[str, str]:
    """The variables by which N processes on this machine find each other, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
    }


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int:
    failed_at: float | None = None
    while any(process.poll() is None for process in running):
        if failed_at is None and any(process.poll() for process in running):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
    codes = [process.poll() for process in running]
    if codes[0] in (0, None):
        failed = [(rank, code) for rank, code in enumerate(codes) if code]
        if failed:
            rank, code = failed[0]
            raise BenchError(
                f"process {rank} of {len(running)} ended with exit code {code}, so the run was "
                f"stopped; the same command goes on from here"
            )
    return codes[0] or 0
