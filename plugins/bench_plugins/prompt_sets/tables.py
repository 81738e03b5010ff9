"""Prompts as they stand in .txt, .csv, .tsv, .json, .jsonl and .parquet files.

Text is UTF-8 with or without a byte order mark, with the line ends of any system. Prompts are
never stripped, sorted or deduplicated. A .tsv knows no quoting, as PartiPrompts; a .csv does.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from bench import BenchError, Prompt

_HEAD = 1 << 16
"""Bytes that are enough to tell one format from another."""

_DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}

Rows: TypeAlias = Iterable[tuple[str, Mapping[str, object]]]
"""Where a row stands ("line 3"), and its cells by column."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file of prompts: its columns, and its rows once it is known which columns count."""

    path: Path
    columns: Sequence[str]
    """A list of bare texts has the one column "prompt"."""
    rows: Callable[[Sequence[str]], Rows]
    """Takes the columns to read, so that a Parquet file's images stay where they are."""

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
        values = {name: _group_of(cells.get(c), where, c) for name, c in groups.items()}
        text = _text_of(cells.get(prompt), where, prompt)
        return Prompt(text, {name: value for name, value in values.items() if value})


def read(path: Path) -> Table:
    """The table in a file; its suffix says which format it is.

    Raises:
        BenchError: it cannot be read, is not UTF-8, or is not of its format; names the line.
    """
    match path.suffix.lower():
        case ".csv" | ".tsv" as suffix:
            return _delimited(path, _DIALECTS[suffix])
        case ".txt":
            return _texts(path, _lines(path))
        case ".json":
            return _entries(path, _json_list(path))
        case ".jsonl":
            return _entries(path, _json_lines(path))
        case ".parquet":
            return _parquet(path)
    raise BenchError(f"{path}: not a prompt file; known formats: {', '.join(sorted(SUFFIXES))}")


SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt"})
"""What `read` reads."""


def peek_columns(path: Path) -> frozenset[str]:
    """The columns of a .csv, .tsv, .jsonl or .parquet file by its first line; none if unclear."""
    try:
        match path.suffix.lower():
            case ".parquet":
                return frozenset(_parquet(path).columns)
            case ".jsonl":
                entry = json.loads(_first_line(path))
                return frozenset(entry if isinstance(entry, dict) else ())
            case ".csv" | ".tsv" as suffix:
                return frozenset(next(csv.reader([_first_line(path)], **_DIALECTS[suffix])))
    except (OSError, ValueError, csv.Error, BenchError):
        # Whose file it is stays open; whoever loads it says what is wrong with it.
        pass
    return frozenset()


def peek_text_list(path: Path) -> bool:
    """Whether a .json file begins as a list of texts."""
    try:
        return path.suffix.lower() == ".json" and bool(re.match(r'\s*\[\s*"', _head(path)))
    except OSError:
        return False


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEAD).decode("utf-8-sig", errors="replace")


def _first_line(path: Path) -> str:
    return _head(path).partition("\n")[0].rstrip("\r")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BenchError(
            f"{path}: line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the "
            f"file as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    text = _text(path).removesuffix("\n")
    # str.splitlines would also split at characters that may stand inside a prompt.
    lines = text.split("\n") if text else []
    return ((f"line {number}", line) for number, line in enumerate(lines, start=1))


def _texts(path: Path, texts: Iterable[tuple[str, object]]) -> Table:
    rows = [(where, {"prompt": text}) for where, text in texts]
    return Table(path=path, columns=("prompt",), rows=lambda _: rows)


def _delimited(path: Path, dialect: Mapping[str, Any]) -> Table:
    text = _text(path)
    _, first = next(_records(path, text, dialect), ("", []))
    header = [name.strip() for name in first]
    if not header:
        raise BenchError(f"{path}: the first line is empty; expected the names of the columns")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise BenchError(f"{path}: the column {twice[0]!r} is there twice; rename one")

    def rows(_: Sequence[str]) -> Rows:
        for where, record in islice(_records(path, text, dialect), 1, None):
            if not record:
                raise BenchError(f"{path}: {where} is empty; remove it")
            if len(record) != len(header):
                comma = len(record) > len(header) and dialect["delimiter"] == ","
                hint = '; a prompt that holds a comma stands in quotes: "one, two"' if comma else ""
                raise BenchError(
                    f"{path}: {where} has {len(record)} of {len(header)} columns{hint}"
                )
            yield where, dict(zip(header, record, strict=True))

    return Table(path=path, columns=header, rows=rows)


def _records(path: Path, text: str, dialect: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(text), strict=True, **dialect)
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise BenchError(
                f"{path}: {where}: {error}; a quoted field ends with a quote, and a quote inside "
                f"it is doubled"
            ) from error
        if record is None:
            return
        yield where, record


def _json_list(path: Path) -> list[tuple[str, object]]:
    text = _text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(data, list):
        raise BenchError(f"{path}: expected a JSON list, of texts or of objects")
    return [(f"entry {i}", entry) for i, entry in enumerate(data)]


def _json_lines(path: Path) -> list[tuple[str, object]]:
    entries = []
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            entries.append((where, json.loads(line)))
        except json.JSONDecodeError as error:
            raise BenchError(f"{path}: {where}: not valid JSON ({error.msg})") from error
    return entries


def _entries(path: Path, entries: Sequence[tuple[str, object]]) -> Table:
    """JSON values, either all texts or all objects."""
    objects = [(where, entry) for where, entry in entries if isinstance(entry, dict)]
    texts = [(where, entry) for where, entry in entries if isinstance(entry, str)]
    if len(texts) == len(entries):
        return _texts(path, texts)
    if len(objects) == len(entries):
        columns = list(dict.fromkeys(key for _, entry in objects for key in entry))
        return Table(path=path, columns=columns, rows=lambda _: objects)
    kind = dict if isinstance(entries[0][1], dict) else str
    where, entry = next(e for e in entries if not isinstance(e[1], kind))
    raise BenchError(
        f"{path}: {where} is of type {type(entry).__name__}; expected texts alone or objects alone"
    )


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    def rows(wanted: Sequence[str]) -> Rows:
        with _parquet_errors(path):
            records = pq.ParquetFile(path).read(columns=list(wanted)).to_pylist()
        return ((f"row {i}", record) for i, record in enumerate(records))

    with _parquet_errors(path):
        columns = pq.read_schema(path).names
    return Table(path=path, columns=columns, rows=rows)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path}: not a readable Parquet file ({reason})") from error


def _text_of(value: object, where: str, column: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BenchError(f"{where}: the prompt is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise BenchError(
            f"{where}: {column!r} holds {type(value).__name__}, no text; name the column of the "
            f"prompts"
        )
    return value


def _group_of(value: object, where: str, column: str) -> str:
    if value is None or value != value:  # NaN is how pandas says that a number is missing
        return ""
    if not isinstance(value, str | int | float):
        raise BenchError(
            f"{where}: {column!r} holds {type(value).__name__}; a group is a text or a number"
        )
    return str(value).strip()


def _missing(path: Path, name: str, present: Sequence[str]) -> BenchError:
    close = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return BenchError(f"{path}: column {name!r} is missing{hint}; it has {', '.join(present)}")
