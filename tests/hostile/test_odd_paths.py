"""Folders and files where nobody expects them, or of another kind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.hostile.harness import (
    OUT,
    RUN,
    STORE,
    Case,
    Prepare,
    World,
    judge,
    little_memory,
    sample,
)


def out(name: str, where: str, *says: str, **more: object) -> Case:
    """An output folder that a run must not take."""
    command = f"{RUN} --out '{where}'"
    return Case(id=f"out-{name}", command=command, ends="refused", says=says, **more)  # type: ignore[arg-type]


def store(name: str, where: str, *says: str, **more: object) -> Case:
    """A store that cannot be one."""
    command = f"{RUN} --store '{where}' --out fresh"
    return Case(id=f"store-{name}", command=command, ends="refused", says=says, **more)  # type: ignore[arg-type]


def moved(where: str, **more: object) -> Case:
    """The whole world in a folder of another name."""
    command = f"run --recipe '{where}/recipe.yaml' --device cpu --set 'backbone=toy[path=pipeline]'"
    return Case(
        id=f"folder-{len(where)}-{where.encode().hex()[:12]}",
        command=command,
        prepare=lambda here: _copy_recipe(here, where),
        **more,  # type: ignore[arg-type]
    )


def _copy_recipe(here: Path, where: str) -> None:
    (here / where).mkdir(parents=True)
    shutil.copy2(here / "recipe.yaml", here / where)


def foreign(*names: str) -> Prepare:
    """A folder of the user's, with files named as a run's."""

    def make(here: Path) -> None:
        for name in names:
            path = here / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine\n")

    return make


def linked(name: str, target: str) -> Prepare:
    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).symlink_to(target)

    return make


def board_part_linked(part: str) -> Prepare:
    """A part of the board is a link to a folder of the user's."""

    def make(here: Path) -> None:
        (here / "elsewhere").mkdir()
        (here / "elsewhere" / "precious.json").write_text("{}")
        target = here / OUT / part
        shutil.rmtree(target)
        target.symlink_to(here / "elsewhere")

    return make


def _unprivileged() -> None:
    """Root may write anywhere."""
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)


def _for_anybody(here: Path) -> None:
    for path in [here, *here.parents[:3], *here.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o777 if path.is_dir() else 0o666)


def locked(name: str) -> Prepare:
    def make(here: Path) -> None:
        _for_anybody(here)
        (here / name).chmod(0o555)

    return make


CASES = [
    out("a-file", "notes.txt", "notes.txt"),
    out("below-a-file", "notes.txt/board", "notes.txt"),
    out("the-folder-itself", "."),
    out("the-parent", ".."),
    out("a-system-folder", "/proc"),
    out("the-pipeline", "pipeline"),
    out("the-store", str(STORE)),
    out("below-the-store", f"{STORE}/artefacts"),
    out("above-the-store", "bench-runs"),
    out("a-device", "/dev/null", "/dev/null"),
    out("proc", "/proc/1/board"),
    out("long", "o" * 5000),
    out("deep", "/".join(["d"] * 2500)),
    out("foreign-prompts", "mine", "mine", prepare=foreign("prompts/p.json", "notes.md")),
    out("foreign-results", "mine", "mine", prepare=foreign("results/r.json")),
    out("foreign-checkpoints", "mine", "mine", prepare=foreign("checkpoints/a/model.bin")),
    out("foreign-readme", "mine", "mine", prepare=foreign("README.md")),
    out("foreign-recipe", "mine", "mine", prepare=foreign("recipe.yaml")),
    out("foreign-anything", "mine", "mine", prepare=foreign("thesis.tex")),
    out("a-dead-link", "mine", "mine", prepare=linked("mine", "gone/deeper")),
    out("a-looping-link", "mine", "mine", prepare=linked("mine", "mine")),
    out("a-pipe", "mine", "mine", prepare=lambda here: os.mkfifo(here / "mine")),
    Case(
        id="out-markup",
        command=f"{RUN} --out '[red]o[/red]'",
        ends="well",
        own=("[red]o[/red]/",),
    ),
    Case(id="out-spaces", command=f"{RUN} --out ' a  b '", ends="well"),
    Case(id="out-unicode", command=f"{RUN} --out 'Größe/日本'", ends="well"),
    Case(id="out-percent", command=f"{RUN} --out '%s%(x)s{{}}'", ends="well"),
    Case(id="out-dash", command=f"{RUN} --out=-x", ends="well"),
    Case(id="out-newline", command=f"{RUN} --out 'a\nb'"),
    Case(id="out-empty", command=f"{RUN} --out ''"),
    Case(
        id="out-linked-to-empty",
        command=f"{RUN} --out mine",
        prepare=lambda here: ((here / "real").mkdir(), (here / "mine").symlink_to("real"))[0],
    ),
    *(
        Case(id=f"board-{part}-linked", prepare=board_part_linked(part))
        for part in ("results", "prompts", "checkpoints")
    ),
    Case(
        id="board-a-file",
        prepare=lambda here: _file_instead(here / OUT),
        ends="refused",
        says=("bench-runs/toy",),
        mended=False,
    ),
    Case(
        id="bench-runs-a-file",
        prepare=lambda here: _file_instead(here / "bench-runs"),
        ends="refused",
        says=("bench-runs",),
        mended=False,
    ),
    store("a-file", "notes.txt", "notes.txt"),
    store("below-a-file", "notes.txt/store", "notes.txt"),
    store("a-device", "/dev/null", "/dev/null"),
    store("proc", "/proc/1/store"),
    store("long", "s" * 5000),
    store("a-dead-link", "mine/store", prepare=linked("mine", "/proc/1/none")),
    store("a-looping-link", "mine", prepare=linked("mine", "mine")),
    store("a-pipe", "mine", prepare=lambda here: os.mkfifo(here / "mine")),
    Case(
        id="store-foreign-folder",
        command=f"{RUN} --store mine --out fresh",
        prepare=foreign("thesis.tex", "artefacts/notes.txt", "partial/a.txt"),
    ),
    Case(
        id="store-linked",
        prepare=lambda here: _link_elsewhere(here, STORE),
        own=("elsewhere/",),
        ends="well",
    ),
    Case(
        id="everything-moved",
        command="run --recipe moved/recipe.yaml --device cpu --store moved/bench-runs/store "
        "--out moved/bench-runs/toy",
        prepare=lambda here: (
            shutil.copytree(here / "bench-runs", here / "moved/bench-runs")
            and shutil.copy2(here / "recipe.yaml", here / "moved")
        ),
        own=("moved/bench-runs/",),
        ends="well",
    ),
    Case(
        id="read-only-board",
        where="fork",
        before=_unprivileged,
        prepare=locked(str(OUT)),
        ends="refused",
        says=("bench-runs/toy",),
    ),
    Case(
        id="read-only-store",
        where="fork",
        command=f"{RUN} --methods sft",
        before=_unprivileged,
        prepare=locked(str(STORE / "artefacts" / "train")),
        ends="refused",
        says=("bench-runs/store",),
    ),
    moved("a b"),
    moved("[red]"),
    moved("#hash"),
    moved("%41"),
    moved("日本"),
    moved("a\u202eb"),
    moved("n" * 200),
    Case(
        id="score-out-over-images",
        command="score images --prompts prompts.tsv --scorers channel --out images/00000.png",
        prepare=lambda here: _images(here),
        ends="refused",
    ),
    Case(
        id="score-out-over-recipe",
        command="score images --prompts prompts.tsv --scorers channel --out recipe.yaml",
        prepare=lambda here: _images(here),
        ends="refused",
        says=("recipe.yaml",),
    ),
    Case(
        id="score-a-pipe-among-images",
        command="score images --prompts prompts.tsv --scorers channel",
        prepare=lambda here: (
            _images(here),
            (here / "images/00001.png").unlink(),
            os.mkfifo(here / "images/00001.png"),
        )[0],
        ends="refused",
        says=("00001",),
    ),
    Case(
        id="score-table-of-passwd",
        command="score list.csv --scorers channel",
        files={"list.csv": "image,prompt\n/etc/passwd,a\n"},
        ends="refused",
        never_says=("root:",),
    ),
    Case(
        id="score-table-climbs",
        command="score sub/list.csv --scorers channel",
        files={"sub/list.csv": "image,prompt\n../pipeline/../images/00000.png,a\n"},
        prepare=lambda here: _images(here),
        ends="refused",
    ),
    Case(
        id="score-table-of-zero",
        command="score list.csv --scorers channel",
        files={"list.csv": "image,prompt\n/dev/zero,a\n"},
        where="fork",
        before=little_memory,
        ends="refused",
    ),
    Case(
        id="score-table-linked-out",
        command="score list.csv --scorers channel",
        files={
            "list.csv": "image,prompt\nx.png,a\n",
            "x.png": lambda path: path.symlink_to("/etc/passwd"),
        },
        ends="refused",
    ),
    Case(
        id="score-gone",
        command="score gone --prompts prompts.tsv --scorers channel",
        ends="refused",
    ),
    Case(id="score-a-file", command="score notes.txt --scorers channel", ends="refused"),
    Case(
        id="score-nothing",
        command="score pipeline --prompts prompts.tsv --scorers channel",
        ends="refused",
    ),
]


def _file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def _link_elsewhere(here: Path, name: Path) -> None:
    shutil.move(here / name, here / "elsewhere")
    (here / name).symlink_to(here / "elsewhere")


def _images(here: Path) -> None:
    found = sorted((here / STORE / "artefacts" / "sample").iterdir())[0] / "images"
    shutil.copytree(found, here / "images")


@pytest.mark.parametrize("case", sample(CASES))
def test_odd_paths(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
