"""What users gave, as messages quote it: on one line, in few characters, without control codes."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but for tab and newline, reversals of direction, halves of characters."""
_CONTROL = re.compile(f"[\t\n]|{_UNPRINTABLE.pattern}")
_LONGEST = 4_000
"""Characters of a whole message."""

_LONGEST_FAILURE = 300
"""Characters of somebody else's own message that are repeated."""

_ENDLESS = re.compile(r"\S{300,}")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 200, 200, 40


def quoted(value: object) -> str:
    """Any value as messages show it: its `repr`, cut to a sensible length."""
    return _SHORT.repr(value)


def one_line(value: object, words: Callable[[Any], str] = str) -> str:
    """What `words` says of a value, on one line that UTF-8 can write, whatever its class does."""
    try:
        return " ".join(words(value).split()).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return "what cannot be shown"


def shown(value: object, longest: int = 80) -> str:
    """Any value, a plugin's own too, in one short line."""
    text = one_line(value, repr)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def failure(error: BaseException) -> str:
    """`ValueError: no such thing`."""
    return f"{type(error).__name__}: {one_line(error)[:_LONGEST_FAILURE]}".rstrip(": ")


def cut(text: str, longest: int = 200) -> str:
    """A text without its middle where it is longer than that."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 3]}...{text[len(text) - tail :]}"


def printable(text: str) -> str:
    r"""The text with what could steer a terminal as escapes: ESC becomes \x1b."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def sentence(text: str) -> str:
    """A message as it is printed: one line, of bounded length, without control codes."""
    line = printable(re.sub(r"\s*\n\s*", " ", text.strip()))
    # A path or name that long is known by its ends; the words around it are what is to be read.
    return cut(_ENDLESS.sub(lambda match: cut(match[0]), line), _LONGEST)


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first few names, and how many there are where it is more."""
    every: Sequence[str] = [cut(str(name)) for name in names]
    more = f", ... ({len(every):,} in all)" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def control_character(text: str) -> str | None:
    """The first character that no name may hold, as U+001B; None if there is none."""
    match = _CONTROL.search(text)
    return f"U+{ord(match[0]):04X}" if match else None
