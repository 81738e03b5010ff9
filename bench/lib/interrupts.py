"""Ctrl-C: one sentence and exit code 130, even where a library or a plugin swallows it.

The first one raises `KeyboardInterrupt`, as always, so that what was begun is tidied up. Code that
catches everything may swallow it and go on with half an answer, so `check` raises it once more
where progress is reported and before an artefact is finished. The second one ends the process at
once; whatever is half written is not used.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

CODE = 130
"""The exit code after Ctrl-C, as shells have it."""
_SENTENCE = "interrupted: what is finished is kept, and the same command goes on from there"

_interrupted = _announced = False


@contextmanager
def watched(*, alone: bool) -> Iterator[None]:
    """Handle Ctrl-C as described above, until the block ends.

    Args:
        alone: whether this process was not started as one of several. Those end at once, at the
            first: they may be waiting for each other in the depths of a library, and whoever
            started them has the word.
    """
    global _interrupted, _announced
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupted = _announced = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As for a command in the background of a script.
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt if alone else signal.SIG_DFL)
    try:
        yield
    finally:
        if not _interrupted:
            signal.signal(signal.SIGINT, before)


def check() -> None:
    """Raise where a Ctrl-C was swallowed.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if _interrupted:
        raise KeyboardInterrupt


def requested() -> bool:
    """Whether there was a Ctrl-C."""
    return _interrupted


def end(*, alone: bool) -> NoReturn:
    """Say that the command was interrupted, unless whoever started this process does, and exit."""
    if alone:
        _announce()
        # An interpreter that ends gives signals back their default, which would be its exit code.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(CODE)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _interrupted
    if _interrupted:
        _announce()
        os._exit(CODE)
    _interrupted = True
    raise KeyboardInterrupt


def _announce() -> None:
    global _announced
    if not _announced:
        _announced = True
        os.write(2, f"{_SENTENCE}\n".encode())
