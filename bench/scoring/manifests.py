"""Files that list images with their prompts or, as Parquet, hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lib import tables
from bench.lib.errors import BenchError
from bench.lib.reading import below
from bench.lib.tables import Row
from bench.lib.wording import listed as some
from bench.lib.wording import quoted
from bench.scoring.image_set import ImageSet, holds_bytes, listed

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

_IMAGE = ("image", "file_name", "path")
_PROMPT = ("prompt", "caption", "text")
_GROUPS = ("category", "style", "challenge")


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
    table = tables.read(path)
    return _of_paths(path, table.columns, list(table.rows(table.columns)), groups)


def _parquet(path: Path, groups: Sequence[str]) -> ImageSet:
    """Images inside the file stay there: only their paths and the other columns are read."""
    import pyarrow.parquet as pq

    with tables.parquet_errors(path), pq.ParquetFile(path) as file:
        columns = tables.header(path, file.schema_arrow.names)
        image, prompt = _find(path, columns, _IMAGE), _find(path, columns, _PROMPT)
        kind = file.schema_arrow.field(image).type
        inside = _holds_images(path, image, kind)
        wanted = [prompt, *_group_columns(columns, groups).values()]
        if not inside or _has_field(kind, "path"):
            wanted.append(f"{image}.path" if _has_field(kind, "path") else image)
        records = file.read(columns=wanted).to_pylist()
    for record in records:
        cell = record.get(image)
        record[image] = cell["path"] if isinstance(cell, dict) else cell
    rows = [(f"row {i}", record) for i, record in enumerate(records)]
    if not inside or not rows:
        return _of_paths(path, columns, rows, groups)
    return ImageSet(
        source=path,
        names=[record[image] or where for where, record in rows],
        prompts=[_text(path, row, prompt) for row in rows],
        groups=_groups(path, rows, _group_columns(columns, groups)),
        files=[path],
        column=image,
    )


def _holds_images(path: Path, column: str, kind: Any) -> bool:
    """Whether a Parquet column of this type holds images; else it holds their paths."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return False
    inner = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    if types.is_binary(inner) or types.is_large_binary(inner):
        # `datasets` leaves the bytes out of images that it has not embedded.
        return inner is kind or holds_bytes(path, column)
    if inner is not kind and types.is_null(inner):
        return False
    raise BenchError(
        f"{path}: column {column!r} is of type {kind}; expected encoded images (binary), the "
        f"struct of bytes and path that datasets writes, or paths (string)"
    )


def _has_field(kind: Any, name: str) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index(name) >= 0)


def _of_paths(
    path: Path, columns: Sequence[str], rows: Sequence[Row], groups: Sequence[str]
) -> ImageSet:
    if not rows:
        raise BenchError(f"{path}: lists no image")
    image, prompt = _find(path, columns, _IMAGE), _find(path, columns, _PROMPT)
    names = [_text(path, row, image) for row in rows]
    files: list[Path] = []
    missing = []
    for (where, _), name in zip(rows, names, strict=True):
        try:
            files.append(below(path.parent, name))
        except FileNotFoundError:
            missing.append(name)
        except ValueError as error:
            raise BenchError(f"{path}: {where}: image {quoted(name)} {error}") from error
    if missing:
        raise BenchError(
            f"{path}: {len(missing):,} of the {len(names):,} images that it lists are not there: "
            f"{listed(missing)}; paths count from {path.parent}"
        )
    return ImageSet(
        source=path,
        names=names,
        prompts=[_text(path, row, prompt) for row in rows],
        groups=_groups(path, rows, _group_columns(columns, groups)),
        files=files,
    )


def _find(path: Path, columns: Sequence[str], usual: Sequence[str]) -> str:
    by_name = {column.lower(): column for column in reversed(columns)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise BenchError(
        f"{path}: no column is called {', '.join(usual[:-1])} or {usual[-1]}; it has "
        f"{some(columns, 12)}"
    )


def _group_columns(columns: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """Group -> its column."""
    usual = {column.lower(): column for column in columns if column.lower() in _GROUPS}
    return usual | {name: name for name in groups if name in columns and name not in usual}


def _groups(path: Path, rows: Iterable[Row], columns: Mapping[str, str]) -> list[dict[str, str]]:
    """The groups of each row; one without a value is in no such group."""
    every = (
        {
            group: tables.group_of(row.get(column), f"{path}: {where}", column)
            for group, column in columns.items()
        }
        for where, row in rows
    )
    return [{group: name for group, name in groups.items() if name} for groups in every]


def _text(path: Path, row: Row, column: str) -> str:
    where, value = row[0], row[1].get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BenchError(f"{path}: {where}: {column!r} is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise BenchError(f"{path}: {where}: {column!r} is {quoted(value)}, expected a text")
    return value
