from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.store.store import Store
from tests.commands import Bench, in_folder
from tests.core.test_store_damage import make


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "bench-runs" / "store")
    for key in ("a", "b", "c"):
        make(store, key)
    return store


def _flip_unseen(path: Path) -> None:
    """Change a byte, as a failing disk does: size, inode and time stay."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_whole_store_is_in_order(bench: Bench, store: Store) -> None:
    code, printed, said = bench("store", "verify")
    assert (code, said) == (0, "")
    assert "3 artefacts, 0.00 GB read, 0 damaged" in printed


def test_damage_that_keeps_size_and_time_is_found(bench: Bench, store: Store) -> None:
    file = store.path("train", "b") / "b.bin"
    _flip_unseen(file)
    # What runs trust.
    assert store.find("train", "b") is not None
    code, printed, said = bench("store", "verify")
    assert code == 1
    assert f"damaged: {file} differs from its checksum" in printed
    assert said.startswith("error: 1 of 3 artefacts in bench-runs/store are damaged; with --remove")
    # Nothing is removed, and no later run is deceived by its note.
    assert file.exists()
    assert bench("store", "verify")[0] == 1
    assert "b.bin differs" in _problem(store)
    code, printed, said = bench("store", "verify", "--remove-damaged")
    assert (code, said) == (0, "")
    assert "what was damaged is removed; the next run makes it again" in printed
    assert not store.path("train", "b").exists()
    assert store.find("train", "a") is not None
    make(store, "b")
    assert bench("store", "verify")[0] == 0


def _problem(store: Store) -> str:
    from bench.lib.errors import DamagedArtefactError

    with pytest.raises(DamagedArtefactError) as error:
        store.find("train", "b")
    return str(error.value)


def test_whatever_lies_in_the_place_of_an_artefact_is_named(bench: Bench, store: Store) -> None:
    folder = store.path("train", "a").parent
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "a" / "more.txt").write_text("")
    code, printed, _ = bench("store", "verify")
    assert code == 1
    assert printed.count("damaged: ") == 4
    assert f"not of the artefact, and never read: {folder}/a/more.txt" in printed
    assert bench("store", "verify", "--remove-damaged")[0] == 0
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("there", [False, True])
def test_what_is_no_store_is_refused(bench: Bench, tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "mine").mkdir()
    code, printed, said = bench("store", "verify", "--store", "mine")
    assert (code, printed) == (1, "")
    assert said == "error: --store mine: there is no store\n"
