"""Tables of pairs wherever they lie: files, folders of Parquet or of `datasets`, and the Hub.

Nothing is read as a whole: a table gives the rows at ascending positions, a few at a time, and
leaves out what no position needs as far as its format allows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import BenchError
from bench.files import PROVENANCE, hub, json_value, read_text, tables

_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
"""How `datasets` names the shards of a split, on the Hub and in folders that it wrote."""
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


def open_table(path: str, split: str = "", revision: str = "main") -> tables.Table:
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
        return HubTable(repo=path, named_split=split, revision=revision)
    if here.is_dir():
        return _open_folder(here, split)
    if split:
        raise BenchError(f"{here}: a single file has no splits; leave split={split} out")
    if here.suffix.lower() not in tables.SUFFIXES - {".txt"}:
        raise BenchError(
            f"{here}: expected a .parquet, .csv, .tsv, .jsonl or .json file, or a folder"
        )
    return tables.read(here, blank_lines=True, most=None)


def root_of(table: tables.Table) -> Path | None:
    """The folder that paths in cells are relative to; None: cells may name no file.

    Those of a Hub set hold images, and a path in one must not name files here.
    """
    if isinstance(table, HubTable):
        return None
    place = Path(table.source)
    return place if place.is_dir() else place.parent


def fingerprint(table: tables.Table) -> str:
    """A hash of the content, in the order of the files whatever their names; or the Hub commit."""
    if isinstance(table, HubTable):
        return table.commit
    return joined_hash([hub.cached_sha256(file) for file in table.files])


def joined_hash(hashes: Sequence[str]) -> str:
    """One hash of several; a single one stays as it is."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def provenance(table: tables.Table) -> Mapping[str, Any]:
    """What a Parquet file says of how it was made, the first of several; empty if nothing."""
    noted = table.schema.metadata if isinstance(table, tables.ArrowTable) else None
    try:
        data = json_value((noted or {}).get(PROVENANCE.encode(), b"{}").decode())
    except ValueError:
        # Another program's note under the same name.
        return {}
    return data if isinstance(data, dict) else {}


def _open_folder(folder: Path, split: str) -> tables.Table:
    if (folder / _SAVED_SPLITS).exists():
        splits = _saved_splits(folder)
        return _saved(folder / choose_split(str(folder), splits, split))
    if (folder / _SAVED).exists():
        if split:
            raise BenchError(f"{folder}: this set has no splits; leave split={split} out")
        return _saved(folder)
    shards = _shards(folder)
    if not shards:
        raise BenchError(f"{folder}: holds no .parquet file, and is no folder that datasets saved")
    by_split: dict[str, list[Path]] = {}
    for file in shards:
        named = _SHARD.fullmatch(file.stem)
        by_split.setdefault(named["split"] if named else "", []).append(file)
    files = by_split[choose_split(str(folder), by_split, split)]
    return tables.ArrowTable(files=tuple(files), source=str(folder))


def choose_split(source: str, splits: Iterable[str], named: str) -> str:
    """The split that was named; else the only one, or of several the one called train.

    Raises:
        BenchError: none was named and it is not clear, or there is no such split.
    """
    names = sorted(splits)
    if named in names:
        return named
    if not named and "train" in names:
        return "train"
    listed = ", ".join(name or "(files that name no split)" for name in names)
    if named:
        raise BenchError(f"{source}: there is no split {named!r}; there is {listed}")
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
    try:
        if not path.is_dir():
            return tables.peek(path)
        if (path / _SAVED_SPLITS).exists():
            path = path / _saved_splits(path)[0]
        saved = (path / _SAVED).exists()
        table = (
            _saved(path)
            if saved
            else tables.ArrowTable(files=(_shards(path)[0],), source=str(path))
        )
        return frozenset(table.columns)
    except (OSError, LookupError, BenchError):
        # Whoever reads it says what is wrong with it.
        return frozenset()


@dataclass(frozen=True, kw_only=True)
class HubTable:
    """The rows of one split of a Hub data set, streamed by `datasets`.

    A stream has no random access: what lies before a wanted row is downloaded too.
    """

    repo: str
    named_split: str
    revision: str
    files: tuple[Path, ...] = ()

    @property
    def source(self) -> str:
        """The id, with its revision and split."""
        split = f", split {self.named_split}" if self.named_split else ""
        return f"{self.repo}@{self.revision}{split}"

    @cached_property
    def _builder(self) -> Any:
        datasets = _datasets(self.source)
        commit = hub.commit(self.repo, self.revision, "dataset")
        with self._clear_errors():
            builder = datasets.load_dataset_builder(self.repo, revision=commit)
        if hasattr(builder.config, "batch_size"):
            # Parquet; its row groups are hundreds of megabytes.
            builder.config.batch_size = tables.BATCH
        return builder

    @cached_property
    def _streams(self) -> Mapping[str, Any]:
        """Split -> its stream."""
        builder = self._builder
        with self._clear_errors():
            return dict(builder.as_streaming_dataset())

    @cached_property
    def split(self) -> str:
        """The split that was named, or the only one."""
        return choose_split(f"{self.repo}@{self.revision}", self._streams, self.named_split)

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
        self, columns: Sequence[str], rows: Iterable[int] | None = None
    ) -> Iterator[tables.Row]:
        """The rows as they arrive."""
        wanted = tables.Wanted(rows)
        if wanted.done:
            return
        stream = self._streams[self.split].select_columns(list(columns)).with_format("arrow")
        with self._clear_errors():
            yield from tables.picked(stream.iter(tables.BATCH), 0, wanted)
        wanted.check(self.source, self.count())

    @property
    def commit(self) -> str:
        """The id at its commit, and the split."""
        return f"{self.repo}@{hub.commit(self.repo, self.revision, 'dataset')}/{self.named_split}"

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        with hub.clear_errors(self.repo, self.revision, "dataset"):
            yield


def _shards(folder: Path) -> list[Path]:
    """Every .parquet file below the folder by path, but for hidden ones."""
    return [folder / name for name in hub.files_below(folder, ("*.[pP][aA][rR][qQ][uU][eE][tT]",))]


def _saved_splits(folder: Path) -> list[str]:
    with _noted(folder / _SAVED_SPLITS) as note:
        return sorted(map(str, note["splits"]))


def _saved(folder: Path) -> tables.ArrowTable:
    """The rows of a folder that `datasets` wrote with `save_to_disk`."""
    with _noted(folder / _SAVED) as note:
        first, *others = (folder / part["filename"] for part in note["_data_files"])
        return tables.ArrowTable(files=(first, *others), source=str(folder))


@contextmanager
def _noted(path: Path) -> Iterator[Any]:
    """What a note of `datasets` holds; it may be another's."""
    try:
        yield json_value(read_text(path))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


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
