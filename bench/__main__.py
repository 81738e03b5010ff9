"""`python -m bench` is `bench`, and imports no more of the current folder than that does."""

import os
import sys
from contextlib import suppress

with suppress(OSError):
    # Where Python looks first for what a module started with -m imports; a user's random.py there
    # is not the standard library's.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]

from bench.cli import main

main()
