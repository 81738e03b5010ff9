"""Tables of pairs as streams: Parquet, `datasets` folders, the Hub, CSV, TSV and JSON.

Nothing is read as a whole: a table gives the records at ascending positions, a few at a time,
and leaves out what no position needs as far as its format allows.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeAlias

from bench import BenchError
from bench.lib import hub
from bench.lib.reading import decode_json, json_value, read_text, require_regular
from bench.lib.tables import DIALECTS, csv_problem, header, parquet_errors
from bench.lib.wording import listed
from bench.preferences.writing import PROVENANCE

BATCH = 16
"""Rows decoded at a time; two images of a megapixel are about a megabyte."""
_BUFFER = 1 << 20
"""Bytes of a Parquet column that are read ahead, in place of its whole row group."""
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
"""How `datasets` names the shards of a split, on the Hub and in folders that it wrote."""
_BLOCK, _LONGEST = 1 << 20, 1 << 24
"""Characters of JSON read at a time, and of the longest entry."""
_GAP = re.compile(r"[\s,]*")
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"

Record: TypeAlias = Mapping[str, Any]


class Records(Protocol):
    """A table of pairs."""

    @property
    def source(self) -> str:
        """Where it comes from, for messages."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns."""
        ...

    @property
    def root(self) -> Path | None:
        """The folder that paths in its cells are relative to; None: it has none."""
        ...

    def count(self) -> int:
        """How many records there are."""
        ...

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """(position, cells) of the records at ascending positions, or of all."""
        ...

    def fingerprint(self) -> str:
        """A hash of the content, or the Hub commit."""
        ...


def open_records(path: str, split: str = "", revision: str = "main") -> Records:
    """The table that a local file or folder, or a Hub id, names.

    Args:
        path: a .parquet, .csv, .tsv, .jsonl or .json file; a folder of .parquet files or one
            that `datasets` saved; or a Hub id.
        split: which part of a set that has several.
        revision: for a Hub id.

    Raises:
        BenchError: nothing is there, it is of no known form, or `split` does not fit.
    """
    here = hub.local(path)
    if here is None:
        return HubRecords(repo=path, asked_split=split, revision=revision)
    if here.is_dir():
        return _open_folder(here, split)
    if split:
        raise BenchError(f"{here}: a single file has no splits; leave split={split} out")
    suffix = here.suffix.lower()
    if suffix == ".parquet":
        return ParquetRecords(files=(here,), source=str(here), root=here.parent)
    if suffix in DIALECTS:
        return DelimitedRecords(path=here)
    if suffix in (".jsonl", ".json"):
        return JsonRecords(path=here)
    raise BenchError(f"{here}: expected a .parquet, .csv, .tsv, .jsonl or .json file, or a folder")


def _open_folder(folder: Path, split: str) -> Records:
    if (folder / _SAVED_SPLITS).exists():
        splits = _saved_splits(folder)
        return SavedRecords(folder=folder / choose_split(str(folder), splits, split))
    if (folder / _SAVED).exists():
        if split:
            raise BenchError(f"{folder}: this set has no splits; leave split={split} out")
        return SavedRecords(folder=folder)
    shards = _shards(folder)
    if not shards:
        raise BenchError(f"{folder}: holds no .parquet file, and is no folder that datasets saved")
    by_split: dict[str, list[Path]] = {}
    for file in shards:
        named = _SHARD.fullmatch(file.stem)
        by_split.setdefault(named["split"] if named else "", []).append(file)
    files = by_split[choose_split(str(folder), by_split, split)]
    return ParquetRecords(files=tuple(files), source=str(folder), root=folder)


def choose_split(source: str, splits: Iterable[str], asked: str) -> str:
    """The split that was asked for; else the only one, or of several the one called train.

    Raises:
        BenchError: none was asked for and it is not clear, or there is no such split.
    """
    names = sorted(splits)
    if asked in names:
        return asked
    if not asked and "train" in names:
        return "train"
    listed = ", ".join(name or "(files that name no split)" for name in names)
    if asked:
        raise BenchError(f"{source}: there is no split {asked!r}; there is {listed}")
    if len(names) > 1:
        raise BenchError(f"{source}: holds several splits; choose one with split=...: {listed}")
    return names[0]


def is_tabular(path: Path) -> bool:
    """Whether a path is a Parquet file, a folder of such, or a folder that `datasets` saved."""
    try:
        if path.is_dir():
            return any((path / n).exists() for n in (_SAVED, _SAVED_SPLITS)) or bool(_shards(path))
        return path.suffix.lower() == ".parquet"
    except OSError:
        return False


def peek_columns(path: Path) -> frozenset[str]:
    """The columns of what `is_tabular`; none if unclear."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        folder = path
        if (path / _SAVED_SPLITS).exists():
            folder = path / _saved_splits(path)[0]
        if (folder / _SAVED).exists():
            info = json_value(read_text(folder / "dataset_info.json"))
            return frozenset(info["features"])
        file = _shards(path)[0] if path.is_dir() else path
        require_regular(file)
        return frozenset(pq.read_schema(file).names)
    except (OSError, ValueError, LookupError, TypeError, BenchError, pa.ArrowException):
        # Whoever reads it says what is wrong with it.
        return frozenset()


def require(records: Records, names: Iterable[str], hint: str = "") -> None:
    """Refuse a table without these columns; `hint` says how others are named."""
    for name in names:
        if name not in records.columns:
            close = difflib.get_close_matches(name, records.columns, n=2, cutoff=0.5)
            meant = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            raise BenchError(
                f"{records.source}: column {name!r} is missing{meant}; it has "
                f"{listed(records.columns, 12)}{hint}"
            )


class _Wanted:
    """Ascending positions, taken stretch by stretch."""

    def __init__(self, rows: Iterable[int] | None) -> None:
        self._rows = None if rows is None else iter(rows)
        self._next = None if self._rows is None else next(self._rows, None)

    @property
    def done(self) -> bool:
        """Whether no position is left."""
        return self._rows is not None and self._next is None

    def within(self, start: int, end: int) -> Sequence[int]:
        """The wanted positions in [start, end), where all before `start` were taken."""
        if self._rows is None:
            return range(start, end)
        taken = []
        while self._next is not None and self._next < end:
            taken.append(self._next)
            self._next = next(self._rows, None)
        return taken

    def check(self, source: str, count: int) -> None:
        """Refuse positions that were never reached."""
        if self._next is not None:
            raise BenchError(f"{source}: there is no row {self._next}; it has {count} rows")


def _picked(batches: Iterable[Any], start: int, wanted: _Wanted) -> Iterator[tuple[int, Record]]:
    """The wanted rows of Arrow batches, the first of which begins at position `start`."""
    for batch in batches:
        end = start + batch.num_rows
        for row in wanted.within(start, end):
            yield row, {name: batch[name][row - start].as_py() for name in batch.schema.names}
        start = end
        if wanted.done:
            return


@dataclass(frozen=True, kw_only=True)
class ParquetRecords:
    """The rows of one or more Parquet files, in their order.

    A row group is read at most once, and only if a wanted row lies in it.
    """

    files: tuple[Path, ...]
    source: str
    root: Path

    @cached_property
    def columns(self) -> Sequence[str]:
        """Those of the first file."""
        import pyarrow.parquet as pq

        with parquet_errors(self.files[0]):
            return header(self.files[0], pq.read_schema(self.files[0]).names)

    def count(self) -> int:
        """Rows by the files' metadata."""
        import pyarrow.parquet as pq

        total = 0
        for file in self.files:
            with parquet_errors(file):
                total += pq.read_metadata(file).num_rows
        return total

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """The rows, file by file."""
        import pyarrow.parquet as pq

        wanted, start = _Wanted(rows), 0
        for file in self.files:
            if wanted.done:
                return
            with parquet_errors(file), pq.ParquetFile(file, buffer_size=_BUFFER) as parquet:
                for name in columns:
                    if name not in parquet.schema_arrow.names:
                        raise BenchError(f"{file}: column {name!r} is missing in this shard")
                for group in range(parquet.num_row_groups):
                    end = start + parquet.metadata.row_group(group).num_rows
                    here = wanted.within(start, end)
                    if here:
                        batches = parquet.iter_batches(
                            BATCH, row_groups=[group], columns=list(columns), use_threads=False
                        )
                        yield from _picked(batches, start, _Wanted(here))
                    start = end
        wanted.check(self.source, start)

    def fingerprint(self) -> str:
        """The sha256 of the file; of several files, of theirs in order."""
        return files_hash(self.files)

    def provenance(self) -> Mapping[str, Any]:
        """What the first file says of how it was made; empty if nothing."""
        import pyarrow.parquet as pq

        with parquet_errors(self.files[0]):
            noted = (pq.read_schema(self.files[0]).metadata or {}).get(PROVENANCE.encode(), b"{}")
        try:
            found = json_value(noted.decode())
        except ValueError:
            # Another program's note under the same name.
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True)
class SavedRecords:
    """The rows of a folder that `datasets` wrote with `save_to_disk`, memory-mapped."""

    folder: Path

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def root(self) -> Path:
        """The folder."""
        return self.folder

    @cached_property
    def _table(self) -> Any:
        datasets = _datasets(self.source)
        try:
            return datasets.load_from_disk(str(self.folder)).with_format("arrow")
        except (OSError, ValueError, LookupError) as error:
            raise BenchError(
                f"{self.folder}: not a readable datasets folder ({_line(error)})"
            ) from error

    @property
    def columns(self) -> Sequence[str]:
        """By the folder's features."""
        names: list[str] = self._table.column_names
        return names

    def count(self) -> int:
        """Rows of the memory map."""
        return len(self._table)

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """The rows in order."""
        wanted, count = _Wanted(rows), self.count()
        table = self._table.select_columns(list(columns))
        for start in range(0, count, BATCH):
            if wanted.done:
                return
            end = min(start + BATCH, count)
            here = wanted.within(start, end)
            if here:
                yield from _picked([table[start:end]], start, _Wanted(here))
        wanted.check(self.source, count)

    def fingerprint(self) -> str:
        """A hash of the Arrow files in their order."""
        try:
            state = json_value(read_text(self.folder / _SAVED))
            files = [self.folder / part["filename"] for part in state["_data_files"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise BenchError(f"{self.folder / _SAVED}: cannot be read ({_line(error)})") from error
        return files_hash(files)


@dataclass(frozen=True, kw_only=True)
class HubRecords:
    """The rows of one split of a Hub data set, streamed by `datasets`.

    A stream has no random access: what lies before a wanted row is downloaded too.
    """

    repo: str
    asked_split: str
    revision: str

    @property
    def source(self) -> str:
        """The id, with its revision and split."""
        split = f", split {self.asked_split}" if self.asked_split else ""
        return f"{self.repo}@{self.revision}{split}"

    @property
    def root(self) -> None:
        """None: cells of a Hub set hold images, and a path in one must not name files here."""

    @cached_property
    def _builder(self) -> Any:
        datasets = _datasets(self.source)
        commit = hub.commit(self.repo, self.revision, "dataset")
        with self._clear_errors():
            builder = datasets.load_dataset_builder(self.repo, revision=commit)
        if hasattr(builder.config, "batch_size"):
            # Parquet; its row groups are hundreds of megabytes.
            builder.config.batch_size = BATCH
        return builder

    @cached_property
    def _streams(self) -> Mapping[str, Any]:
        """Split -> its stream."""
        builder = self._builder
        with self._clear_errors():
            return dict(builder.as_streaming_dataset())

    @cached_property
    def split(self) -> str:
        """The split that was asked for, or the only one."""
        return choose_split(f"{self.repo}@{self.revision}", self._streams, self.asked_split)

    @cached_property
    def columns(self) -> Sequence[str]:
        """By the features of the split."""
        with self._clear_errors():
            names = self._streams[self.split].column_names
        if names is None:
            raise BenchError(f"{self.source}: its columns are not stated; download it, give a path")
        return list(names)

    def count(self) -> int:
        """By the data set's card."""
        stated = self._builder.info.splits or {}
        if self.split not in stated or not stated[self.split].num_examples:
            raise BenchError(
                f"{self.source}: its card does not say how many rows there are; download it with "
                f"`hf download {self.repo} --repo-type dataset` and give the folder as path"
            )
        return int(stated[self.split].num_examples)

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """The rows as they arrive."""
        wanted = _Wanted(rows)
        if wanted.done:
            return
        stream = self._streams[self.split].select_columns(list(columns)).with_format("arrow")
        with self._clear_errors():
            yield from _picked(stream.iter(BATCH), 0, wanted)
        wanted.check(self.source, self.count())

    def fingerprint(self) -> str:
        """The id at its commit, and the split."""
        return f"{self.repo}@{hub.commit(self.repo, self.revision, 'dataset')}/{self.asked_split}"

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        with hub.clear_errors(self.repo, self.revision, "dataset"):
            yield


@dataclass(frozen=True, kw_only=True)
class _OneFile:
    path: Path

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.path.parent

    def fingerprint(self) -> str:
        """The sha256 of the file."""
        return files_hash([self.path])


@dataclass(frozen=True, kw_only=True)
class DelimitedRecords(_OneFile):
    """The rows of a .csv (quotes as usual) or .tsv (no quoting) file under its header."""

    @cached_property
    def columns(self) -> Sequence[str]:
        """The first line."""
        _, first = next(self._lines(), (0, []))
        if not first:
            raise BenchError(f"{self.path}: the file is empty; expected a header and pairs")
        return header(self.path, first)

    def count(self) -> int:
        """Lines with content, but for the header."""
        return sum(1 for _ in self._lines()) - 1

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """The rows in order; every cell is a text."""
        names, wanted, row = self.columns, _Wanted(rows), 0
        lines = self._lines()
        next(lines)
        for line, cells in lines:
            if wanted.done:
                return
            if wanted.within(row, row + 1):
                if len(cells) != len(names):
                    raise BenchError(
                        f"{self.path}: line {line} has {len(cells)} of {len(names)} columns"
                    )
                record = dict(zip(names, cells, strict=True))
                yield row, {name: record[name] for name in columns}
            row += 1
        wanted.check(self.source, row)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        line = 0
        require_regular(self.path)
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                dialect = DIALECTS[self.path.suffix.lower()]
                reader = csv.reader(file, strict=True, **dialect)
                for cells in reader:
                    line = reader.line_num
                    if cells:
                        yield line, cells
        except csv.Error as error:
            where = f"{self.path}: line {line + 1}"
            raise BenchError(f"{where}: {csv_problem(error)}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(
                f"{self.path}: cannot be read after line {line} ({_line(error)})"
            ) from error


@dataclass(frozen=True, kw_only=True)
class JsonRecords(_OneFile):
    """The objects of a .jsonl file, one a line, or of the list in a .json file."""

    @cached_property
    def columns(self) -> Sequence[str]:
        """The keys of the first object."""
        first = next(self._objects(), None)
        if first is None:
            raise BenchError(f"{self.path}: the file is empty; expected objects, one a pair")
        return list(first)

    def count(self) -> int:
        """How many objects there are."""
        return sum(1 for _ in self._objects())

    def read(
        self, columns: Sequence[str], rows: Iterable[int] | None
    ) -> Iterator[tuple[int, Record]]:
        """The objects in order; a key that one lacks is None."""
        wanted, row = _Wanted(rows), 0
        for found in self._objects():
            if wanted.done:
                return
            if wanted.within(row, row + 1):
                yield row, {name: found.get(name) for name in columns}
            row += 1
        wanted.check(self.source, row)

    def _objects(self) -> Iterator[Mapping[str, Any]]:
        values = _json_lines if self.path.suffix.lower() == ".jsonl" else _json_list
        require_regular(self.path)
        try:
            with self.path.open(encoding="utf-8-sig") as file:
                for row, value in enumerate(values(file)):
                    if not isinstance(value, dict):
                        raise BenchError(f"{self.path}: row {row}: expected a JSON object")
                    yield value
        except (OSError, ValueError) as error:
            raise BenchError(f"{self.path}: cannot be read as JSON ({_line(error)})") from error


def _json_lines(file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield json_value(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {_problem(error)}") from error


def _json_list(file: TextIO) -> Iterator[Any]:
    """The entries of a JSON list, which may be larger than memory."""
    buffer, start, row = file.read(_BLOCK).lstrip(), 1, 0
    if not buffer.startswith("["):
        raise ValueError("expected a list of objects")
    while True:
        start = _GAP.match(buffer, start).end()  # type: ignore[union-attr]
        if buffer.startswith("]", start):
            return
        try:
            value, start = decode_json(buffer, start)
        except json.JSONDecodeError as error:
            more = file.read(_BLOCK)
            if not more or len(buffer) - start > _LONGEST:
                raise ValueError(f"row {row}: {error.msg}") from error
            buffer, start = buffer[start:] + more, 0
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from error
        else:
            yield value
            row += 1


def _problem(error: ValueError) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _shards(folder: Path) -> list[Path]:
    """Every .parquet file below the folder by path, but for hidden ones."""
    return [folder / name for name in hub.files_below(folder, ("*.[pP][aA][rR][qQ][uU][eE][tT]",))]


def _saved_splits(folder: Path) -> list[str]:
    path = folder / _SAVED_SPLITS
    try:
        names = json_value(read_text(path))["splits"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{path}: cannot be read ({_line(error)})") from error
    return sorted(map(str, names))


def files_hash(files: Sequence[Path]) -> str:
    """The sha256 of one file, or of those of several in order; names do not count."""
    return joined_hash([hub.cached_sha256(file) for file in files])


def joined_hash(hashes: Sequence[str]) -> str:
    """One hash of several; a single one stays as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _datasets(source: str) -> Any:
    """The library `datasets`, without its progress bars."""
    try:
        import datasets
    except ImportError as error:
        raise BenchError(
            f"{source}: reading it needs the package datasets; "
            f"pip install 'diffusion-preference-bench[data]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
