"""Artefacts on disk: one folder a finished stage, atomic, checksummed, locked.

    artefacts/<stage>/<key>/    what the stage left, and artefact.json with every file's sha256
    partial/<key>/              an unfinished stage: `out/` becomes the artefact, `work/` resumes
    locks/<key>.lock            held while a process works on the key
    verified/<key>.json         size and times of files whose checksums were found right

A key hashes everything that changes the artefact's bytes and nothing else, so an artefact is
never stale: it is there and whole, or it is not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.errors import BenchError, DamagedArtefactError

MANIFEST = "artefact.json"
_LOCK_POLL_SECONDS = 0.2


def content_key(data: Mapping[str, Any]) -> str:
    """The key of JSON data: 20 hex digits of the sha256 of its canonical form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage spent. Kept beside the artefact's bytes, never part of them."""

    seconds: float = 0.0
    passes: int = 0
    """Network passes: denoiser evaluations, one latent each."""
    peak_memory_mb: float = 0.0
    """Peak of a process's resident memory (CPU) or of its device's allocations (GPU)."""
    processes: int = 1
    """How many worked on it at once; `seconds` is the wall clock."""


@dataclass(frozen=True)
class Artefact:
    """A finished stage on disk."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The parsed artefact.json.

        Raises:
            DamagedArtefactError: it cannot be read.
        """
        try:
            data: dict[str, Any] = json.loads((self.path / MANIFEST).read_bytes())
            data["files"], data["cost"], data["info"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedArtefactError(f"{self.path / MANIFEST} cannot be read") from error
        return data

    @property
    def cost(self) -> Cost:
        """What making it cost, when it was made."""
        return Cost(**self.manifest["cost"])

    @property
    def info(self) -> dict[str, Any]:
        """Counts and notes that the stage left for the report; the same for the same key."""
        return dict(self.manifest["info"])

    def verify(self, seen: Mapping[str, list[int]] = MappingProxyType({})) -> dict[str, list[int]]:
        """Compare every file with its checksum.

        Args:
            seen: what an earlier call returned; a file whose size, inode and time of change are
                still the same is not read again.

        Raises:
            DamagedArtefactError: names the first file that is missing or differs.
        """
        found = {}
        for name, expected in self.manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise DamagedArtefactError(f"{path} is missing")
            found[name] = _stamp(path)
            if found[name] == seen.get(name):
                continue
            if found[name][0] != expected["size"] or file_sha256(path) != expected["sha256"]:
                shared = path.stat().st_nlink > 1
                hint = "; was it edited in an output folder, whose checkpoints are links to it?"
                raise DamagedArtefactError(
                    f"{path} differs from its checksum{hint if shared else ''}"
                )
        return found


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

    def earlier_seconds(self) -> float:
        """Seconds that interrupted attempts at this stage have already spent."""
        try:
            return float((self.folder / "seconds").read_text())
        except (OSError, ValueError):
            return 0.0

    def note_seconds(self, seconds: float) -> None:
        """Record what all attempts have spent so far."""
        write_atomic(self.folder / "seconds", f"{seconds:.3f}".encode())


class Store:
    """A folder of artefacts that any number of runs may share."""

    def __init__(self, root: Path) -> None:
        """Nothing is created before something is written."""
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        """Where the artefact of a stage lies or will lie."""
        return self.root / "artefacts" / stage / key

    def find(self, stage: str, key: str) -> Artefact | None:
        """The finished artefact, its files verified; None where there is none.

        Files that have not been touched since they were last read and found right are not read
        again: a store of large checkpoints would take minutes at every start.

        Raises:
            DamagedArtefactError: it is there, but truncated or altered.
        """
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        artefact = Artefact(path)
        try:
            seen = dict(json.loads(self._note(key).read_bytes()))
        except (OSError, ValueError, TypeError):
            seen = {}
        found = artefact.verify(seen)
        if found != seen:
            self._remember(key, found)
        return artefact

    def _note(self, key: str) -> Path:
        return self.root / "verified" / f"{key}.json"

    def _remember(self, key: str, found: Mapping[str, list[int]]) -> None:
        # A store that may only be read is as good, and half a note is none; both are but slower.
        with suppress(OSError):
            self._note(key).parent.mkdir(parents=True, exist_ok=True)
            self._note(key).write_text(json.dumps(found))

    def discard(self, stage: str, key: str) -> None:
        """Remove a damaged artefact so that its stage runs again."""
        shutil.rmtree(self.path(stage, key), ignore_errors=True)

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the key's lock; the system releases it even if this process is killed.

        Args:
            key: the stage's key.
            waiting: called once if another process holds it.
        """
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{key}.lock").open("w") as file:
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        waiting()
                        told = True
                    time.sleep(_LOCK_POLL_SECONDS)
            yield

    def partial(self, key: str) -> Partial:
        """Where an unfinished stage lies."""
        return Partial(self.root / "partial" / key)

    def begin(self, key: str) -> Partial:
        """Start or go on with a stage; the caller holds its lock."""
        partial = self.partial(key)
        partial.out.mkdir(parents=True, exist_ok=True)
        partial.work.mkdir(exist_ok=True)
        for half_written in partial.folder.rglob(".*.tmp"):
            half_written.unlink()
        return partial

    def sweep(self, finished: Iterable[str]) -> None:
        """Remove what a process left that was killed just after a stage had finished."""
        for key in finished:
            shutil.rmtree(self.partial(key).folder, ignore_errors=True)

    def commit(
        self, stage: str, key: str, partial: Partial, cost: Cost, info: Mapping[str, Any]
    ) -> Artefact:
        """Turn `partial.out` into the artefact in one step and drop the rest."""
        names = sorted(
            p.relative_to(partial.out).as_posix() for p in partial.out.rglob("*") if p.is_file()
        )
        if MANIFEST in names:
            raise BenchError(f"stage {stage} wrote a file named {MANIFEST}")
        files = {
            name: {
                "size": (partial.out / name).stat().st_size,
                "sha256": file_sha256(partial.out / name),
            }
            for name in names
        }
        manifest = {"stage": stage, "key": key, "files": files, "cost": asdict(cost)} | {
            "info": dict(info)
        }
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        write_atomic(partial.out / MANIFEST, text.encode())
        path = self.path(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial.out, path)
        shutil.rmtree(partial.folder, ignore_errors=True)
        self._remember(key, {name: _stamp(path / name) for name in names})
        return Artefact(path)


def _stamp(path: Path) -> list[int]:
    """What changes when a file is written to: size, inode, time of change in ns."""
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns]
