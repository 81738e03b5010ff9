"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bench.lib.wording import listed, quoted

_CLOSE = 5
"""Names that are suggested at most."""


class BenchError(Exception):
    """A mistake or mishap outside the code; the message says what, where and the remedy."""


class UnknownNameError(BenchError):
    """A name was asked for that nothing carries."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        """`what` is the noun ("method"), `known` every name that would have been right."""
        names = sorted(known)
        # Longer than any name; comparing would take its time.
        close = difflib.get_close_matches(name[:200], names, n=_CLOSE, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        if not names:
            hint = " There are none."
        elif not close or len(names) <= _CLOSE:
            hint += f" Known: {listed(names, _CLOSE)}."
        super().__init__(f"unknown {what} {quoted(name)}.{hint}")


class DivergedError(BenchError):
    """Training produced a number that is not finite; the cell has failed, others go on."""


class DamagedArtefactError(BenchError):
    """A finished artefact's bytes no longer match the checksums taken when it was made."""


class StoreError(BenchError):
    """The suite's own files cannot be written: the whole run ends, since nothing could be kept."""


class PluginError(BenchError):
    """A plugin raised or gave what it must not; the message names it and says what was expected.

    Whatever it raised itself is the `__cause__`.
    """


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    # Not `str`, which a plugin's own class may have broken.
    text = RuntimeError.__str__(error)
    return "can't allocate memory" in text or "not enough memory" in text
