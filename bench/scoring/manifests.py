"""Files that list images with their prompts or, as Parquet, hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.lib import tables
from bench.lib.errors import BenchError
from bench.lib.reading import below
from bench.lib.tables import FileTable, Row
from bench.lib.wording import listed as some
from bench.lib.wording import quoted
from bench.scoring.image_set import ImageSet, listed

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
    table = tables.read(path)
    image, prompt = _find(table, _IMAGE), _find(table, _PROMPT)
    inside, cell = False, image
    if isinstance(table, tables.ArrowTable):
        # Images inside the file stay there: only their paths and the other columns are read.
        inside = _holds_images(table, image)
        cell = f"{image}.path" if _has_field(table.schema.field(image).type, "path") else image
    columns = _group_columns(table.columns, groups)
    bare = inside and cell == image
    wanted = dict.fromkeys([prompt, *columns.values(), *(() if bare else (cell,))])
    rows = [_with_path(row, image) for row in table.read(list(wanted))]
    if not rows:
        raise BenchError(f"{path}: lists no image")
    if inside:
        names, files = [row.cells[image] or row.where for row in rows], [path]
    else:
        names = [tables.text_of(row, image, table.source) for row in rows]
        files = _files(path, rows, names)
    return ImageSet(
        source=path,
        names=names,
        prompts=[tables.text_of(row, prompt, table.source) for row in rows],
        groups=[tables.groups_of(row, columns, table.source) for row in rows],
        files=files,
        column=image if inside else None,
    )


def _with_path(row: Row, image: str) -> Row:
    """The row with the image's path, None where it has none."""
    cell = row.cells.get(image)
    path = cell.get("path") if isinstance(cell, dict) else cell
    return row._replace(cells={**row.cells, image: path})


def _holds_images(table: tables.ArrowTable, column: str) -> bool:
    """Whether a column holds images; else it holds their paths."""
    from pyarrow import types

    kind = table.schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return False
    inner = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    if types.is_binary(inner) or types.is_large_binary(inner):
        # `datasets` leaves the bytes out of images that it has not embedded.
        cells = (row.cells[column] for row in table.read([f"{column}.bytes"]))
        return inner is kind or any(cell and cell["bytes"] is not None for cell in cells)
    if inner is not kind and types.is_null(inner):
        return False
    raise BenchError(
        f"{table.source}: column {column!r} is of type {kind}; expected encoded images (binary), "
        f"the struct of bytes and path that datasets writes, or paths (string)"
    )


def _has_field(kind: Any, name: str) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index(name) >= 0)


def _files(path: Path, rows: Sequence[Row], names: Sequence[str]) -> list[Path]:
    """The image files of these names."""
    files: list[Path] = []
    missing = []
    for row, name in zip(rows, names, strict=True):
        try:
            files.append(below(path.parent, name))
        except FileNotFoundError:
            missing.append(name)
        except ValueError as error:
            raise BenchError(f"{path}: {row.where}: image {quoted(name)} {error}") from error
    if missing:
        raise BenchError(
            f"{path}: {len(missing):,} of the {len(names):,} images that it lists are not there: "
            f"{listed(missing)}; paths count from {path.parent}"
        )
    return files


def _find(table: FileTable, usual: Sequence[str]) -> str:
    by_name = {column.lower(): column for column in reversed(table.columns)}
    for name in usual:
        if name in by_name:
            return by_name[name]
    raise BenchError(
        f"{table.source}: no column is called {', '.join(usual[:-1])} or {usual[-1]}; it has "
        f"{some(table.columns, 12)}"
    )


def _group_columns(columns: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """Group -> its column."""
    usual = {column.lower(): column for column in columns if column.lower() in _GROUPS}
    return usual | {name: name for name in groups if name in columns and name not in usual}
