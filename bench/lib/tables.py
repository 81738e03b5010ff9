"""Tables that people made: the rows of .txt, .csv, .tsv, .json, .jsonl and .parquet files.

Text is UTF-8 with or without a byte order mark, with the line ends of any system. Cells are never
stripped, sorted or deduplicated. A .tsv knows no quoting, as PartiPrompts; a .csv does.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from bench.lib.errors import BenchError
from bench.lib.reading import json_value, read_text, require_regular
from bench.lib.wording import one_line, quoted

DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt"})
"""What `read` reads."""
TEXTS = "prompt"
"""The one column of a list of bare texts."""

Row: TypeAlias = tuple[str, Mapping[str, object]]
"""Where it stands ("line 3"), and its cells by column."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file's columns, and its rows once it is known which columns count."""

    path: Path
    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterable[Row]]
    """Takes the columns to read, so that a Parquet file's images stay where they are."""


def read(path: Path) -> Table:
    """The table in a file; its suffix says which format it is.

    Raises:
        BenchError: it cannot be read, is not UTF-8, or is not of its format; names the line.
    """
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _delimited(path)
        case ".txt":
            return _texts(path, _lines(path))
        case ".json":
            return _entries(path, _json_list(path))
        case ".jsonl":
            return _entries(path, _json_lines(path))
        case ".parquet":
            return _parquet(path)
    raise BenchError(f"{path}: not of a known format: {', '.join(sorted(SUFFIXES))}")


def group_of(value: object, where: str, column: str) -> str:
    """The group that a cell names; "" where it holds nothing.

    Args:
        value: a text or a number; pandas turns integers with gaps into floats, which are taken
            back.
        where: the file and the row, for messages.
        column: for messages.

    Raises:
        BenchError: it is of another kind.
    """
    if value is None or value != value:  # NaN is how pandas says that a number is missing
        return ""
    if not isinstance(value, str | int | float):
        raise BenchError(
            f"{where}: {column!r} holds {type(value).__name__}; a group is a text or a number"
        )
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def header(path: Path, cells: Sequence[str]) -> list[str]:
    """The names of columns in a file's first line.

    Raises:
        BenchError: two are alike.
    """
    names = [name.strip() for name in cells]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise BenchError(f"{path}: the column {quoted(twice[0])} is there twice; rename one")
    return names


def csv_problem(error: csv.Error) -> str:
    """What the reader of delimited files found wrong, and the remedy."""
    if "field limit" in str(error):
        return (
            f"a cell has more than the {csv.field_size_limit():,} characters of a text; shorten it"
        )
    return f"{error}; a quoted field ends with a quote, and a quote inside it is doubled"


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turn whatever reading a Parquet file raises into one sentence; a pipe is never opened."""
    import pyarrow as pa

    require_regular(path)
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise BenchError(f"{path}: not a readable Parquet file ({one_line(error)})") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    text = read_text(path).removesuffix("\n")
    # str.splitlines would also split at characters that may stand inside a text.
    lines = text.split("\n") if text else []
    return ((f"line {number}", line) for number, line in enumerate(lines, start=1))


def _texts(path: Path, texts: Iterable[tuple[str, object]]) -> Table:
    rows = [(where, {TEXTS: text}) for where, text in texts]
    return Table(path=path, columns=(TEXTS,), rows=lambda _: rows)


def _delimited(path: Path) -> Table:
    # Empty lines at the end are how many editors leave a file; elsewhere they may be a mistake.
    text = read_text(path).rstrip("\n")
    _, first = next(_records(path, text), ("", []))
    columns = header(path, first)
    if not columns:
        raise BenchError(f"{path}: the first line is empty; expected the names of the columns")

    def rows(_: Sequence[str]) -> Iterator[Row]:
        for where, record in islice(_records(path, text), 1, None):
            if not record:
                raise BenchError(f"{path}: {where} is empty; remove it")
            if len(record) != len(columns):
                comma = len(record) > len(columns) and path.suffix.lower() == ".csv"
                hint = '; a text that holds a comma stands in quotes: "one, two"' if comma else ""
                raise BenchError(
                    f"{path}: {where} has {len(record)} of {len(columns)} columns{hint}"
                )
            yield where, dict(zip(columns, record, strict=True))

    return Table(path=path, columns=columns, rows=rows)


def _records(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(text), strict=True, **DIALECTS[path.suffix.lower()])
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise BenchError(f"{path}: {where}: {csv_problem(error)}") from error
        if record is None:
            return
        yield where, record


def _json_list(path: Path) -> list[tuple[str, object]]:
    text = read_text(path)
    try:
        data = json_value(text)
    except json.JSONDecodeError as error:
        raise BenchError(f"{path}: line {error.lineno}: not valid JSON ({error.msg})") from error
    except ValueError as error:
        raise BenchError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(data, list):
        raise BenchError(f"{path}: expected a JSON list, of texts or of objects")
    return [(f"entry {i}", entry) for i, entry in enumerate(data)]


def _json_lines(path: Path) -> list[tuple[str, object]]:
    entries = []
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            entries.append((where, json_value(line)))
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise BenchError(f"{path}: {where}: not valid JSON ({reason})") from error
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

    def rows(wanted: Sequence[str]) -> Iterator[Row]:
        with parquet_errors(path):
            records = pq.ParquetFile(path).read(columns=list(wanted)).to_pylist()
        return ((f"row {i}", record) for i, record in enumerate(records))

    with parquet_errors(path):
        columns = header(path, pq.read_schema(path).names)
    return Table(path=path, columns=columns, rows=rows)
