from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from bench.lib.errors import DamagedArtefactError
from bench.lib.files import content_key
from bench.store.store import Artefact, Cost, Store


def _make(store: Store, key: str = "k", text: str = "hello") -> Artefact:
    partial = store.begin("train", key)
    (partial.out / "sub").mkdir()
    (partial.out / "sub" / "a.txt").write_text(text)
    (partial.work / "state").write_text("half")
    return store.commit("train", key, partial, Cost(seconds=1.5, nfe=3), {"pairs": 7})


def test_commit_then_find(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.find("train", "k") is None
    assert not store.root.exists()
    _make(store)
    found = store.find("train", "k")
    assert found is not None
    assert (found.path / "sub" / "a.txt").read_text() == "hello"
    assert found.cost == Cost(seconds=1.5, nfe=3)
    assert found.info == {"pairs": 7}
    assert not list((store.root / "partial").iterdir())


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "manifest", "no manifest"])
def test_every_harm_is_noticed_and_repaired(tmp_path: Path, harm: str) -> None:
    store = Store(tmp_path)
    path = _make(store).path
    file, manifest = path / "sub" / "a.txt", path / "artefact.json"
    match harm:
        case "truncate":
            file.write_text("hell")
        case "flip":
            file.write_text("hellp")
        case "delete":
            file.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text()[:-20])
        case "no manifest":
            manifest.unlink()
    with pytest.raises(DamagedArtefactError, match=r"a\.txt|artefact\.json"):
        store.find("train", "k")
    store.discard("train", "k")
    assert store.find("train", "k") is None
    _make(store)
    assert store.find("train", "k") is not None


def test_an_unfinished_stage_keeps_its_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.begin("train", "k")
    (partial.work / "state").write_text("half")
    partial.note_seconds(12.0)
    again = Store(tmp_path).begin("train", "k")
    assert (again.work / "state").read_text() == "half"
    assert again.earlier_seconds() == 12.0
    assert store.find("train", "k") is None


def test_the_same_content_gives_the_same_manifest_but_for_cost(tmp_path: Path) -> None:
    one, two = (_make(Store(tmp_path / name)).manifest for name in ("a", "b"))
    assert one == two


def test_key_depends_on_content_not_on_order() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    assert content_key({"a": 1}) != content_key({"a": "1"})


def _hold(root: Path, order: str, seconds: float) -> None:
    with Store(root).lock("k"):
        with (root / "order").open("a") as file:
            file.write(f"+{order}")
        time.sleep(seconds)
        with (root / "order").open("a") as file:
            file.write(f"-{order}")


def test_a_lock_excludes_other_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    first = context.Process(target=_hold, args=(tmp_path, "a", 60.0))
    first.start()
    while not (tmp_path / "order").exists():
        time.sleep(0.02)
    second = context.Process(target=_hold, args=(tmp_path, "b", 0.0))
    second.start()
    time.sleep(0.5)
    assert (tmp_path / "order").read_text() == "+a"
    os.kill(first.pid or 0, 9)
    second.join(30)
    assert (tmp_path / "order").read_text() == "+a+b-b"
    first.join(5)


def test_files_found_right_are_not_read_again_until_they_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.store import store as stores

    store = Store(tmp_path / "store")
    artefact = _make(store)
    with monkeypatch.context() as patched:
        patched.setattr(stores, "file_sha256", lambda path: pytest.fail(f"{path} was read"))
        assert store.find("train", "k") is not None
    (artefact.path / "sub" / "a.txt").write_text("jello")
    with pytest.raises(DamagedArtefactError, match=r"a\.txt differs from its checksum"):
        store.find("train", "k")
    (artefact.path / "sub" / "a.txt").write_text("hello")
    (store.root / "verified" / "k.json").write_text('{"sub/a.t')
    assert store.find("train", "k") is not None


def test_what_a_kill_left_behind_a_finished_stage_is_swept_away(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _make(store)
    left = store.begin("train", "k")
    other = store.begin("train", "other")
    store.sweep(["k"])
    assert not left.folder.exists()
    assert other.folder.exists()
