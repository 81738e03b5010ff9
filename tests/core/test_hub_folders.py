"""Which files of a local folder count: linked ones do, hidden ones do not, none is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.lib import hub
from bench.lib.errors import BenchError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    (place / "unet").mkdir(parents=True)
    (place / "unet" / "weights.bin").write_bytes(b"one")
    (place / "config.json").write_text("{}")
    return place


def fingerprint(folder: Path, *patterns: str) -> str:
    return hub.fingerprint(str(folder), revision="", patterns=patterns or ("*",))


def test_linked_folders_and_files_count_like_others(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "unet").symlink_to(folder / "unet")
    (linked / "config.json").symlink_to(folder / "config.json")
    assert fingerprint(linked) == fingerprint(folder)
    (folder / "unet" / "weights.bin").write_bytes(b"two")
    before = fingerprint(linked)
    assert before == fingerprint(folder)
    (folder / "unet" / "weights.bin").write_bytes(b"six")
    assert before != fingerprint(linked) == fingerprint(folder)


def test_a_folder_in_itself_is_not_entered_twice(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "unet" / "up").symlink_to(folder)
    (folder / "again").symlink_to(folder)
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", ["unet", "config.json", "more"])
def test_a_link_that_leads_nowhere_is_named(folder: Path, name: str) -> None:
    if name == "unet":
        (folder / "unet").rename(folder.parent / "away")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/gone/store")
    with pytest.raises(BenchError, match=rf"{name}: this link leads nowhere \(to /gone/store\)"):
        fingerprint(folder, "*.json", "unet/*")


def test_a_link_to_itself_is_named(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(BenchError, match="loop: this link leads nowhere"):
        fingerprint(folder)
    with pytest.raises(BenchError, match="loop: this link leads nowhere"):
        hub.local(str(folder / "loop"))


def test_what_nobody_reads_may_lead_nowhere(folder: Path) -> None:
    (folder / "pruned.ckpt").symlink_to("/gone")
    assert fingerprint(folder, "*.json") == fingerprint(folder, "config.json")


def test_hidden_files_are_no_part_of_a_folder(folder: Path) -> None:
    before = fingerprint(folder)
    (folder / "._config.json").write_bytes(b"of an archiver")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.json").write_text("{}")
    (folder / ".#config.json").symlink_to("user@host.1")
    assert fingerprint(folder) == before


def test_a_hash_of_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"model: the folder holds nothing .*\(\*\.pth, x/\*\)"):
        fingerprint(folder, "*.pth", "x/*")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="empty: the folder holds nothing"):
        fingerprint(tmp_path / "empty")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BenchError, match="is a pipe"):
        fingerprint(tmp_path / "fifo")


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-at-all/model"])
def test_a_name_that_no_file_can_have_is_one_sentence(source: str) -> None:
    with pytest.raises(BenchError, match=r"there is no (file|such user)") as raised:
        hub.local(source)
    assert "\n" not in str(raised.value)
