"""The folder that a run writes its tables to: it is marked, grows, and loses nothing.

    .bench-run.json     the mark: which files a run has written, with the sha256 of each
    .bench-run.lock     held while a run writes

A run writes only to a folder that is new, empty or so marked. It replaces files that runs have
written, one after the other and each whole, and removes none. What somebody has changed since is
kept beside, under another name.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from bench.leaderboard import results
from bench.lib.errors import BenchError
from bench.lib.files import file_sha256, write_atomic
from bench.lib.reading import json_value, read_text
from bench.recipe.prompt_table import PromptTable

MARK = ".bench-run.json"
LOCK = ".bench-run.lock"
_FIGURES = ("results", "prompts")
"""Folders whose files nobody else may have changed."""
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")
"""What a killed `write_atomic` leaves."""


@dataclass(kw_only=True)
class _Mark:
    """What runs have written into a folder."""

    files: dict[str, list[str]] = field(default_factory=dict)
    """Path below the folder -> sha256; two while it is being replaced."""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """Name of a checkpoint's folder -> identity of the cell."""


class RunFolder:
    """Where runs put what they leave for people."""

    def __init__(self, path: Path) -> None:
        """Nothing is created before `held` is entered."""
        self.path = path

    def check(self) -> None:
        """See whether a run may write here; changes nothing.

        Raises:
            BenchError: it is somebody else's folder, or figures in it were changed.
        """
        with _clear_errors(self.path):
            _mark(self.path)
            _board(self.path)

    def claim(self) -> None:
        """Mark the folder as a run's, so that nobody is refused after hours of work.

        Raises:
            BenchError: as `held`.
        """
        with self.held():
            pass

    @contextmanager
    def held(self) -> Iterator[HeldFolder]:
        """Make the folder a run's and keep other runs out until the block ends.

        Raises:
            BenchError: as `check`, or the folder cannot be written.
        """
        with _clear_errors(self.path):
            _mark(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.path / LOCK, flags, 0o666)
        try:
            with _clear_errors(self.path):
                fcntl.flock(lock, fcntl.LOCK_EX)
                held = HeldFolder(self.path, _mark(self.path))
                held.save()
                held.sweep()
            yield held
        finally:
            os.close(lock)


class HeldFolder:
    """A run's folder while no other run writes to it."""

    def __init__(self, path: Path, mark: _Mark) -> None:
        """Made by `RunFolder.held`."""
        self.path, self._mark = path, mark

    def board(self) -> tuple[dict[Path, results.Cell], dict[str, PromptTable]]:
        """The cells and prompts that are here already."""
        return _board(self.path)

    def replace(self, files: Mapping[str, bytes]) -> list[Path]:
        """Write files, each whole, in their order.

        Whenever this process is killed, every file is as it was or as it shall be, and known as a
        run's.

        Args:
            files: path below the folder -> what it shall hold.

        Returns:
            Where those lie now that somebody else had put or changed in their places.
        """
        with _clear_errors(self.path):
            changed = [name for name, data in files.items() if self._digest(name) != _sha256(data)]
            edited = [self.path / name for name in changed if self._is_edited(name)]
            kept = [_move_aside(path, f"{path.name}.kept") for path in edited]
            with self.becoming(files):
                for name in changed:
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(self.path / name, files[name])
        return kept

    @contextmanager
    def becoming(self, files: Mapping[str, bytes]) -> Iterator[None]:
        """Know files as a run's own, both as they are and as they shall be, while they change.

        Args:
            files: path below the folder -> what it shall hold at the end of the block.
        """
        known = self._mark.files
        for name, data in files.items():
            known[name] = [*known.get(name, ()), _sha256(data)]
        self.save()
        yield
        known |= {name: [_sha256(data)] for name, data in files.items()}
        self.save()

    def make_room(self, checkpoints: Mapping[str, str]) -> None:
        """Give every checkpoint its name; one of another cell that has it is renamed.

        So is one whose card somebody has changed.

        Args:
            checkpoints: name of the folder below checkpoints/ -> identity of the cell.
        """
        identities = self._mark.checkpoints
        with _clear_errors(self.path):
            for name, identity in checkpoints.items():
                place, known = self.path / "checkpoints" / name, identities.get(name)
                if os.path.lexists(place):
                    if known not in (None, identity):
                        aside = _move_aside(place, f"{name}-{known[:8]}")
                        identities[aside.name] = known
                    elif known is None or self._is_edited(card(name)):
                        _move_aside(place, f"{name}.kept")
                identities[name] = identity
            self.save()

    def save(self) -> None:
        """Write the mark."""
        mark = {
            "written_by": f"bench run {version('diffusion-preference-bench')}",
            "files": dict(sorted(self._mark.files.items())),
            "checkpoints": dict(sorted(self._mark.checkpoints.items())),
        }
        write_atomic(self.path / MARK, (json.dumps(mark, indent=1) + "\n").encode())

    def sweep(self) -> None:
        """Remove what a run that was killed has left half written."""
        own = {MARK, *(Path(name).name for name in self._mark.files)}
        for folder in (self.path, *(self.path / name for name in _FIGURES)):
            for file in folder.glob(".*.tmp"):
                if _is_temporary(file.name, own):
                    file.unlink(missing_ok=True)

    def _digest(self, name: str) -> str:
        """The digest of what is there; '' if nothing is, and no digest for what is no file."""
        path = self.path / name
        if path.is_symlink() or path.is_dir():
            return "no file"
        return file_sha256(path) if path.exists() else ""

    def _is_edited(self, name: str) -> bool:
        """Whether something is there that no run has written."""
        return self._digest(name) not in ("", *self._mark.files.get(name, ()))


def card(checkpoint: str) -> str:
    """Where the model card of a checkpoint lies in the folder."""
    return f"checkpoints/{checkpoint}/README.md"


def _mark(path: Path) -> _Mark:
    """What runs have written into a folder that a run may write to.

    Raises:
        BenchError: it is no folder, somebody else's, or figures in it were changed.
    """
    if path.is_symlink():
        raise BenchError(f"--out {path} is a link to {os.readlink(path)}; name that folder")
    if not path.exists():
        return _Mark()
    if not path.is_dir():
        raise BenchError(f"--out {path} is a file; name a folder")
    mark = _read_mark(path)
    for name in (*_FIGURES, "checkpoints"):
        if (path / name).is_symlink():
            raise BenchError(
                f"{path / name} is a link to {os.readlink(path / name)}, which no run has "
                f"made; put the folder itself there, or choose another --out"
            )
    for name, known in mark.files.items():
        file = path / name
        if name.startswith(_FIGURES) and file.exists() and file_sha256(file) not in known:
            raise BenchError(
                f"{file} was changed after a run wrote it; put it back, or move it away to "
                f"have it written again"
            )
    return mark


def _read_mark(path: Path) -> _Mark:
    """The mark of a folder; an empty one where nothing else is there."""
    file = path / MARK
    if not os.path.lexists(file):
        names = sorted(entry.name for entry in path.iterdir())
        others = [name for name in names if name != LOCK and not _is_temporary(name, {MARK})]
        if others:
            raise BenchError(
                f"--out {path} holds {others[0]!r} and was not made by `bench run` (it "
                f"has no {MARK}); name a new or an empty folder"
            )
        return _Mark()
    try:
        if file.is_symlink() or not file.is_file():
            raise ValueError("it is no regular file")
        data = json_value(read_text(file), finite=True)
        files = {str(k): [str(s) for s in v] for k, v in data["files"].items()}
        checkpoints = {str(k): str(v) for k, v in data["checkpoints"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(
            f"{file}, which says what runs have written, cannot be read ({error}); choose "
            f"another --out"
        ) from error
    return _Mark(files=files, checkpoints=checkpoints)


def _board(path: Path) -> tuple[dict[Path, results.Cell], dict[str, PromptTable]]:
    empty = not any((path / "results").glob("*.json"))
    return {} if empty else results.load_cells(path), results.load_prompts(path)


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()


def _is_temporary(name: str, of: set[str]) -> bool:
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match[1] in of


def _move_aside(path: Path, name: str) -> Path:
    """Rename what is there, with a number behind the name where that is taken."""
    aside, number = path.with_name(name), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    os.rename(path, aside)
    return aside


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"--out {path}: cannot be written ({error.strerror or error})") from error


def default_place(recipe: str, root: Path) -> Path:
    """Where the outputs of a recipe lie if nobody says where: a folder of `root`.

    Raises:
        BenchError: the recipe's name has no letter that a folder could be called by.
    """
    name = results.safe_name(recipe)
    if not name:
        raise BenchError(
            f"recipe name {recipe!r}: no folder can be called so; give `name` letters or digits, "
            f"or say --out"
        )
    return root / name


def outside(path: Path, store: Path) -> None:
    """Raise `BenchError` if the outputs would lie among the artefacts."""
    # Unlike `Path.resolve`, this bears a link that leads to itself; whoever writes there says so.
    with _clear_errors(path):
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(store))
    if inside:
        raise BenchError(f"--out {path} lies in the store {store}; choose another folder")
