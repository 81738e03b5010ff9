"""A store that was damaged; the same command finds it and makes again what is gone.

Two thousand random flips of `artefact.json` are a test of their own, in `tests/core`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.harness import RUN, STORE, Case, Prepare, World, judge, sample

STAGES = ("inspect", "encode", "train", "sample", "describe", "score")
Harm = Callable[[Path], None]


def artefact(here: Path, stage: str) -> Path:
    return sorted((here / STORE / "artefacts" / stage).iterdir())[0]


def files(folder: Path) -> list[Path]:
    """What a stage left, without the manifest; the largest first."""
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "artefact.json"]
    return sorted(found, key=lambda path: (-path.stat().st_size, str(path)))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def to_looping_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILE_HARMS: dict[str, Harm] = {
    "flipped": flip,
    "cut": cut,
    "emptied": empty,
    "grown": grow,
    "removed": Path.unlink,
    "a-folder": to_folder,
    "a-dead-link": to_dead_link,
    "a-looping-link": to_looping_link,
    "a-pipe": to_pipe,
}


def fold_to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def fold_to_dead_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("gone")


def fold_to_looping_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def stranger(folder: Path) -> None:
    (folder / "stranger.txt").write_text("x")


FOLDER_HARMS: dict[str, Harm] = {
    "a-file": fold_to_file,
    "a-dead-link": fold_to_dead_link,
    "a-looping-link": fold_to_looping_link,
    "emptied": emptied,
    "with-a-stranger": stranger,
    "gone": shutil.rmtree,
}


def rewritten(text: str) -> Harm:
    return lambda path: path.write_bytes(text.encode("utf-8", "surrogatepass"))


def changed(**values: object) -> Harm:
    """A manifest whose words were changed and are JSON still."""

    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


MANIFEST_HARMS: dict[str, Harm] = {
    "flipped": flip,
    "cut": cut,
    "emptied": empty,
    "removed": Path.unlink,
    "a-folder": to_folder,
    "a-dead-link": to_dead_link,
    "nothing": rewritten("null"),
    "a-list": rewritten("[]"),
    "an-object": rewritten("{}"),
    "a-number": rewritten("1e999"),
    "deep": rewritten("[" * 50_000),
    "not-text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "no-cost": changed(cost=None),
    "cost-a-list": changed(cost=[]),
    "cost-a-word": changed(cost={"seconds": "many", "nfe": 1}),
    "cost-doubled": changed(cost={"seconds": 1e6, "nfe": 10**9}),
    "files-a-list": changed(files=[]),
    "files-climb": changed(files={"../../../../notes.txt": "0" * 64}),
    "info-nothing": changed(info=None),
    "a-key-more": changed(more=1),
}


def at(stage: str, harm: Harm) -> Prepare:
    return lambda here: harm(files(artefact(here, stage))[0])


def whole(stage: str, harm: Harm) -> Prepare:
    return lambda here: harm(artefact(here, stage))


def manifest(stage: str, harm: Harm) -> Prepare:
    return lambda here: harm(artefact(here, stage) / "artefact.json")


def inside(name: str, harm: Harm) -> Prepare:
    return lambda here: harm(here / STORE / name)


def all_verified(harm: Harm) -> Prepare:
    """What the store remembers of the files that it found right."""

    def damage(here: Path) -> None:
        for path in list((here / STORE / "verified").rglob("*.json")):
            harm(path)

    return damage


def leftovers(here: Path) -> None:
    """Of runs that were killed: half a stage, half a file, a lock."""
    partial = here / STORE / "partial"
    for key in [p.name for p in (here / STORE / "artefacts" / "train").iterdir()]:
        (partial / key / "work").mkdir(parents=True)
        (partial / key / "work" / "state.pt").write_bytes(b"half")
    (partial / "somebody").mkdir()
    (partial / "note").write_text("x")
    (artefact(here, "score") / ".scores.parquet.tmp").write_bytes(b"half")


def half_trained(here: Path) -> None:
    """The training is gone, and junk is where it would go on from."""
    key = artefact(here, "train").name
    shutil.rmtree(artefact(here, "train"))
    work = here / STORE / "partial" / key / "work"
    work.mkdir(parents=True)
    (work / "state.pt").write_bytes(b"PK\x03\x04 no archive")


CASES = [
    *(
        Case(id=f"{stage}-file-{name}", prepare=at(stage, harm), ends="well")
        for stage in STAGES
        for name, harm in FILE_HARMS.items()
    ),
    *(
        Case(id=f"{stage}-{name}", prepare=whole(stage, harm), ends="well")
        for stage in ("train", "score")
        for name, harm in FOLDER_HARMS.items()
    ),
    *(
        Case(id=f"{stage}-manifest-{name}", prepare=manifest(stage, harm), ends="well")
        for stage in ("train", "sample")
        for name, harm in MANIFEST_HARMS.items()
    ),
    *(
        Case(id=f"verified-{name}", prepare=all_verified(harm), ends="well")
        for name, harm in {
            "cut": cut,
            "a-list": rewritten("[]"),
            "wrong-types": rewritten('{"curve.csv": 3}'),
            "not-text": lambda path: path.write_bytes(b"\xff\x00"),
            "deep": rewritten("[" * 50_000),
            "a-folder": to_folder,
        }.items()
    ),
    Case(id="leftovers", prepare=leftovers, ends="well"),
    Case(id="half-trained", prepare=half_trained, ends="well"),
    Case(id="artefacts-gone", prepare=inside("artefacts", shutil.rmtree), ends="well"),
    Case(id="verified-gone", prepare=inside("verified", shutil.rmtree), ends="well"),
    Case(id="verified-a-file", prepare=inside("verified", fold_to_file)),
    Case(id="partial-a-file", prepare=inside("partial", fold_to_file)),
    Case(
        id="store-gone",
        prepare=lambda here: shutil.rmtree(here / STORE),
        ends="well",
    ),
    Case(
        id="store-a-file",
        prepare=lambda here: fold_to_file(here / STORE),
        ends="refused",
        says=("bench-runs/store",),
        mended=False,
    ),
    Case(
        id="a-dry-run-repairs-nothing",
        command=f"{RUN} --dry-run",
        prepare=at("train", flip),
        ends="well",
        says=("damaged",),
    ),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_store_damage(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
