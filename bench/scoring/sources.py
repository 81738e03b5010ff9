"""From what the user names to the images to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.api.kinds import Prompt
from bench.lib.errors import BenchError
from bench.lib.reading import exists, refuse_special
from bench.scoring import manifests
from bench.scoring.folders import open_folder
from bench.scoring.image_set import ImageSet, reading


def open_images(
    source: Path, prompts: Callable[[], Sequence[Prompt]] | None, groups: Sequence[str] = ()
) -> ImageSet:
    """The images of a folder (`open_folder`), or those that a file lists (`open_manifest`).

    Args:
        source: a folder or a file.
        prompts: reads the prompts of a folder; None if the user named none.
        groups: columns of a file that are groups beside the usual ones.

    Raises:
        BenchError: there is nothing of the kind, it cannot be read, or prompts are missing,
            superfluous or do not fit.
    """
    with reading(source):
        return _open(source, prompts, groups)


def _open(
    source: Path, prompts: Callable[[], Sequence[Prompt]] | None, groups: Sequence[str]
) -> ImageSet:
    if source.is_dir():
        if prompts is None:
            raise BenchError(
                f"{source} is a folder: say with --prompts what its images show, by a prompt set "
                f"or a file of prompts"
            )
        return open_folder(source, prompts())
    if not exists(source):
        raise BenchError(
            f"{source}: there is no such file or folder; images of the Hub are scored from a "
            f"folder that `hf download` has made"
        )
    refuse_special(source)
    if source.suffix.lower() not in manifests.SUFFIXES:
        raise BenchError(
            f"{source}: expected a folder of images, or a file that lists them "
            f"({', '.join(manifests.SUFFIXES)})"
        )
    if prompts is not None:
        raise BenchError(f"{source} says itself what its images show: leave --prompts out")
    return manifests.open_manifest(source, groups)
