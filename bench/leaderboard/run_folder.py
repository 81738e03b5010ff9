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
from dataclasses import asdict, dataclass, field
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
_BOARD = ("results", "prompts")
"""Folders whose files are figures: nobody else may have changed them."""
_FOLDERS = (*_BOARD, "checkpoints")
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")
"""What a killed `write_atomic` leaves."""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """What runs have written into a folder."""

    files: Mapping[str, list[str]] = field(default_factory=dict)
    """Path below the folder -> sha256; two while it is being replaced."""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
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
            self._check()
            if any((self.path / "results").glob("*.json")):
                results.load_cells(self.path)
            results.load_prompts(self.path)

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
            self._check()
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.path / LOCK, flags, 0o666)
        try:
            with _clear_errors(self.path):
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._check()
                held = HeldFolder(self.path, self._mark())
                held.save()
                held.sweep()
            yield held
        finally:
            os.close(lock)

    def _check(self) -> None:
        path = self.path
        if path.is_symlink():
            raise BenchError(f"--out {path} is a link to {os.readlink(path)}; name that folder")
        if not path.exists():
            return
        if not path.is_dir():
            raise BenchError(f"--out {path} is a file; name a folder")
        mark = self._mark()
        for name in _FOLDERS:
            if (path / name).is_symlink():
                raise BenchError(
                    f"{path / name} is a link to {os.readlink(path / name)}, which no run has "
                    f"made; put the folder itself there, or choose another --out"
                )
        for name, known in mark.files.items():
            file = path / name
            if name.startswith(_BOARD) and file.exists() and file_sha256(file) not in known:
                raise BenchError(
                    f"{file} was changed after a run wrote it; put it back, or move it away to "
                    f"have it written again"
                )

    def _mark(self) -> _Mark:
        """What earlier runs have written.

        Raises:
            BenchError: something is here, but not by a run.
        """
        file = self.path / MARK
        if not os.path.lexists(file):
            names = sorted(entry.name for entry in self.path.iterdir())
            others = [name for name in names if name != LOCK and not _is_temporary(name, {MARK})]
            if others:
                raise BenchError(
                    f"--out {self.path} holds {others[0]!r} and was not made by `bench run` (it "
                    f"has no {MARK}); name a new or an empty folder"
                )
            return _Mark()
        try:
            if file.is_symlink() or not file.is_file():
                raise ValueError("it is no regular file")
            found = json_value(read_text(file), finite=True)
            files = {str(k): [str(s) for s in v] for k, v in found["files"].items()}
            checkpoints = {str(k): str(v) for k, v in found["checkpoints"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(
                f"{file}, which says what runs have written, cannot be read ({error}); choose "
                f"another --out"
            ) from error
        return _Mark(files=files, checkpoints=checkpoints)


class HeldFolder:
    """A run's folder while no other run writes to it."""

    def __init__(self, path: Path, mark: _Mark) -> None:
        """Made by `RunFolder.held`."""
        self.path = path
        self._files = dict(mark.files)
        self._checkpoints = dict(mark.checkpoints)

    def board(self) -> tuple[dict[Path, results.Cell], dict[str, PromptTable]]:
        """The cells and prompts that are here already."""
        empty = not any((self.path / "results").glob("*.json"))
        return {} if empty else results.load_cells(self.path), results.load_prompts(self.path)

    def replace(self, files: Mapping[str, bytes]) -> list[Path]:
        """Write files, each whole, in their order.

        Whenever this process is killed, every file is as it was or as it shall be, and known as a
        run's.

        Args:
            files: path below the folder -> what it shall hold.

        Returns:
            Where those lie now that somebody else had put or changed in their places.
        """
        shall = {name: sha256(data).hexdigest() for name, data in files.items()}
        with _clear_errors(self.path):
            changed = {name: digest for name, digest in shall.items() if self._is(name) != digest}
            kept = [self._keep(name) for name in changed if self._edited(name)]
            for name, digest in shall.items():
                self._files[name] = [*self._files.get(name, ()), digest]
            self.save()
            for name in changed:
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.path / name, files[name])
            self._files |= {name: [digest] for name, digest in shall.items()}
            self.save()
        return kept

    def make_room(self, checkpoints: Mapping[str, str]) -> None:
        """Give every checkpoint its name; one of another cell that has it is renamed.

        So is one whose card somebody has changed.

        Args:
            checkpoints: name of the folder below checkpoints/ -> identity of the cell.
        """
        with _clear_errors(self.path):
            for name, identity in checkpoints.items():
                place, known = self.path / "checkpoints" / name, self._checkpoints.get(name)
                if os.path.lexists(place) and known not in (None, identity):
                    aside = _free(place.with_name(f"{name}-{known[:8]}"))
                    os.rename(place, aside)
                    self._checkpoints[aside.name] = known
                elif os.path.lexists(place) and (known is None or self._edited(card(name))):
                    os.rename(place, _free(place.with_name(f"{name}.kept")))
                self._checkpoints[name] = identity
            self.save()

    def expect(self, cards: Mapping[str, str]) -> None:
        """Know what the cards of checkpoints are about to become as a run's own, too.

        Args:
            cards: name of the checkpoint -> text of its card.
        """
        for name, text in cards.items():
            digest = sha256(text.encode()).hexdigest()
            self._files[card(name)] = [*self._files.get(card(name), ()), digest]
        self.save()

    def settle(self, cards: Mapping[str, str]) -> None:
        """Know nothing else than what was expected, now that it is there."""
        for name, text in cards.items():
            self._files[card(name)] = [sha256(text.encode()).hexdigest()]
        self.save()

    def save(self) -> None:
        """Write the mark."""
        mark = _Mark(
            files=dict(sorted(self._files.items())),
            checkpoints=dict(sorted(self._checkpoints.items())),
        )
        made_by = {"written_by": f"bench run {version('diffusion-preference-bench')}"}
        text = json.dumps({**made_by, **asdict(mark)}, indent=1) + "\n"
        write_atomic(self.path / MARK, text.encode())

    def sweep(self) -> None:
        """Remove what a run that was killed has left half written."""
        own = {MARK, *(Path(name).name for name in self._files)}
        for folder in (self.path, *(self.path / name for name in _BOARD)):
            for file in folder.glob(".*.tmp"):
                if _is_temporary(file.name, own):
                    file.unlink(missing_ok=True)

    def _is(self, name: str) -> str:
        """The digest of what is there; '' if nothing is, and no digest for what is no file."""
        path = self.path / name
        if path.is_symlink() or path.is_dir():
            return "no file"
        return file_sha256(path) if path.exists() else ""

    def _own(self, name: str) -> bool:
        return self._is(name) in self._files.get(name, ())

    def _edited(self, name: str) -> bool:
        return self._is(name) != "" and not self._own(name)

    def _keep(self, name: str) -> Path:
        path = self.path / name
        aside = _free(path.with_name(f"{path.name}.kept"))
        os.rename(path, aside)
        return aside


def card(checkpoint: str) -> str:
    """Where the model card of a checkpoint lies in the folder."""
    return f"checkpoints/{checkpoint}/README.md"


def _is_temporary(name: str, of: set[str]) -> bool:
    found = _TEMPORARY.fullmatch(name)
    return found is not None and found[1] in of


def _free(path: Path) -> Path:
    """The path, or where something is there one beside it."""
    found, number = path, 1
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


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
