"""Progress that people can read: bars with estimates on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

_LINE_SECONDS = 10.0


def quiet_libraries(*, diffusers: bool = True) -> None:
    """Keep the bars that diffusers and transformers draw while loading out of our own.

    Args:
        diffusers: whether it will be used; importing it takes seconds.
    """
    import transformers.utils.logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if diffusers:
        import diffusers.utils.logging as diffusers_logging

        diffusers_logging.disable_progress_bar()


class Task(Protocol):
    """Work under way."""

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more units are done; `note` is shown beside them (loss, accuracy, ...)."""
        ...


class Progress:
    """Reports long work to a console."""

    def __init__(self, console: Console) -> None:
        """Bars if the console is a terminal, else a line every ten seconds."""
        self.console = console

    def say(self, text: str) -> None:
        """Print one line, above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Task]:
        """Show one task until the block ends."""
        if self.console.is_terminal:
            with _bar(self.console) as bar:
                yield _BarTask(bar, label, total)
        else:
            yield _LineTask(self, label, total)


def _bar(console: Console):  # type: ignore[no-untyped-def]
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )


class _BarTask:
    def __init__(self, bar, label: str, total: int) -> None:  # type: ignore[no-untyped-def]
        self._bar, self._id = bar, bar.add_task(label, total=total, note="")

    def advance(self, amount: int, note: str = "") -> None:
        self._bar.update(self._id, advance=amount, note=note)


class _LineTask:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress, self._label, self._total = progress, label, total
        self._done, self._first = 0, 0
        self._start = self._last = time.monotonic()

    def advance(self, amount: int, note: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if self._first == 0:
            # Work that an earlier run had done arrives at once; it says nothing about speed.
            self._first = self._done
        if now - self._last < _LINE_SECONDS and self._done < self._total:
            return
        self._last = now
        fresh = max(self._done - self._first, 1)
        left = (self._total - self._done) * (now - self._start) / fresh
        ending = f", about {left:.0f} s left" if self._done < self._total else ""
        self._progress.say(
            f"  {self._label}: {self._done}/{self._total}{ending}{'  ' + note if note else ''}"
        )
