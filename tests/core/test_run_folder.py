"""A run adds to its own folder, and never takes what it has not made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bench.leaderboard import run_folder
from bench.leaderboard.run_folder import LOCK, MARK, RunFolder
from bench.lib.errors import BenchError
from tests.leaderboard import small_board


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(path: Path, **files: str) -> list[Path]:
    with RunFolder(path).held() as held:
        return held.replace({name.replace("_", "."): t.encode() for name, t in files.items()})


def _file(path: Path) -> None:
    path.write_text("mine")


def _prompts(path: Path) -> None:
    (path / "prompts").mkdir(parents=True)
    (path / "prompts" / "mine.txt").write_text("a red circle")


def _board(path: Path) -> None:
    small_board.save(path, small_board.cells())


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "mine.txt").write_text("mine")
    path.symlink_to(path.parent / "elsewhere")


def _broken_link(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


def _other_mark(path: Path) -> None:
    path.mkdir()
    (path / MARK).write_text('{"files": []}')


def _linked_mark(path: Path) -> None:
    path.mkdir()
    (path.parent / "mark").write_text('{"files": {}, "checkpoints": {}}')
    (path / MARK).symlink_to(path.parent / "mark")


def _linked_lock(path: Path) -> None:
    path.mkdir()
    (path.parent / "victim").write_text("mine")
    (path / LOCK).symlink_to(path.parent / "victim")


def _below_a_file(path: Path) -> None:
    path.parent.joinpath("file").write_text("mine")


FOREIGN: list[tuple[Callable[[Path], None], str]] = [
    (_file, "is a file"),
    (_prompts, "holds 'prompts' and was not made by `bench run`"),
    (_board, "holds 'prompts' and was not made by `bench run`"),
    (_link, "is a link to"),
    (_broken_link, "is a link to"),
    (_other_mark, "cannot be read"),
    (_linked_mark, "it is no regular file"),
    (_linked_lock, "cannot be written"),
]


@pytest.mark.parametrize(("make", "message"), FOREIGN)
def test_what_is_not_a_runs_is_refused_and_stays(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    out = tmp_path / "out"
    make(out)
    before = snapshot(tmp_path)
    with pytest.raises(BenchError, match=message) as caught:
        RunFolder(out).claim()
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_path_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(BenchError, match=r"--out .*cannot be written"):
            RunFolder(path).claim()


def test_a_new_and_an_empty_folder_become_a_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deep"):
        write(tmp_path / name, README_md="one")
        write(tmp_path / name, README_md="two")
        assert (tmp_path / name / "README.md").read_text() == "two"


def test_what_was_killed_before_it_wrote_anything_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    (tmp_path / f".{MARK}.123.tmp").write_text("half")
    RunFolder(tmp_path).claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARK, LOCK]


def test_a_file_that_somebody_changed_is_kept_beside(tmp_path: Path) -> None:
    write(tmp_path, README_md="the table", recipe_yaml="a")
    for text in ("my own words", "more of them"):
        (tmp_path / "README.md").write_text(text)
        (kept,) = write(tmp_path, README_md="the table", recipe_yaml="b")
        assert kept.read_text() == text
        assert (tmp_path / "README.md").read_text() == "the table"
    assert (tmp_path / "README.md.kept").read_text() == "my own words"
    assert write(tmp_path, README_md="another table") == []


def test_a_file_that_nobody_has_written_yet_is_kept_too(tmp_path: Path) -> None:
    write(tmp_path, README_md="the table")
    (tmp_path / "scores.csv").write_text("mine")
    (tmp_path / "recipe.yaml").mkdir()
    (tmp_path / "recipe.yaml" / "mine").write_text("mine")
    kept = write(tmp_path, scores_csv="figures", recipe_yaml="recipe")
    assert sorted(path.name for path in kept) == ["recipe.yaml.kept", "scores.csv.kept"]
    assert (tmp_path / "recipe.yaml.kept" / "mine").read_text() == "mine"


def test_a_link_in_the_place_of_a_file_is_not_written_through(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, README_md="the table")
    (tmp_path / "notes.md").write_text("mine")
    (out / "README.md").unlink()
    (out / "README.md").symlink_to(tmp_path / "notes.md")
    write(out, README_md="another table")
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert not (out / "README.md").is_symlink()


@pytest.mark.parametrize("name", ["results", "prompts", "checkpoints"])
def test_linked_folders_are_refused(tmp_path: Path, name: str) -> None:
    RunFolder(tmp_path / "out").claim()
    small_board.save(tmp_path / "other", small_board.cells())
    (tmp_path / "other" / "checkpoints").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "other" / name)
    before = snapshot(tmp_path / "other")
    with pytest.raises(BenchError, match=f"{name} is a link to .*other"):
        RunFolder(tmp_path / "out").check()
    assert snapshot(tmp_path / "other") == before


def test_a_result_that_somebody_changed_is_refused_by_name(tmp_path: Path) -> None:
    cell = small_board.cell("base")
    text = run_folder.results.record_text(cell)
    name = str(run_folder.results.record_path(tmp_path, cell).relative_to(tmp_path))
    with RunFolder(tmp_path).held() as held:
        held.replace({name: text.encode()})
    RunFolder(tmp_path).check()
    path = tmp_path / name
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(BenchError, match=f"{path.name} was changed after a run wrote it"):
        RunFolder(tmp_path).check()
    path.write_text(text)
    RunFolder(tmp_path).check()
    path.unlink()
    RunFolder(tmp_path).check()


def test_a_file_among_the_results_that_is_none_is_found_before_the_work(tmp_path: Path) -> None:
    RunFolder(tmp_path).claim()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text("{")
    with pytest.raises(BenchError, match=r"x\.json: cannot be read as JSON"):
        RunFolder(tmp_path).check()


class _Killed(BaseException):
    """What SIGKILL looks like from inside: nothing may catch it."""


def _killed_at(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Stop before the given one of all replacements, renamings and removals."""
    count = [0]
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def call(*arguments: object, real: Callable[..., None] = real) -> None:
            count[0] += 1
            if count[0] == at:
                raise _Killed
            real(*arguments)

        monkeypatch.setattr(os, name, call)
    return count


def test_killed_at_any_moment_every_file_is_whole_and_a_rerun_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = {"README_md": "old table", "a_csv": "old", "b_csv": "same"}
    new = {"README_md": "new table", "a_csv": "new", "b_csv": "same", "c_csv": "more"}

    def prepare(out: Path) -> None:
        write(out, **old)
        (out / "a.csv").write_text("by hand")

    prepare(tmp_path / "right")
    write(tmp_path / "right", **new)
    for at in range(1, 100):
        out = tmp_path / str(at)
        prepare(out)
        with monkeypatch.context() as patched:
            count = _killed_at(patched, at)
            with suppress(_Killed):
                write(out, **new)
        names = {**old, **new}
        for name in old:
            path = out / name.replace("_", ".")
            texts = (old[name], names[name], "by hand")
            kept = path.with_name(f"{path.name}.kept")
            assert path.read_text() in texts if path.exists() else kept.exists()
        everything = b" ".join(snapshot(out).values())
        assert b"by hand" in everything
        write(out, **new)
        assert snapshot(out) == snapshot(tmp_path / "right")
        if count[0] < at:
            break
    assert at > 6


def test_checkpoints_of_other_cells_are_renamed_and_those_of_others_stay(tmp_path: Path) -> None:
    def make(name: str, identity: str, text: str) -> None:
        with RunFolder(tmp_path).held() as held:
            held.make_room({name: identity})
        place = tmp_path / "checkpoints" / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "weights").write_text(text)
        (place / "README.md").write_text(f"the card of {text}")
        card = {run_folder.card(name): f"the card of {text}".encode()}
        with RunFolder(tmp_path).held() as held, held.becoming(card):
            pass

    make("dpo-seed0", "1" * 64, "3 steps")
    make("dpo-seed0", "2" * 64, "10 steps")
    make("dpo-seed0", "2" * 64, "10 steps, again")
    make("balanced-seed0", "4" * 64, "balanced")
    (tmp_path / "checkpoints" / "balanced-seed0" / "README.md").write_text("my own card")
    make("balanced-seed0", "4" * 64, "balanced, again")
    mine = tmp_path / "checkpoints" / "sft-seed0"
    mine.mkdir()
    (mine / "weights").write_text("mine")
    make("sft-seed0", "3" * 64, "sft")
    found = {
        path.parent.name: path.read_text() for path in (tmp_path / "checkpoints").glob("*/weights")
    }
    kept = tmp_path / "checkpoints" / "balanced-seed0.kept" / "README.md"
    assert kept.read_text() == "my own card"
    assert found == {
        "balanced-seed0": "balanced, again",
        "balanced-seed0.kept": "balanced",
        "dpo-seed0": "10 steps, again",
        "dpo-seed0-11111111": "3 steps",
        "sft-seed0": "sft",
        "sft-seed0.kept": "mine",
    }


def test_the_mark_says_who_wrote_what(tmp_path: Path) -> None:
    write(tmp_path, README_md="the table")
    mark = json.loads((tmp_path / MARK).read_text())
    assert mark["written_by"].startswith("bench run ")
    assert list(mark["files"]) == ["README.md"]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("shapes", "shapes"),
        ("../x", "x"),
        ("/etc/x", "etc-x"),
        ("a\nb", "a-b"),
        ("a\0b", "a-b"),
        ("[red]x", "red-x"),
        ("y" * 300, "y" * 60),
    ],
)
def test_a_recipe_is_called_by_a_folder_of_the_root(name: str, folder: str, tmp_path: Path) -> None:
    assert run_folder.default_place(name, tmp_path) == tmp_path / folder


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "/", "\n"])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no folder can be called so"):
        run_folder.default_place(name, tmp_path)


def test_outputs_do_not_lie_among_artefacts(tmp_path: Path) -> None:
    for out in ("store", "store/out", "x/../store"):
        with pytest.raises(BenchError, match="lies in the store"):
            run_folder.outside(tmp_path / out, tmp_path / "store")
    run_folder.outside(tmp_path / "out", tmp_path / "out" / "store")
