"""Where output goes and what the work runs on, for every command alike."""

from __future__ import annotations

import io
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import typer

from bench.lib.wording import printable, sentence

if TYPE_CHECKING:
    from rich.console import Console

_NARROWEST, _WIDE = 40, 120
"""Columns below which tables are letters, and those of a file."""


def console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """The terminal; where the output goes to a file, wide enough for the tables.

    Names that hold control codes are printed as escapes, and no ":name:" becomes an emoji.
    """
    kind: type[Console] = _console_class()
    terminal = kind(quiet=quiet, stderr=stderr, emoji=False)
    if not terminal.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        return kind(quiet=quiet, stderr=stderr, emoji=False, width=_WIDE)
    if terminal.width < _NARROWEST:
        return kind(quiet=quiet, stderr=stderr, emoji=False, width=_NARROWEST)
    return terminal


def complain(message: str, *, kind: str = "error") -> None:
    """One line on standard error."""
    typer.echo(f"{kind}: {sentence(message)}", err=True)


def accept_any_text() -> None:
    """Let output escape what the terminal's encoding lacks, and go nowhere where it is closed.

    An ASCII terminal has no "±", and no encoding has the bytes of a file name that is not UTF-8.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the caller; a file that is opened next must not take its number.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@cache
def _console_class() -> Any:
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                plain = segment.text if segment.control else printable(segment.text)
                yield segment if plain == segment.text else Segment(plain, segment.style)

    return Plain
