"""Files that list images with their prompts or, as Parquet, hold them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bench.errors import BenchError
from bench.evaluation.image_set import ImageSet, listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

_IMAGE = ("image", "file_name", "path")
_PROMPT = ("prompt", "caption", "text")
_GROUPS = ("category", "style", "challenge")
_DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}

Row: TypeAlias = tuple[str, Mapping[str, object]]
"""Where it stands ("line 3"), and its cells by column."""


def open_manifest(path: Path, groups: Sequence[str] = ()) -> ImageSet:
    """The images that a file lists, in its order.

    Args:
        path: a .csv, .tsv (which knows no quoting), .jsonl or .parquet file with the columns
            image (or file_name, path) and prompt (or caption, text). An image is a path, relative
            to the file; in a .parquet file also encoded bytes or the {"bytes", "path"} of
            `datasets`.
        groups: columns that are groups beside category, style and challenge.

    Raises:
        BenchError: the file is not of this form, or images that it lists are not there.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path, groups)
    rows = list(_json_lines(path) if path.suffix.lower() == ".jsonl" else _delimited(path))
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    return _of_paths(path, columns, rows, groups)


def _parquet(path: Path, groups: Sequence[str]) -> ImageSet:
    """Images inside the file stay there: only the other columns that count are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image, prompt = _find(path, schema.names, _IMAGE), _find(path, schema.names, _PROMPT)
            kind = schema.field(image).type
            inside = not (pa.types.is_string(kind) or pa.types.is_large_string(kind))
            wanted = [prompt, *_group_columns(schema.names, groups).values()]
            records = file.read(columns=wanted if inside else [image, *wanted]).to_pylist()
            rows = [(f"row {i}", record) for i, record in enumerate(records)]
            if not inside:
                return _of_paths(path, schema.names, rows, groups)
            names = [where for where, _ in rows]
            if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                cells = file.read(columns=[f"{image}.path"])[image].to_pylist()
                names = [(cell and cell["path"]) or n for cell, n in zip(cells, names, strict=True)]
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path}: not a readable Parquet file ({reason})") from error
    return ImageSet(
        source=path,
        names=names,
        prompts=[_text(path, row, prompt) for row in rows],
        groups=_groups(rows, _group_columns(schema.names, groups)),
        files=[path],
        column=image,
    )


def _of_paths(
    path: Path, columns: Sequence[str], rows: Sequence[Row], groups: Sequence[str]
) -> ImageSet:
    if not rows:
        raise BenchError(f"{path}: lists no image")
    image, prompt = _find(path, columns, _IMAGE), _find(path, columns, _PROMPT)
    names = [_text(path, row, image) for row in rows]
    files = [path.parent / name for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing:
        raise BenchError(
            f"{path}: {len(missing):,} of the {len(names):,} images that it lists are not there: "
            f"{listed(missing)}; paths count from {path.parent}"
        )
    return ImageSet(
        source=path,
        names=names,
        prompts=[_text(path, row, prompt) for row in rows],
        groups=_groups(rows, _group_columns(columns, groups)),
        files=files,
    )


def _find(path: Path, columns: Sequence[str], usual: Sequence[str]) -> str:
    by_name = {column.lower(): column for column in reversed(columns)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise BenchError(
        f"{path}: no column is called {', '.join(usual[:-1])} or {usual[-1]}; it has "
        f"{', '.join(columns)}"
    )


def _group_columns(columns: Sequence[str], asked: Sequence[str]) -> dict[str, str]:
    """Group -> its column."""
    usual = {column.lower(): column for column in columns if column.lower() in _GROUPS}
    return usual | {name: name for name in asked if name in columns and name not in usual}


def _groups(rows: Iterable[Row], columns: Mapping[str, str]) -> list[dict[str, str]]:
    """The groups of each row; one without a value is in no such group."""
    return [
        {group: str(row[column]) for group, column in columns.items() if row.get(column)}
        for _, row in rows
    ]


def _text(path: Path, row: Row, column: str) -> str:
    where, value = row[0], row[1].get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BenchError(f"{path}: {where}: {column!r} is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise BenchError(f"{path}: {where}: {column!r} is {value!r}, expected a text")
    return value


def _delimited(path: Path) -> Iterator[Row]:
    """Every row has as many fields as the header; anything else is refused, not guessed."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, **_DIALECTS[path.suffix.lower()])
            header = next(reader, [])
            for cells in reader:
                where, line = f"line {line + 1}", reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise BenchError(
                        f"{path}: {where} has {len(cells)} of {len(header)} columns; a text with "
                        f"a comma stands in quotes in a .csv"
                    )
                yield where, dict(zip(header, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path}: cannot be read after line {line} ({error})") from error


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise BenchError(f"{path}: line {number}: expected a JSON object")
                yield f"line {number}", row
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: line {number} cannot be read as JSON ({error})") from error
