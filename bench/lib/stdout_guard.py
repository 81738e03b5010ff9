"""What plugins print, kept out of what commands give to machines."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

_STDOUT, _STDERR = 1, 2


class ReservedStdout:
    """The standard output for `emit` alone: whatever else is printed goes to the standard error.

    So do prints of threads, of C code, and of processes that plugins start. In a program it stays
    so, since plugins may still print while it ends.
    """

    def __enter__(self) -> ReservedStdout:
        """Keep the standard output, and put the standard error in its place."""
        self._stream = sys.stdout
        # Tests put a stream of their own in its place, and want it back.
        self._replaced = self._stream is not sys.__stdout__
        self._saved: int | None = None
        # Absent, closed, or a pipe that nobody reads any more.
        with suppress(AttributeError, ValueError, OSError):
            self._stream.flush()
        with suppress(OSError):
            self._saved = os.dup(_STDOUT)
            os.dup2(_STDERR, _STDOUT)
        sys.stdout = sys.stderr
        return self

    def emit(self, text: str) -> None:
        """Write a line to the standard output."""
        if self._replaced:
            self._stream.write(f"{text}\n")
        elif self._saved is not None:
            with os.fdopen(os.dup(self._saved), "w", encoding="utf-8") as out:
                out.write(f"{text}\n")

    def __exit__(self, *_: object) -> None:
        """Give it back where it had been replaced."""
        if self._replaced:
            sys.stdout = self._stream
            if self._saved is not None:
                os.dup2(self._saved, _STDOUT)
                os.close(self._saved)


def reserve_stdout(context: typer.Context, wanted: bool) -> ReservedStdout | None:
    """Reserve the standard output until the command ends, if that is wanted."""
    return context.with_resource(ReservedStdout()) if wanted else None
