"""How the builders of the shapes world write files: whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import BenchError
from bench.files import hub

Report = Callable[[str], None]
"""Told what a builder does, a line at a time."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` once the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write JSON, one element a line, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=sort_keys) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


def write_examples(folder: Path, examples: Iterable[tuple[np.ndarray, Any]]) -> None:
    """Write pictures, and last what is known of each, into a folder."""
    pictures, known = zip(*examples, strict=True)
    write_array(folder / "pictures.npy", np.stack(pictures))
    write_json(folder / "captions.json", known)


def read_examples(folder: Path) -> tuple[np.ndarray, Any]:
    """The pictures, which stay on the disk, and what is known of each."""
    return np.load(folder / "pictures.npy", mmap_mode="r"), read_json(folder / "captions.json")


def hash_of(*paths: Path) -> str:
    """SHA-256 over the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise BenchError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder / name for name in hub.files_below(folder)):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
