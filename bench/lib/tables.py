"""Tables that people made: the rows of .txt, .csv, .tsv, .json, .jsonl and .parquet files.

Rows come as a stream, so a table may be larger than memory. Text is UTF-8 with or without a byte
order mark, with the line ends of any system. Cells are never stripped, sorted or deduplicated. A
.tsv knows no quoting, as PartiPrompts; a .csv does.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.lib.errors import BenchError
from bench.lib.reading import (
    LONGEST,
    MOST_TEXT,
    decode_json,
    json_value,
    require_regular,
    text_blocks,
    text_lines,
)
from bench.lib.wording import listed, quoted

__all__ = [
    "BATCH",
    "SUFFIXES",
    "ArrowTable",
    "FileTable",
    "Row",
    "Table",
    "Wanted",
    "groups_of",
    "holds_texts",
    "peek",
    "picked",
    "read",
    "require",
    "text_of",
]

_DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet", ".tsv", ".txt"})
"""What `read` reads."""
TEXTS = "prompt"
"""The one column of a list of bare texts."""
BATCH = 16
"""Rows decoded at a time; two images of a megapixel are about a megabyte."""
_BUFFER = 1 << 20
"""Bytes of a Parquet column that are read ahead, in place of its whole row group."""
_SPACE = re.compile(r"[ \t\n\r]*")


class Row(NamedTuple):
    """One row of a table."""

    number: int
    """From 0."""
    where: str
    """For messages: "line 3"."""
    cells: Mapping[str, Any]
    """By column; a JSON object's keys that it lacks are not there."""


class Table(Protocol):
    """Named columns, and rows as a stream."""

    @property
    def source(self) -> str:
        """Where it comes from, for messages."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """The files here that hold it, in their order."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns."""
        ...

    def count(self) -> int:
        """How many rows there are."""
        ...

    def read(self, columns: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows at ascending numbers, or all; other columns need not be read.

        Raises:
            BenchError: it is not of its format, or there is no such row; says where.
        """
        ...


def read(path: Path, *, blank_lines: bool = False, most: int | None = MOST_TEXT) -> FileTable:
    """The table in a file; its suffix says which format it is.

    Args:
        path: the file.
        blank_lines: whether blank lines of a .csv or .tsv are left out; else they are mistakes,
            but for those at the end, which are how many editors leave a file.
        most: bytes that a text may have; None: any number. Parquet files may always be larger.

    Raises:
        BenchError: there is no such file, or it is of another format.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BenchError(f"{path}: not of a known format: {', '.join(sorted(SUFFIXES))}")
    require_regular(path)
    if suffix == ".parquet":
        return ArrowTable(files=(path,), source=str(path))
    return TextTable(path=path, blank_lines=blank_lines, most=most)


def peek(path: Path) -> frozenset[str]:
    """The columns of a file as far as its first row says; none if unclear."""
    try:
        table = read(path, blank_lines=True)
        if isinstance(table, ArrowTable) or path.suffix.lower() in _DIALECTS:
            return frozenset(table.columns)
        first = table.first()
        return frozenset(first if isinstance(first, dict) else ())
    except BenchError:
        # Whose file it is stays open; whoever reads it says what is wrong with it.
        return frozenset()


def holds_texts(path: Path) -> bool:
    """Whether a .json file begins as a list of texts."""
    try:
        return path.suffix.lower() == ".json" and isinstance(TextTable(path=path).first(), str)
    except BenchError:
        return False


class Wanted:
    """Ascending numbers of rows, taken stretch by stretch."""

    def __init__(self, rows: Iterable[int] | None) -> None:
        """None wants all."""
        self._rows = None if rows is None else iter(rows)
        self._next = None if self._rows is None else next(self._rows, None)

    @property
    def done(self) -> bool:
        """Whether none is left."""
        return self._rows is not None and self._next is None

    def within(self, start: int, end: int) -> Sequence[int]:
        """Those in [start, end), where all before `start` were taken."""
        if self._rows is None:
            return range(start, end)
        taken = []
        while self._next is not None and self._next < end:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken

    def check(self, source: str, count: int) -> None:
        """Refuse those that were never reached."""
        if self._next is not None:
            raise BenchError(f"{source}: there is no row {self._next}; it has {count} rows")


def picked(batches: Iterable[Any], start: int, wanted: Wanted) -> Iterator[Row]:
    """The wanted rows of Arrow batches, the first of which begins at row `start`."""
    for batch in batches:
        end = start + batch.num_rows
        for row in wanted.within(start, end):
            cells = {name: batch[name][row - start].as_py() for name in batch.schema.names}
            yield Row(row, f"row {row}", cells)
        start = end
        if wanted.done:
            return


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A file of lines or of JSON. A row's `where` is its line or, in a list, its entry."""

    path: Path
    blank_lines: bool = False
    most: int | None = MOST_TEXT

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def files(self) -> Sequence[Path]:
        """The file."""
        return (self.path,)

    @cached_property
    def columns(self) -> Sequence[str]:
        """By the header; of JSON the keys of all objects."""
        match self.path.suffix.lower():
            case ".txt":
                return [TEXTS]
            case ".csv" | ".tsv":
                return self._header(self._records())
        keys, _ = self._shape
        if not keys:
            raise BenchError(f"{self.path}: holds nothing")
        return keys

    def count(self) -> int:
        """By reading all of the file, once."""
        return self._shape[1]

    @cached_property
    def _shape(self) -> tuple[Sequence[str], int]:
        """The keys and the number of all rows."""
        keys: dict[str, None] = {}
        count = 0
        for _, cells in self._all():
            keys.update(dict.fromkeys(cells))
            count += 1
        return list(keys), count

    def read(self, columns: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows in order with all their cells, which are texts unless the file is JSON."""
        wanted, count = Wanted(rows), 0
        for where, cells in self._all():
            if wanted.done:
                return
            if wanted.within(count, count + 1):
                yield Row(count, where, cells)
            count += 1
        wanted.check(self.source, count)

    def first(self) -> Any:
        """The first value; None if there is none."""
        return next((value for _, value in self._values()), None)

    def _all(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Where every row stands, and its cells: objects alone, or texts as the column `TEXTS`."""
        kind: type | None = None
        for where, value in self._values():
            kind = kind or (dict if isinstance(value, dict) else str)
            if not isinstance(value, kind):
                raise BenchError(
                    f"{self.path}: {where} is of type {type(value).__name__}; expected texts alone "
                    f"or objects alone"
                )
            yield where, value if isinstance(value, dict) else {TEXTS: value}

    def _values(self) -> Iterator[tuple[str, Any]]:
        """Where every text, JSON value or line under a header stands, and what it is."""
        match self.path.suffix.lower():
            case ".csv" | ".tsv":
                yield from self._delimited()
            case ".json":
                yield from _JsonList(self.path, text_blocks(self.path, self.most)).entries()
            case ".jsonl":
                for where, line in self._lines():
                    if line.strip():
                        try:
                            yield where, json_value(line)
                        except ValueError as error:
                            raise _no_json(self.path, where, error) from error
            case _:
                yield from self._lines()

    def _lines(self) -> Iterator[tuple[str, str]]:
        lines = text_lines(self.path, self.most)
        return ((f"line {number}", line) for number, line in enumerate(lines, start=1))

    def _delimited(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        records = self._records()
        columns = self._header(records)
        for where, record in records:
            if len(record) != len(columns):
                comma = len(record) > len(columns) and self.path.suffix.lower() == ".csv"
                hint = '; a text that holds a comma stands in quotes: "one, two"' if comma else ""
                raise BenchError(
                    f"{self.path}: {where} has {len(record)} of {len(columns)} columns{hint}"
                )
            yield where, dict(zip(columns, record, strict=True))

    def _header(self, records: Iterator[tuple[str, list[str]]]) -> Sequence[str]:
        _, first = next(records, ("", None))
        if first is None:
            raise BenchError(
                f"{self.path}: the first line is empty; expected the names of the columns"
            )
        return header(self.path, first)

    def _records(self) -> Iterator[tuple[str, list[str]]]:
        """Where every line of a .csv or .tsv begins that is not blank, and its cells."""
        lines = (f"{line}\n" for line in text_lines(self.path, self.most))
        reader = csv.reader(lines, strict=True, **_DIALECTS[self.path.suffix.lower()])
        blank = ""
        while True:
            where = f"line {reader.line_num + 1}"
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise BenchError(f"{self.path}: {where}: {_csv_problem(error)}") from error
            if record is None:
                return
            if record and blank:
                raise BenchError(f"{self.path}: {blank} is empty; remove it")
            if record:
                yield where, record
            elif not self.blank_lines:
                blank = blank or where


class _JsonList:
    """The entries of a JSON list, of which a few blocks are held in memory."""

    def __init__(self, path: Path, blocks: Iterator[str]) -> None:
        self._path, self._blocks = path, blocks
        self._text, self._at = "", 0
        self._line = 1
        """That at which the text begins."""

    def entries(self) -> Iterator[tuple[str, Any]]:
        """("entry 0", value) and so on."""
        if self._mark() not in ("[", ""):
            raise BenchError(f"{self._path}: expected a JSON list, of texts or of objects")
        self._take("[", "Expecting value")
        number = 0
        while number or self._mark() != "]":
            yield f"entry {number}", self._value(f"entry {number}")
            number += 1
            if self._mark() == "]":
                break
            self._take(",", "Expecting ',' delimiter")
        self._take("]", "Expecting ',' delimiter")
        self._take("", "Extra data")

    def _more(self) -> bool:
        """Read another block and let go of what was taken; False at the end."""
        block = next(self._blocks, None)
        if block is None:
            return False
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at = self._text[self._at :] + block, 0
        return True

    def _mark(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, mark: str, problem: str) -> None:
        if self._mark() != mark:
            raise self._broken(json.JSONDecodeError(problem, self._text, self._at))
        self._at += len(mark)

    def _value(self, where: str) -> Any:
        self._mark()
        while True:
            try:
                value, end = decode_json(self._text, self._at)
            except json.JSONDecodeError as error:
                # It may only be cut by the block's end.
                if len(self._text) - self._at > LONGEST or not self._more():
                    raise self._broken(error) from error
            except ValueError as error:
                raise _no_json(self._path, where, error) from error
            else:
                if end < len(self._text) or not self._more():
                    self._at = end
                    return value

    def _broken(self, error: json.JSONDecodeError) -> BenchError:
        line = self._line + self._text.count("\n", 0, error.pos)
        return _no_json(self._path, f"line {line}", error)


def _no_json(path: Path, where: str, error: ValueError) -> BenchError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else error
    return BenchError(f"{path}: {where}: not valid JSON ({reason})")


@dataclass(frozen=True, kw_only=True)
class ArrowTable:
    """The rows of one or more Parquet files, or of files in Arrow's stream format, in their order.

    A row group is read at most once, and only if a wanted row lies in it; an Arrow file is mapped
    into memory.
    """

    files: tuple[Path, ...]
    source: str

    @cached_property
    def schema(self) -> Any:
        """The Arrow schema of the first file."""
        with _opened(self.files[0]) as file:
            return _schema(file)

    @cached_property
    def columns(self) -> Sequence[str]:
        """Those of the first file."""
        return header(self.files[0], self.schema.names)

    def count(self) -> int:
        """Rows by the files' metadata."""
        total = 0
        for path in self.files:
            with _opened(path) as file:
                total += sum(size for size, _ in _stretches(file, ()))
        return total

    def read(self, columns: Sequence[str], rows: Iterable[int] | None = None) -> Iterator[Row]:
        """The rows, file by file; "image.path" names a field of a struct in Parquet."""
        wanted, start = Wanted(rows), 0
        for path in self.files:
            if wanted.done:
                return
            with _opened(path) as file:
                names = _schema(file).names
                for name in columns:
                    if name not in names and name.rpartition(".")[0] not in names:
                        raise BenchError(f"{path}: column {name!r} is missing in this shard")
                for size, batches in _stretches(file, columns):
                    here = wanted.within(start, start + size)
                    if here:
                        yield from picked(batches(), start, Wanted(here))
                    start += size
        wanted.check(self.source, start)


def _schema(file: Any) -> Any:
    return file.schema_arrow if hasattr(file, "schema_arrow") else file.schema


def _stretches(
    file: Any, columns: Sequence[str]
) -> Iterator[tuple[int, Callable[[], Iterable[Any]]]]:
    """How many rows each stretch of an open file has, and what reads its batches."""
    if not hasattr(file, "num_row_groups"):
        for batch in file:
            yield batch.num_rows, partial(iter, [batch.select(columns)])
        return
    read = partial(file.iter_batches, BATCH, columns=list(columns), use_threads=False)
    for group in range(file.num_row_groups):
        yield file.metadata.row_group(group).num_rows, partial(read, row_groups=[group])


FileTable = TextTable | ArrowTable


def require(table: Table, names: Iterable[str], hint: str = "") -> None:
    """Refuse a table without these columns; `hint` says how others are named."""
    for name in names:
        if name not in table.columns:
            close = difflib.get_close_matches(name, table.columns, n=2, cutoff=0.5)
            meant = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            raise BenchError(
                f"{table.source}: column {quoted(name)} is missing{meant}; it has "
                f"{listed(table.columns, 12)}{hint}"
            )


def text_of(row: Row, column: str, source: str) -> str:
    """The text in a cell.

    Raises:
        BenchError: it is empty, or no text.
    """
    value = row.cells.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BenchError(
            f"{source}: {row.where}: {column!r} is empty; fill it in or remove the row"
        )
    if not isinstance(value, str):
        raise BenchError(
            f"{source}: {row.where}: {column!r} holds {type(value).__name__}, no text; name a "
            f"column of texts"
        )
    return value


def groups_of(row: Row, columns: Mapping[str, str], source: str) -> dict[str, str]:
    """The groups that a row names, by group -> its column; one without a value is left out.

    Raises:
        BenchError: a cell is neither a text nor a number.
    """
    groups = {}
    for group, column in columns.items():
        value = row.cells.get(column)
        if value is None or value != value:  # NaN is how pandas says that a number is missing
            continue
        if not isinstance(value, str | int | float):
            raise BenchError(
                f"{source}: {row.where}: {column!r} holds {type(value).__name__}; a group is a "
                f"text or a number"
            )
        # pandas turns integers with gaps into floats.
        whole = isinstance(value, float) and value.is_integer()
        groups[group] = str(int(value) if whole else value).strip()
    return {group: name for group, name in groups.items() if name}


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


def _csv_problem(error: csv.Error) -> str:
    """What the reader of delimited files found wrong, and the remedy."""
    if "field limit" in str(error):
        return (
            f"a cell has more than the {csv.field_size_limit():,} characters of a text; shorten it"
        )
    return f"{error}; a quoted field ends with a quote, and a quote inside it is doubled"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open Parquet file or Arrow stream; whatever reading it raises becomes one sentence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = path.suffix.lower() == ".parquet"
    # A pipe is never opened.
    require_regular(path)
    try:
        if parquet:
            with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
                yield file
        else:
            with pa.ipc.open_stream(pa.memory_map(str(path))) as file:
                yield file
    except (OSError, pa.ArrowException, UnicodeError) as error:
        kind = "Parquet" if parquet else "Arrow"
        reason = " ".join(str(error).split())
        raise BenchError(f"{path}: not a readable {kind} file ({reason})") from error
