"""Local paths, a cache in the Hub's own layout, and what cannot be had; no network."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.lib import hub
from bench.lib.errors import BenchError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds `owner/model` at one commit, named by its branch main."""
    from huggingface_hub import constants

    root = tmp_path / "hub"
    for kind in ("models--owner--model", "datasets--owner--data"):
        snapshot = root / kind / "snapshots" / COMMIT
        (snapshot / "sub").mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "sub" / "weights.bin").write_bytes(b"weights")
        (root / kind / "refs").mkdir()
        (root / kind / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub._resolved.cache_clear()
    return root


def test_a_path_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"x")
    assert hub.fetch_file(str(tmp_path), "w.bin", revision="main") == tmp_path / "w.bin"
    assert hub.fetch_file(str(tmp_path / "w.bin"), "other", revision="main").read_bytes() == b"x"
    with pytest.raises(BenchError, match=r"there is no file 'y.bin' in this folder"):
        hub.fetch_file(str(tmp_path), "y.bin", revision="main")


@pytest.mark.parametrize("source", ["./gone", "/gone/away", "~/gone", "gone", "a/b/c"])
def test_what_is_written_like_a_path_must_be_there(source: str) -> None:
    with pytest.raises(BenchError, match="there is no file or folder"):
        hub.local(source)


def test_the_cache_serves_files_and_folders(cache: Path) -> None:
    file = hub.fetch_file("owner/model", "sub/weights.bin", revision=COMMIT)
    assert file.read_bytes() == b"weights"
    folder = hub.fetch_folder("owner/data", revision="main", patterns=["*"], repo_type="dataset")
    assert (folder / "config.json").is_file()


def test_a_changed_download_is_refused(cache: Path) -> None:
    right = hashlib.sha256(b"weights").hexdigest()
    ask = {"revision": COMMIT}
    assert hub.fetch_file("owner/model", "sub/weights.bin", sha256=right, **ask)
    with pytest.raises(BenchError, match="another checksum than expected"):
        hub.fetch_file("owner/model", "sub/weights.bin", sha256="0" * 64, **ask)


def test_fingerprints_name_the_bytes(cache: Path, tmp_path: Path) -> None:
    assert hub.fingerprint("owner/model", revision=COMMIT) == f"owner/model@{COMMIT}"
    assert hub.fingerprint("owner/model", revision="main") == f"owner/model@{COMMIT}"
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.json").write_text("1")
    (folder / "b.txt").write_text("2")
    first = hub.fingerprint(str(folder), revision="", patterns=["*.json"])
    (folder / "b.txt").write_text("changed")
    assert hub.fingerprint(str(folder), revision="", patterns=["*.json"]) == first
    (folder / "a.json").write_text("changed")
    assert hub.fingerprint(str(folder), revision="", patterns=["*.json"]) != first


def test_a_commit_needs_no_network_and_a_branch_says_what_it_needs(cache: Path) -> None:
    assert hub.commit("never/seen", COMMIT) == COMMIT
    with pytest.raises(BenchError, match="full commit hash as revision, or the path of a"):
        hub.commit("never/seen", "main")
    for fetch in (
        lambda revision: hub.fetch_file("never/seen", "x", revision=revision),
        lambda revision: hub.fetch_folder("never/seen", revision=revision, patterns=["*"]),
    ):
        with pytest.raises(BenchError, match="revision, or the path of a local copy"):
            fetch("main")
        with pytest.raises(BenchError, match=r"the Hub cannot be reached .* path of a local"):
            fetch(COMMIT)


def test_a_branch_that_was_resolved_once_is_known_without_the_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    asked: list[str] = []

    def repo_info(self: HfApi, source: str, **options: object) -> SimpleNamespace:
        asked.append(source)
        return SimpleNamespace(sha="b" * 40)

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub.commit("some/other", "v1/next") == "b" * 40
    assert hub.commit("some/other", "v1/next", "model") == "b" * 40
    assert asked == ["some/other"]
    hub._resolved.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.commit("some/other", "v1/next") == "b" * 40


def _answer(status: int, headers: dict[str, str]) -> object:
    from huggingface_hub import utils

    transport = utils._http.__dict__
    http = next(transport[name] for name in ("httpx2", "httpx") if name in transport)
    request = http.Request("GET", "https://example.org/owner/model/resolve/main/x")
    return http.Response(status, headers=headers, request=request)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (
            403,
            "GatedRepo",
            r"is gated: accept its terms at .*owner/model, then run `hf auth login`",
        ),
        (404, "RepoNotFound", "no such model, or it is private"),
        (404, "RevisionNotFound", "no such revision"),
        (503, "", "the Hub cannot be reached"),
    ],
)
def test_what_the_hub_answers_becomes_one_sentence(status: int, code: str, message: str) -> None:
    """The client's own code turns a real response into its error, and ours into a sentence."""
    from huggingface_hub.utils import hf_raise_for_status

    response = _answer(status, {"X-Error-Code": code} if code else {})
    with (
        pytest.raises(BenchError, match=message),
        hub.clear_errors("owner/model", "main", "model"),
    ):
        hf_raise_for_status(response)


def test_checksums_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "w.bin"
    file.write_bytes(b"one")
    # A file so young could change once more within one tick of the file system's clock.
    time.sleep(0.05)
    assert hub.cached_sha256(file) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(hub, "file_sha256", lambda path: pytest.fail("read again"))
    assert hub.cached_sha256(file) == hashlib.sha256(b"one").hexdigest()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file.write_bytes(b"two!")
    assert hub.cached_sha256(file) == hashlib.sha256(b"two!").hexdigest()


def test_a_file_of_the_same_size_and_time_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "w.bin"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
        # Long enough that it is remembered, if by times that can be set back.
        time.sleep(0.05)
        assert hub.cached_sha256(file) == hashlib.sha256(content).hexdigest()
    assert [*(tmp_path / "cache").rglob("*.json")]


def test_what_is_written_at_once_is_never_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "w.bin"
    for content in (b"%03d" % i for i in range(50)):
        file.write_bytes(content)
        assert hub.cached_sha256(file) == hashlib.sha256(content).hexdigest()
