from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from bench.lib import checksums, hub
from bench.scoring import chunks, truncation
from tests.toy import Channel

DATA = {"b": [1, 2.5, None, True], "a": {"größer": "\ud800", "10": 1, "9": 2}, "n": 10**30}


def test_what_was_sealed_is_read_again(tmp_path: Path) -> None:
    assert checksums.unseal(checksums.seal(DATA)) == DATA
    (tmp_path / "note").write_bytes(checksums.seal(DATA))
    assert checksums.read(tmp_path / "note") == DATA
    (tmp_path / "bytes").write_bytes(checksums.add_checksum(b"\0data"))
    assert checksums.read_checked(tmp_path / "bytes") == b"\0data"


def test_the_order_of_keys_changes_no_byte() -> None:
    assert checksums.seal({"a": 1, "b": 2}) == checksums.seal({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"null",
        b'"x"',
        b"\xff",
        b"[" * 10**6,
        json.dumps({"a": 1}).encode(),
        checksums.seal({"a": 1})[:-1],
        checksums.seal({"a": 1}).replace(b'"a": 1', b'"a": 1.0'),
        checksums.seal({"a": 1}).replace(b'"a": 1', b'"a": 2, "a": 1'),
    ],
)
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        checksums.unseal(text)


@pytest.mark.parametrize("read", [checksums.read, checksums.read_checked])
def test_only_regular_files_are_read(tmp_path: Path, read: object) -> None:
    """The others may never end, or never begin."""
    assert callable(read)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="no regular file"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")


def test_a_flipped_bit_in_half_finished_scores_changes_none(tmp_path: Path) -> None:
    """What an interrupted run has left is as safe as what a finished one has."""
    from PIL import Image

    def score() -> np.ndarray:
        return chunks.score_in_chunks(
            lambda: Channel(),
            "channel",
            lambda rows: (Image.new("RGB", (2, 2), (i, 0, 0)) for i in rows),
            ["p"] * 70,
            tmp_path,
            lambda _: None,
        )

    right = score()
    files = sorted(tmp_path.glob("scores-*.npy"))
    assert len(files) == 2
    rng = random.Random(0)
    for _ in range(200):
        file = rng.choice(files)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        bit = rng.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert score().tolist() == right.tolist()
        assert file.read_bytes() == whole


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"prompts_cut": 999}'])
def test_junk_where_cut_prompts_are_noted_is_counted_anew(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "truncation.json").write_bytes(junk)
    assert truncation.noted(tmp_path) == {}
    truncation.noting(Channel, Channel(), ["a", "b", "a"], tmp_path)()
    assert truncation.noted(tmp_path) == {"prompts_cut": 0, "distinct_prompts": 2}


def test_junk_in_the_users_cache_of_checksums_changes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    # What is younger than a tick of the clock is not remembered.
    time.sleep(0.1)
    right = hub.cached_sha256(file)
    (note,) = (tmp_path / "cache").rglob("*.json")
    whole = note.read_bytes()
    state = json.loads(whole)["state"]
    forged = json.dumps({"state": state, "sha256": "0" * 64}).encode()
    for junk in (b"", b"\xff", b"[]", b"[" * 10**6, forged, whole.replace(b"7", b"8")):
        note.write_bytes(junk)
        assert hub.cached_sha256(file) == right
        assert note.read_bytes() == whole
    for number in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[number // 8] ^= 1 << number % 8
        note.write_bytes(damaged)
        assert hub.cached_sha256(file) == right
    note.unlink()
    note.mkdir()
    assert hub.cached_sha256(file) == right
    note.rmdir()
    os.mkfifo(note)
    assert hub.cached_sha256(file) == right
