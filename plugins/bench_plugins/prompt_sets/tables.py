"""Prompts as they stand in the files that `bench.lib.tables` reads, character by character."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError, Prompt
from bench.lib import tables
from bench.lib.reading import json_value, require_regular
from bench.lib.wording import listed, quoted

SUFFIXES = tables.SUFFIXES
"""What `read` reads."""
_HEAD = 1 << 16
"""Bytes that are enough to tell one format from another."""


@dataclass(frozen=True, kw_only=True)
class PromptTable(tables.Table):
    """A file of prompts; a list of bare texts has the one column "prompt"."""

    def prompts(self, prompt: str, groups: Mapping[str, str]) -> tuple[Prompt, ...]:
        """All rows in file order, duplicates included.

        Args:
            prompt: the column of the prompts.
            groups: group name -> its column. A row without a value is in no such group.

        Raises:
            BenchError: a column is missing, a prompt empty, a cell of the wrong kind.
        """
        wanted = list(dict.fromkeys([prompt, *groups.values()]))
        for name in wanted:
            if name not in self.columns:
                raise _missing(self.path, name, self.columns)
        found = tuple(
            self._prompt(f"{self.path}: {where}", cells, prompt, groups)
            for where, cells in self.rows(wanted)
        )
        if not found:
            raise BenchError(f"{self.path}: holds no prompt")
        return found

    def _prompt(
        self, where: str, cells: Mapping[str, object], prompt: str, groups: Mapping[str, str]
    ) -> Prompt:
        values = {name: tables.group_of(cells.get(c), where, c) for name, c in groups.items()}
        text = _text_of(cells.get(prompt), where, prompt)
        return Prompt(text, {name: value for name, value in values.items() if value})


def read(path: Path) -> PromptTable:
    """The prompts in a file; its suffix says which format it is.

    Raises:
        BenchError: it cannot be read, is not UTF-8, or is not of its format; names the line.
    """
    table = tables.read(path)
    return PromptTable(path=path, columns=table.columns, rows=table.rows)


def peek_columns(path: Path) -> frozenset[str]:
    """The columns of a .csv, .tsv, .jsonl or .parquet file by its first line; none if unclear."""
    try:
        match path.suffix.lower():
            case ".parquet":
                return frozenset(tables.read(path).columns)
            case ".jsonl":
                entry = json_value(_first_line(path))
                return frozenset(entry if isinstance(entry, dict) else ())
            case ".csv" | ".tsv" as suffix:
                cells = next(csv.reader([_first_line(path)], **tables.DIALECTS[suffix]))
                return frozenset(tables.header(path, cells))
    except (OSError, ValueError, csv.Error, BenchError):
        # Whose file it is stays open; whoever loads it says what is wrong with it.
        pass
    return frozenset()


def peek_text_list(path: Path) -> bool:
    """Whether a .json file begins as a list of texts."""
    try:
        return path.suffix.lower() == ".json" and bool(re.match(r'\s*\[\s*"', _head(path)))
    except (OSError, BenchError):
        return False


def _head(path: Path) -> str:
    require_regular(path)
    with path.open("rb") as file:
        return file.read(_HEAD).decode("utf-8-sig", errors="replace")


def _first_line(path: Path) -> str:
    return _head(path).partition("\n")[0].rstrip("\r")


def _text_of(value: object, where: str, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BenchError(f"{where}: the prompt is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise BenchError(
            f"{where}: {column!r} holds {type(value).__name__}, no text; name the column of the "
            f"prompts"
        )
    return value


def _missing(path: Path, name: str, present: Sequence[str]) -> BenchError:
    close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return BenchError(
        f"{path}: column {quoted(name)} is missing{hint}; it has {listed(present, 12)}"
    )
