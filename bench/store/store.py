"""Artefacts on disk: one folder a finished stage, atomic, checksummed, locked.

    artefacts/<stage>/<key>/    what the stage left, and artefact.json with every file's sha256
    partial/<key>/              an unfinished stage: `out/` becomes the artefact, `work/` resumes
    locks/<key>.lock            held while a process works on the key
    verified/<key>.json         size and times of files whose checksums were found right
    discarded/                  what was damaged or replaced, until it is deleted

A key hashes everything that changes the artefact's bytes and nothing else, so an artefact is
never stale: it is there and whole, or it is not there. Whatever else is found in its place is
damage, and its stage is run again.

A file is read once after it was written. From then on it is taken to be right as long as its
size, inode and time of change are those noted under `verified/`; what damages bytes without
touching these, such as a failing disk, is found by `bench store verify`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from bench.lib import checksums
from bench.lib.errors import BenchError, DamagedArtefactError
from bench.lib.files import content_key, file_sha256, sync, write_atomic
from bench.lib.strict import Amount, StrictModel, Whole

MANIFEST = "artefact.json"
_LOCK_POLL_SECONDS = 0.2
_DAMAGE = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENXIO,
        errno.ENAMETOOLONG,
    )
)
"""What says that a file cannot be read now or later; anything else (too many open files, no
memory) is no fault of the file."""
_AS_ONESELF = os.access in os.supports_effective_ids


class Cost(StrictModel):
    """What a stage spent. Kept beside the artefact's bytes, never part of them."""

    seconds: Amount = 0.0
    nfe: Whole = 0
    """Denoiser evaluations, one latent each."""
    peak_memory_mb: Amount = 0.0
    """Peak of a process's resident memory (CPU) or of its device's allocations (GPU)."""
    processes: Whole = 1
    """How many worked on it at once; `seconds` is the wall clock."""


class FileEntry(StrictModel):
    """A file of an artefact."""

    size: Whole
    sha256: str


class Manifest(StrictModel):
    """What artefact.json says of an artefact."""

    stage: str
    key: str
    files: dict[str, FileEntry]
    """By path below the artefact's folder."""
    cost: Cost
    info: dict[str, Any]
    """Counts and notes that the stage left for the report."""
    made_with: dict[str, str]
    """The device and the versions that made the bytes."""
    inputs: dict[str, str]
    """Key -> `Artefact.digest` of the artefacts that it was made from, as they were then."""


@dataclass(frozen=True)
class Artefact:
    """A finished stage on disk."""

    path: Path
    """.../<stage>/<key>."""

    @cached_property
    def manifest(self) -> Manifest:
        """What artefact.json says.

        Raises:
            DamagedArtefactError: it is absent, damaged or that of another artefact.
        """
        file = self.path / MANIFEST
        try:
            manifest = Manifest.model_validate(checksums.read(file))
        except OSError as error:
            raise _damaged(file, error) from error
        except ValueError as error:
            foreign = isinstance(error, ValidationError)
            reason = "not what this version writes" if foreign else error
            raise DamagedArtefactError(f"{file} cannot be read: {reason}") from error
        if (manifest.stage, manifest.key) != (self.path.parent.name, self.path.name):
            raise DamagedArtefactError(f"{file} belongs to {manifest.stage}/{manifest.key}")
        return manifest

    @cached_property
    def digest(self) -> str:
        """A hash of all its files: the same bytes give the same."""
        return content_key({name: entry.sha256 for name, entry in self.manifest.files.items()})

    @property
    def cost(self) -> Cost:
        """What making it cost, when it was made."""
        return self.manifest.cost

    @property
    def info(self) -> dict[str, Any]:
        """Counts and notes that the stage left for the report; the same for the same key."""
        return dict(self.manifest.info)

    def verify(self, seen: Mapping[str, list[int]] = MappingProxyType({})) -> dict[str, list[int]]:
        """Compare every file with its checksum.

        Args:
            seen: what an earlier call returned; a file whose size, inode and time of change are
                still the same is not read again.

        Raises:
            DamagedArtefactError: names the first file that is missing or differs.
        """
        stamps = {}
        for name, expected in self.manifest.files.items():
            path = self.path / name
            try:
                stamps[name] = _stamp(path)
                if stamps[name] != seen.get(name):
                    size, *_ = stamps[name]
                    if size != expected.size or file_sha256(path) != expected.sha256:
                        raise DamagedArtefactError(f"{path} differs from its checksum{_hint(path)}")
                elif not os.access(path, os.R_OK, effective_ids=_AS_ONESELF):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise _damaged(path, error) from error
        return stamps

    def foreign(self) -> list[Path]:
        """Files in its folder that it does not know; they change nothing."""
        known = {self.path / name for name in (MANIFEST, *self.manifest.files)}
        return sorted(p for p in self.path.rglob("*") if not p.is_dir() and p not in known)


def _hint(path: Path) -> str:
    """Where a file with another name of its own may have been edited."""
    if path.stat().st_nlink == 1:
        return ""
    return "; was it edited in an output folder, whose checkpoints are links to it?"


def _damaged(path: Path, error: OSError) -> Exception:
    """What to raise where an artefact's file cannot be read."""
    if error.errno == errno.ENOENT:
        return DamagedArtefactError(f"{path} is missing")
    if error.errno in _DAMAGE:
        return DamagedArtefactError(f"{path} cannot be read: {error.strerror}")
    return error


@dataclass(frozen=True)
class Partial:
    """An unfinished stage, held under its lock."""

    folder: Path

    @property
    def out(self) -> Path:
        """What becomes the artefact."""
        return self.folder / "out"

    @property
    def work(self) -> Path:
        """What an interrupted stage goes on from; gone once the stage is finished."""
        return self.folder / "work"

    def inputs(self) -> dict[str, str] | None:
        """What it was begun with; None: that is not known."""
        return checksums.read_note(self.folder / "inputs", "inputs", dict)

    def earlier_seconds(self) -> float:
        """Seconds that interrupted attempts at this stage have already spent."""
        seconds = checksums.read_note(self.folder / "seconds", "seconds", float) or 0.0
        return seconds if 0 <= seconds < math.inf else 0.0

    def note_seconds(self, seconds: float) -> None:
        """Record what all attempts have spent so far."""
        write_atomic(self.folder / "seconds", checksums.seal({"seconds": round(seconds, 3)}))


def place(stage: str, key: str) -> Path:
    """Where below a store's folder the artefact of a stage lies or will lie."""
    return Path("artefacts", stage, key)


class Store:
    """A folder of artefacts that any number of runs may share."""

    def __init__(self, root: Path) -> None:
        """Nothing is created before something is written.

        A relative `root` is taken from the current folder of now, whatever becomes of it later.
        """
        self.root = root.absolute()

    def path(self, stage: str, key: str) -> Path:
        """Where the artefact of a stage lies or will lie."""
        return self.root / place(stage, key)

    def find(self, stage: str, key: str) -> Artefact | None:
        """The finished artefact, its files verified; None where there is none.

        Files that have not been touched since they were last read and found right are not read
        again: a store of large checkpoints would take minutes at every start.

        Raises:
            DamagedArtefactError: it is there, but truncated or altered.
        """
        path = self.path(stage, key)
        if not os.path.lexists(path):
            return None
        artefact, seen = Artefact(path), self._seen(key)
        stamps = artefact.verify(seen)
        if stamps != seen:
            self._remember(key, stamps)
        return artefact

    def verify(self, artefact: Artefact) -> int:
        """Read every byte of an artefact, whatever was found before; how many there are.

        Raises:
            DamagedArtefactError: names the first file that is missing or differs.
        """
        key = artefact.path.name
        try:
            stamps = artefact.verify()
        except DamagedArtefactError:
            # Later runs, which trust the note, would take it to be right.
            with suppress(OSError):
                self._note(key).unlink()
            raise
        self._remember(key, stamps)
        return sum(size for size, *_ in stamps.values())

    def artefacts(self) -> list[Artefact]:
        """Everything that lies in the place of an artefact, by path."""
        return [Artefact(path) for path in sorted(self.root.glob("artefacts/*/*"))]

    def _note(self, key: str) -> Path:
        return self.root / "verified" / f"{key}.json"

    def _seen(self, key: str) -> dict[str, list[int]]:
        return checksums.read_note(self._note(key), "files", dict) or {}

    def _remember(self, key: str, stamps: Mapping[str, list[int]]) -> None:
        # A store that may only be read is as good, only slower.
        with suppress(OSError):
            self._note(key).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._note(key), checksums.seal({"files": stamps}))

    def discard(self, stage: str, key: str) -> None:
        """Remove a damaged artefact, in one step, so that its stage runs again.

        Raises:
            BenchError: it may not be removed.
        """
        path = self.path(stage, key)
        try:
            aside = self._set_aside(path)
        except OSError as error:
            raise BenchError(
                f"{path} is damaged and cannot be removed ({error.strerror}); remove it, then run "
                f"the same command again"
            ) from error
        _remove(aside)

    def discard_if_damaged(self, stage: str, key: str) -> bool:
        """Look again, under the key's lock that the caller holds, and discard it if need be."""
        try:
            if os.path.lexists(self.path(stage, key)):
                self.verify(Artefact(self.path(stage, key)))
        except DamagedArtefactError:
            self.discard(stage, key)
            return True
        return False

    def _set_aside(self, path: Path) -> Path:
        """Move what is there out of the way."""
        aside = self.root / "discarded" / f"{path.name}-{uuid.uuid4().hex[:8]}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, aside)
        return aside

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the key's lock; the system releases it even if this process is killed.

        Args:
            key: the stage's key.
            waiting: called once if another process holds it.

        Raises:
            BenchError: the file system has no locks.
        """
        announced = False
        while (held := self._try_lock(key)) is None:
            if not announced:
                waiting()
                announced = True
            time.sleep(_LOCK_POLL_SECONDS)
        try:
            yield
        finally:
            os.close(held)

    def _try_lock(self, key: str) -> int | None:
        """The descriptor that holds the lock until it is closed; None if another one has it."""
        path = self.root / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Deleted meanwhile, it would be another file for whoever comes next.
            if os.path.samestat(os.fstat(held), os.stat(path)):
                return held
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            os.close(held)
            raise BenchError(
                f"{path} cannot be locked ({error.strerror}); choose a --store on a file system "
                f"that has locks"
            ) from error
        os.close(held)
        return None

    def partial(self, key: str) -> Partial:
        """Where an unfinished stage lies."""
        return Partial(self.root / "partial" / key)

    def begin(
        self,
        stage: str,
        key: str,
        inputs: Mapping[str, str] = MappingProxyType({}),
        *,
        anew: bool = False,
    ) -> Partial:
        """Start or go on with a stage; the caller holds its lock.

        The artefact's place is made too, so that a store which cannot hold it says so before the
        work and not after it.

        Args:
            stage: its name.
            key: its key.
            inputs: as in `Manifest`; what was begun with others is dropped.
            anew: drop what was begun in any case.
        """
        self.path(stage, key).parent.mkdir(parents=True, exist_ok=True)
        partial = self.partial(key)
        if anew or partial.inputs() != dict(inputs):
            _remove(partial.folder)
        for folder in (partial.folder, partial.out, partial.work):
            if os.path.lexists(folder) and not folder.is_dir():
                folder.unlink()
            folder.mkdir(parents=True, exist_ok=True)
        for half_written in partial.folder.rglob(".*.tmp"):
            half_written.unlink()
        write_atomic(partial.folder / "inputs", checksums.seal({"inputs": dict(inputs)}))
        # Left by a process that was killed just before its stage was finished.
        (partial.out / MANIFEST).unlink(missing_ok=True)
        return partial

    def sweep(self, finished: Iterable[str]) -> None:
        """Remove what a process left that was killed just after a stage had finished."""
        for key in finished:
            folder = self.partial(key).folder
            if not os.path.lexists(folder):
                continue
            # Another run that makes the artefact anew works in that folder.
            with suppress(OSError, BenchError):
                held = self._try_lock(key)
                if held is not None:
                    _remove(folder)
                    os.close(held)
        # Whoever still writes such a note does without.
        for left in (*self.root.glob("discarded/*"), *self.root.glob("verified/.*.tmp")):
            _remove(left)

    def commit(
        self,
        stage: str,
        key: str,
        partial: Partial,
        cost: Cost,
        info: Mapping[str, Any],
        made_with: Mapping[str, str] = MappingProxyType({}),
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> Artefact:
        """Turn `partial.out` into the artefact in one step and drop the rest.

        Its bytes are on the disk before it bears its name, so that even a loss of power leaves
        all of it or nothing. An artefact that is there already is replaced.
        """
        paths = sorted(partial.out.rglob("*"))
        names = [p.relative_to(partial.out).as_posix() for p in paths if p.is_file()]
        if MANIFEST in names:
            raise BenchError(f"stage {stage} wrote a file named {MANIFEST}")
        manifest = Manifest(
            stage=stage,
            key=key,
            files={name: _entry(partial.out / name) for name in names},
            cost=cost,
            # As it will be read.
            info=json.loads(json.dumps(dict(info))),
            made_with=dict(made_with),
            inputs=dict(inputs),
        )
        for folder in (*(p for p in paths if p.is_dir()), partial.out):
            sync(folder)
        write_atomic(partial.out / MANIFEST, checksums.seal(manifest.model_dump()), durable=True)
        path = self.path(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._set_aside(path) if os.path.lexists(path) else None
        try:
            os.rename(partial.out, path)
        except BaseException:
            if aside:
                os.rename(aside, path)
            raise
        sync(path.parent)
        for left in (partial.folder, aside):
            if left:
                _remove(left)
        self._remember(key, {name: _stamp(path / name) for name in names})
        return Artefact(path)


def _entry(path: Path) -> FileEntry:
    sync(path)
    return FileEntry(size=path.stat().st_size, sha256=file_sha256(path))


def _remove(path: Path) -> None:
    """Delete a folder, file or link as far as possible; what is left is in nobody's way."""

    def once_more(remove: Callable[[str], object], name: str, _: object) -> None:
        # A folder that may not be written to keeps what is in it.
        with suppress(OSError):
            os.chmod(os.path.dirname(name), stat.S_IRWXU)
            os.chmod(name, stat.S_IRWXU)
            if remove in (os.open, os.scandir, os.lstat):
                shutil.rmtree(name, ignore_errors=True)
            else:
                remove(name)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=once_more)
    else:
        with suppress(OSError):
            path.unlink()


def _stamp(path: Path) -> list[int]:
    """What changes when a file is written to: size, inode, time of change in ns.

    Raises:
        OSError: there is none, or it is something else than a file.
    """
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.ENXIO, "not a regular file")
    return [state.st_size, state.st_ino, state.st_mtime_ns]
