"""Names that people chose, made harmless where they are printed: Markdown, CSV, terminals."""

from __future__ import annotations

import re
from typing import Any

_MARKDOWN = re.compile(r"^[-+#=]|[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def printable(text: str) -> str:
    """One line without control characters; what cannot be printed stands as its escape."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def markdown(text: str) -> str:
    """Text that Markdown (also within a table) and HTML show as it is, on one line."""
    line = _MARKDOWN.sub(r"\\\g<0>", printable(text))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """The text as a code span that a table may hold, whatever backticks and pipes are in it."""
    line = printable(text)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    # GitHub splits a table's cells before it looks for code.
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula.

    Text that begins with =, +, -, @, a tab, a line end or ' gets a ' before it; leave that one out
    to have the text again. Numbers stay as they are.
    """
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def from_csv_cell(text: str) -> str:
    """The text that `csv_cell` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
