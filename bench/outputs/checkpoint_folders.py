"""The folder of a trained cell in an output folder: the store's files, and a model card."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.diffusion.checkpoint_files import LORA_FILE
from bench.lib.errors import DamagedArtefactError
from bench.lib.files import file_sha256, replacing, write_atomic
from bench.store.store import Artefact, FileEntry

CARD = "README.md"


def write_checkpoint(folder: Path, artefact: Path, card: str) -> None:
    """Make `folder` hold the files of a train stage and its model card.

    Files are hard links into the store where the file system allows it, else copies; never
    symbolic links, which neither an archive nor the loss of the store would survive. What is there
    already, whole, stays as it is, so that writing it again costs next to nothing.

    Args:
        folder: new, or what this function has left there before.
        artefact: the finished stage in the store.
        card: text of its README.md.

    Raises:
        DamagedArtefactError: a file of the artefact is missing.
        OSError: it cannot be written.
    """
    files = Artefact(artefact).manifest.files
    folder.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    for name, entry in files.items():
        source, place = artefact / name, folder / name
        if not source.is_file():
            raise DamagedArtefactError(f"{source} is missing")
        if not _holds(place, source, entry):
            _put(source, place)
    text, place = card.encode(), folder / CARD
    if not place.is_file() or place.read_bytes() != text:
        write_atomic(place, text)


def is_adapter(artefact: Path) -> bool:
    """Whether a train stage left a LoRA rather than a whole denoiser."""
    return LORA_FILE in Artefact(artefact).manifest.files


def _tidy(folder: Path) -> None:
    """Remove links of an earlier version, and what a killed process was about to write."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (path.name.startswith(".") and path.suffix == ".tmp"):
            path.unlink()


def _holds(place: Path, source: Path, entry: FileEntry) -> bool:
    """Whether the file is there already: as a link to the store's, or with the same bytes."""
    if not place.is_file():
        return False
    if place.samefile(source):
        return True
    return place.stat().st_size == entry.size and file_sha256(place) == entry.sha256


def _put(source: Path, place: Path) -> None:
    """Link or copy a file, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as part:
        try:
            os.link(source.resolve(), part)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copyfile(source, part)
