"""`--num-processes N`: the same command once a process, on this machine.

Several machines are a matter for `accelerate launch` or `torchrun`, which set the same variables.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.lib.errors import BenchError

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 15.0
"""How long the others may take to end by themselves after one has failed."""
_LIFELINE = "BENCH_LAUNCHER"
"""The variable that names the descriptor which closes with the launcher."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Start `python -m bench arguments` in N processes and wait for all; the exit code.

    If one fails, the others, which may wait for it, are ended. None outlives this process, however
    it ends.

    Raises:
        BenchError: a process ended that could not say itself why.
        KeyboardInterrupt: one was interrupted.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    # Nobody writes: the system closes our end when this process ends, even by SIGKILL.
    theirs, ours = os.pipe()
    shared = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        **meeting_point(processes),
        _LIFELINE: str(theirs),
    }
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as ended:
        ended.callback(_end, running)
        ended.callback(os.close, ours)
        ended.callback(os.close, theirs)
        for rank in range(processes):
            with _interrupts_later():
                process = subprocess.Popen(
                    # Nothing of the current folder, which may hold a torch.py, is imported (-P).
                    [sys.executable, "-P", "-m", "bench", *arguments],
                    env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    pass_fds=[theirs],
                )
                running.append(process)
        return _wait(running)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits: here until the block ends, in what is started there until `join_launch`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def join_launch() -> None:
    """Where this process is one of a launch: end it at once when the launcher ends, or at Ctrl-C.

    The system could signal that itself (PR_SET_PDEATHSIG), but only Linux does, and only from the
    moment when it was asked; a pipe that is already closed is noticed as well.
    """
    descriptor = os.environ.pop(_LIFELINE, None)
    if descriptor is None:
        return
    lifeline = int(descriptor)
    # Or a process that this one starts would be told too, and could be what keeps it waiting.
    os.set_inheritable(lifeline, False)

    def wait() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="launcher", daemon=True).start()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


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


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    # All are told before any is waited for.
    for process in running:
        process.kill()
    for process in running:
        process.wait()


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int:
    failed_at: float | None = None
    while any(process.poll() is None for process in running):
        ended = [process.poll() or 0 for process in running]
        if any(code < 0 for code in ended):
            # Killed, it cannot have told the others; they would wait for it.
            break
        if failed_at is None and any(ended):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
            break
        time.sleep(_POLL_SECONDS)
    codes = [process.poll() for process in running]
    if -signal.SIGINT in codes:
        raise KeyboardInterrupt
    main = codes[0]
    if main is not None and main > 0:
        # It has said itself why.
        return main
    for rank, code in enumerate(codes):
        if code:
            raise BenchError(
                f"process {rank} of {len(running)} {_how(code)}, so the run was stopped; the same "
                f"command goes on from here"
            )
    return 0


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = " (has the machine run out of memory?)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
