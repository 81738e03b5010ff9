"""Of all tests: processes that they start hear Ctrl-C, and no test waits for the disk."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

if threading.current_thread() is threading.main_thread():
    # As in the background of a script; what is ignored here would be in every child too.
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts() -> Iterator[None]:
    """What a test writes need not outlive the machine; flushing it is half of a run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
