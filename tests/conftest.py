"""Of all tests: processes that they start hear Ctrl-C."""

import signal
import threading

if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    # As in the background of a script; what is ignored here would be in every child too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
