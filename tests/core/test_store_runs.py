"""Whole commands on damaged, odd and shared stores."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bench.registry.registry
from bench.lib.errors import BenchError
from bench.lib.io_errors import clear_io_errors
from bench.store.store import Store
from tests import toy
from tests.commands import Bench, in_folder
from tests.core.test_store_damage import unprivileged

METHODS = ["balanced"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toys' files, and what a run on them left: `store` and `out`."""
    return tmp_path_factory.mktemp("toys")


def _write_recipe(folder: Path) -> Path:
    recipe = toy.recipe(folder, methods=METHODS, scorers=["channel"], label_scorers=["channel"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder / "recipe.yaml"


@pytest.fixture
def bench_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    monkeypatch.setattr(bench.registry.registry, "default_registry", toy.registry)
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def run(bench_in: Bench, folder: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`bench run` of the toys in `tmp_path`."""
    recipe = _write_recipe(folder)

    def run(store: Path | str = "store", out: Path | str = "out") -> tuple[int, str, str]:
        return bench_in("run", "--recipe", str(recipe), "--store", str(store), "--out", str(out))

    finished = folder / "store"
    if not finished.exists():
        assert run(finished, folder / "out")[0] == 0
    shutil.copytree(finished, tmp_path / "store")
    return run


Run = Callable[..., tuple[int, str, str]]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_cached_run_leaves_the_same_bytes(run: Run, folder: Path, tmp_path: Path) -> None:
    """The device is `auto`, which a run that computes nothing never resolves."""
    assert run(folder / "store", tmp_path / "again")[0] == 0
    first, second = _bytes(folder / "out"), _bytes(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert any(b'"device": "cpu"' in text for text in first.values())


def test_a_flipped_bit_anywhere_is_repaired_by_the_next_run(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    whole = toy.artefacts(Store(tmp_path / "store"))
    rng = random.Random(0)
    manifests = sorted((tmp_path / "store").glob("artefacts/*/*/artefact.json"))
    for _ in range(4):
        manifest = rng.choice(manifests)
        damaged = bytearray(manifest.read_bytes())
        bit = rng.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(damaged)
        code, printed, said = run()
        assert (code, said) == (0, "")
        assert f"damaged artefact: {manifest}" in " ".join(printed.split())
        assert toy.artefacts(Store(tmp_path / "store")) == whole


@pytest.mark.parametrize("how", ["file", "broken link", "empty", "pipe", "unreadable"])
@pytest.mark.parametrize("stage", ["encode", "train", "score"])
def test_an_artefact_that_is_something_else_is_repaired_by_the_next_run(
    run: Run, tmp_path: Path, stage: str, how: str
) -> None:
    store = Store(tmp_path / "store")
    whole = toy.artefacts(store)
    place = next(iter(sorted((store.root / "artefacts" / stage).iterdir())))
    shutil.rmtree(place)
    match how:
        case "file":
            place.write_text("a file")
        case "broken link":
            place.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(place)
        case _:
            place.mkdir()
    code, printed, said = run()
    assert (code, said) == (0, "")
    assert "damaged artefact: " in printed
    assert toy.artefacts(store) == whole
    assert not list(store.root.glob("discarded/*"))


def test_what_stands_in_the_way_of_all_artefacts_is_said_before_the_work(
    run: Run, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "store" / "artefacts")
    (tmp_path / "store" / "artefacts").write_text("a file")
    code, printed, said = run()
    assert code == 1
    assert said.startswith(f"error: cannot write {tmp_path}/store/artefacts")
    assert "a part of the path is not a folder" in said
    assert said.count("\n") == 1
    assert "Traceback" not in said + printed
    (tmp_path / "store" / "artefacts").unlink()
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("store", "out"),
    [
        ("with space", "a\nb"),
        ("größer 库", "out"),
        ("x" * 200, "out"),
        ("linked", "out"),
    ],
)
def test_a_store_of_any_name_and_place(run: Run, tmp_path: Path, store: str, out: str) -> None:
    if store == "linked":
        (tmp_path / store).symlink_to(tmp_path / "store", target_is_directory=True)
    elif store != "store":
        shutil.copytree(tmp_path / "store", tmp_path / store)
    before = toy.artefacts(Store(tmp_path / store))
    for _ in range(2):
        code, printed, said = run(store, out)
        assert (code, said) == (0, "")
        assert (tmp_path / out / "leaderboard.json").exists()
        assert ", 0 of them cached" not in printed
        assert toy.artefacts(Store(tmp_path / store)) == before


@pytest.mark.parametrize(
    ("store", "out", "why"),
    [
        ("store", "store", "lies in the store"),
        ("store", "store/out", "lies in the store"),
        ("out/store", "out", "holds 'store' and was not made by `bench run`"),
    ],
)
def test_outputs_and_artefacts_lie_apart(
    run: Run, tmp_path: Path, store: str, out: str, why: str
) -> None:
    if store != "store":
        shutil.copytree(tmp_path / "store", tmp_path / store)
    before = toy.artefacts(Store(tmp_path / store))
    code, _, said = run(store, out)
    assert code == 1
    assert why in said
    assert toy.artefacts(Store(tmp_path / store)) == before


@pytest.mark.parametrize("store", ["x" * 300, "/".join(["x" * 200] * 25), "recipe.yaml/store"])
def test_a_store_that_cannot_be_is_one_sentence(run: Run, tmp_path: Path, store: str) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    code, _, said = run(store)
    assert code == 1
    assert said.startswith("error: cannot write ")
    assert said.count("\n") == 1


def test_a_finished_run_needs_to_write_nothing_to_its_store(
    bench_in: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unprivileged() as own:
        monkeypatch.chdir(own)
        command = ["run", "--recipe", str(_write_recipe(own)), "--store", "store", "--out"]
        assert bench_in(*command, "first")[0] == 0
        for path in [*(own / "store").rglob("*"), own / "store"]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = _bytes(own / "store")
        assert bench_in(*command, "second")[::2] == (0, "")
        assert _bytes(own / "store") == before
        assert _bytes(own / "second") == _bytes(own / "first")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            PermissionError(13, "", "{store}/partial/x"),
            "cannot write {store}/partial/x: permission",
        ),
        (
            PermissionError(13, "", "/etc/shadow"),
            "cannot read /etc/shadow: permission denied; what",
        ),
        (PermissionError(13, "", b"/etc/shadow"), "cannot read /etc/shadow: permission denied"),
        (OSError(28, "", "/elsewhere/x"), "cannot write /elsewhere/x: the disk is full"),
        (OSError(28, ""), "cannot write: the disk is full"),
        (OSError(30, "", "{store}"), "cannot write {store}: the file system is read-only"),
        (NotADirectoryError(20, "", "{above}"), "cannot write {above}: a part of the path is not"),
        (OSError(36, "", "{store}/locks"), "cannot write {store}/locks: the path is too long"),
        (OSError(5, "", "/data/pairs"), "cannot read /data/pairs: the disk reports an error"),
        (IsADirectoryError(21, "", "/data"), "cannot read /data: it is a folder"),
    ],
)
def test_reading_and_writing_have_remedies_of_their_own(
    tmp_path: Path, error: OSError, expected: str
) -> None:
    places = {"store": tmp_path / "runs" / "store", "above": tmp_path / "runs"}
    if isinstance(error.filename, str):
        error.filename = error.filename.format(**places)
    with pytest.raises(BenchError) as told, clear_io_errors(places["store"]):
        raise error
    said = str(told.value)
    assert said.startswith(expected.format(**places))
    assert ("--store" in said) == said.startswith("cannot write")


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), clear_io_errors(tmp_path):
        raise ConnectionResetError(104, "reset")
