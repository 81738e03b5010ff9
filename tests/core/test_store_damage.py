"""Whatever is done to an artefact or to what lies beside it: noticed, and made again."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from bench.lib import checksums
from bench.lib.errors import BenchError, DamagedArtefactError
from bench.store.store import Artefact, Cost, Store

COST = Cost(seconds=1.5, nfe=3, peak_memory_mb=123.4, processes=2)
INFO = {"steps": 8, "pairs_kept": 7, "share": 0.25, "note": "größer", "nested": {"a": [1, None]}}
MADE_WITH = {"device": "cpu", "torch": "2.8.0"}


def make(store: Store, key: str = "k", text: str = "hello") -> Artefact:
    partial = store.begin("train", key)
    (partial.out / "sub").mkdir(exist_ok=True)
    (partial.out / "sub" / "a.txt").write_text(text)
    (partial.out / "b.bin").write_bytes(bytes(range(256)))
    return store.commit("train", key, partial, COST, INFO, MADE_WITH)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _repaired(store: Store) -> None:
    """What a run does with damage, and that it helps."""
    store.discard("train", "k")
    assert store.find("train", "k") is None
    make(store)
    found = store.find("train", "k")
    assert found is not None
    assert found.manifest.cost == COST
    assert (found.path / "sub" / "a.txt").read_text() == "hello"


def _reads_as(store: Store, damaged: bytes) -> object:
    """The manifest of these bytes; None where they are reported as damaged."""
    file = store.path("train", "k") / "artefact.json"
    file.write_bytes(damaged)
    try:
        found = store.find("train", "k")
    except DamagedArtefactError as error:
        said = str(error)
    else:
        assert found is not None
        return found.manifest
    assert str(file) in said
    assert "\n" not in said
    return None


def test_two_thousand_flipped_bits_of_a_manifest_are_noticed(store: Store) -> None:
    whole = (make(store).path / "artefact.json").read_bytes()
    rng = random.Random(0)
    for bit in rng.sample(range(8 * len(whole)), 2000):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert _reads_as(store, bytes(damaged)) is None, bit
    assert _reads_as(store, whole) is not None


def test_any_other_change_of_a_manifest_is_noticed(store: Store) -> None:
    whole = (make(store).path / "artefact.json").read_bytes()
    rng = random.Random(1)
    changed = [whole[:length] for length in range(len(whole))]
    changed += [rng.randbytes(rng.randrange(200)) for _ in range(200)]
    changed += [whole + b"x", whole + b"\n", b" " + whole, whole.replace(b"\n", b"\r\n")]
    changed += [whole + whole, whole.decode().encode("utf-16"), b"\xef\xbb\xbf" + whole]
    changed += [b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"{}", b"1" * 5000, b'"x"']
    text = whole.decode()
    # The same data in other bytes, and a key twice: whichever of both a parser takes.
    changed.append(json.dumps(json.loads(text)).encode())
    changed.append(text.replace('"nfe": 3', '"nfe": 9, "nfe": 3').encode())
    changed.append(text.replace('"nfe": 3', '"nfe": 3, "nfe": 9').encode())
    for damaged in changed:
        assert _reads_as(store, damaged) is None, damaged[:80]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cost", {"seconds": float("nan"), "nfe": 0, "peak_memory_mb": 0.0, "processes": 1}),
        ("cost", {"seconds": -1.0, "nfe": 0, "peak_memory_mb": 0.0, "processes": 1}),
        ("cost", {"seconds": "1", "nfe": 0, "peak_memory_mb": 0.0, "processes": 1}),
        ("cost", {"seconds": True, "nfe": 0, "peak_memory_mb": 0.0, "processes": 1}),
        ("cost", {"seconds": 1.0, "nfe": 0.5, "peak_memory_mb": 0.0, "processes": 1}),
        ("cost", {"seconds": 1.0, "gold": 3}),
        ("cost", [1]),
        ("files", []),
        ("files", {"b.bin": {"size": -1, "sha256": ""}}),
        ("files", {"b.bin": {"size": 1.5, "sha256": ""}}),
        ("files", {"b.bin": {"size": 256, "sha256": None}}),
        ("files", {"b.bin": None}),
        ("info", None),
        ("made_with", 3),
        ("key", "other"),
        ("stage", "sample"),
        ("more", 1),
        ("info", ...),
        ("cost", ...),
    ],
)
def test_a_manifest_of_another_shape_is_damage_though_its_checksum_is_right(
    store: Store, name: str, value: object
) -> None:
    """As another version of bench, or the manifest of another artefact, would leave it."""
    file = make(store).path / "artefact.json"
    data = checksums.read(file)
    if value is ...:
        del data[name]
    else:
        data[name] = value
    assert _reads_as(store, checksums.seal(data)) is None
    _repaired(store)


def _replace(path: Path, how: str) -> None:
    """Put something else in the place of a file, folder or link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    match how:
        case "folder":
            (path / "inside").mkdir(parents=True)
        case "pipe":
            os.mkfifo(path)
        case "broken link":
            path.symlink_to("nowhere")
        case "link to itself":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "file":
            path.write_text("a file")
        case "empty":
            path.write_text("")


@pytest.mark.parametrize("how", ["folder", "pipe", "broken link", "link to itself", "endless"])
@pytest.mark.parametrize("name", ["artefact.json", "b.bin", "sub/a.txt", "sub"])
def test_a_file_in_whose_place_is_something_else(store: Store, name: str, how: str) -> None:
    _replace(make(store).path / name, how)
    with pytest.raises(DamagedArtefactError) as error:
        store.find("train", "k")
    assert "\n" not in str(error.value)
    _repaired(store)


@pytest.mark.parametrize(
    "how", ["file", "empty", "pipe", "broken link", "link to itself", "folder"]
)
def test_an_artefact_that_is_no_artefact(store: Store, how: str) -> None:
    _replace(make(store).path, how)
    with pytest.raises(DamagedArtefactError):
        store.find("train", "k")
    _repaired(store)


def test_a_linked_artefact_is_as_good_and_its_target_is_never_deleted(
    store: Store, tmp_path: Path
) -> None:
    artefact = make(store)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(artefact.path, elsewhere)
    artefact.path.symlink_to(elsewhere)
    assert store.find("train", "k") is not None
    (elsewhere / "b.bin").write_bytes(b"")
    with pytest.raises(DamagedArtefactError):
        store.find("train", "k")
    _repaired(store)
    assert (elsewhere / "sub" / "a.txt").exists()


def test_the_artefact_of_another_key_is_not_taken_for_this_one(store: Store) -> None:
    artefact = make(store)
    shutil.copytree(artefact.path, artefact.path.with_name("other"))
    with pytest.raises(DamagedArtefactError, match="belongs to train/k"):
        store.find("train", "other")


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"nan",
        b"-5",
        b"1e999",
        b"[1]",
        b"{}",
        checksums.seal({"seconds": float("nan"), "files": [1]}),
        checksums.seal({"seconds": -3.0, "files": {"b.bin": None, "sub/a.txt": "x"}}),
        checksums.seal({"seconds": [], "files": {"b.bin": [1, 2, 3]}}),
        checksums.seal({"seconds": 1e999, "files": 5}),
    ],
)
def test_junk_in_the_notes_is_as_good_as_none(store: Store, junk: bytes) -> None:
    make(store)
    (store.root / "verified" / "k.json").write_bytes(junk)
    assert store.find("train", "k") is not None
    partial = store.begin("train", "other")
    (partial.folder / "seconds").write_bytes(junk)
    assert partial.earlier_seconds() == 0.0


@pytest.mark.parametrize("how", ["folder", "pipe", "broken link", "link to itself", "endless"])
def test_notes_and_locks_in_whose_place_is_something_else(store: Store, how: str) -> None:
    make(store)
    _replace(store.root / "verified" / "k.json", how)
    assert store.find("train", "k") is not None
    partial = store.begin("train", "other")
    _replace(partial.folder / "seconds", how)
    assert partial.earlier_seconds() == 0.0
    for name in ("out", "work"):
        _replace(partial.folder / name, "file" if how == "folder" else how)
    store.begin("train", "other")
    assert not list(partial.out.iterdir())
    _replace(partial.folder, "file" if how == "folder" else how)
    make(store, "other")


def test_seconds_that_changed_on_disk_are_not_counted(store: Store) -> None:
    partial = store.begin("train", "k")
    partial.note_seconds(12.3456)
    assert partial.earlier_seconds() == 12.346
    note = partial.folder / "seconds"
    note.write_bytes(note.read_bytes().replace(b"12.3", b"92.3"))
    assert partial.earlier_seconds() == 0.0


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of one's own, where permissions count even if root runs the tests."""
    folder = Path(tempfile.mkdtemp())
    try:
        with _permissions_count() if os.geteuid() == 0 else nullcontext():
            yield folder
    finally:
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


@contextmanager
def _permissions_count() -> Iterator[None]:
    """Root without the capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capabilities(7)).

    Another user could not read what root has installed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] = before & ~0b110
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


@pytest.mark.parametrize("name", ["artefact.json", "b.bin", "sub"])
def test_a_file_that_may_not_be_read_is_made_again(name: str) -> None:
    with unprivileged() as folder:
        store = Store(folder / "store")
        (make(store).path / name).chmod(0)
        with pytest.raises(DamagedArtefactError, match="cannot be read: Permission denied"):
            store.find("train", "k")
        _repaired(store)
        store.sweep([])
        assert not list((store.root / "discarded").iterdir())


def test_what_cannot_be_removed_is_one_sentence() -> None:
    with unprivileged() as folder:
        store = Store(folder / "store")
        path = make(store).path
        (path / "b.bin").write_bytes(b"")
        path.parent.chmod(0o500)
        with pytest.raises(BenchError, match=r"k is damaged and cannot be removed \(Permission"):
            store.discard("train", "k")
        path.parent.chmod(0o700)
        _repaired(store)


def test_too_many_open_files_damage_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    make(store)
    (store.root / "verified" / "k.json").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            store.find("train", "k")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.find("train", "k") is not None


def test_files_that_the_manifest_does_not_name_change_nothing(store: Store) -> None:
    artefact = make(store)
    (artefact.path / ".nfs0001").write_text("left by a file server")
    (artefact.path / "sub" / "more").symlink_to("nowhere")
    found = store.find("train", "k")
    assert found is not None
    assert [p.name for p in found.foreign()] == [".nfs0001", "more"]


class _KilledError(BaseException):
    """What SIGKILL looks like from inside."""


def _system_calls() -> list[str]:
    return ["open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "scandir", "stat"]


@pytest.mark.parametrize("replacing", [False, True])
def test_killed_before_any_step_of_a_commit_the_next_run_ends_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    """Before the first, the second, ... system call that commit makes, until it makes no more."""
    at, ended = 0, False
    while not ended:
        at += 1
        store = Store(tmp_path / str(at))
        if replacing:
            make(store, text="older")
        with monkeypatch.context() as patched:
            ended = not _killed(lambda s=store: make(s), at, patched)  # type: ignore[misc]
        found = store.find("train", "k")
        if not ended and (found is None or replacing):
            make(store)
        found = store.find("train", "k")
        assert found is not None
        assert (found.path / "sub" / "a.txt").read_text() == "hello"
        store.sweep(["k"])
        assert not list((store.root / "partial").iterdir())
        assert not list(store.root.glob("discarded/*"))
    assert at > 20


def _killed(act: Callable[[], object], at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do it, but die before system call number `at`; whether there was one."""
    left = [at]

    def guarded(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] <= 0:
                raise _KilledError
            return real(*arguments, **options)

        return call

    for name in _system_calls():
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    try:
        act()
    except _KilledError:
        return True
    return False


@pytest.mark.parametrize("replacing", [False, True])
def test_a_commit_that_fails_leaves_what_was_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    """A disk that is full, or broken, as the bytes are written out or get their name."""
    if replacing:
        make(store, text="older")
    real = os.rename
    for name, number in (("fsync", 28), ("fsync", 5), ("rename", 28)):
        partial = store.begin("train", "k")
        (partial.work / "state").write_text("half")

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        def rename(source: Path, target: Path, number: int = number) -> None:
            if source == store.partial("k").out:
                raise OSError(number, os.strerror(number))
            real(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, name, rename if name == "rename" else fail)
            with pytest.raises(OSError, match=os.strerror(number)):
                store.commit("train", "k", partial, COST, INFO)
        found = store.find("train", "k")
        assert (found is not None) == replacing
        assert (partial.work / "state").read_text() == "half"
    make(store)
    found = store.find("train", "k")
    assert found is not None
    assert (found.path / "sub" / "a.txt").read_text() == "hello"


def test_another_run_at_the_same_key_keeps_its_folder_while_one_sweeps(store: Store) -> None:
    make(store)
    with Store(store.root).lock("k"):
        partial = store.begin("train", "k")
        Store(store.root).sweep(["k"])
        assert partial.out.exists()
    store.sweep(["k"])
    assert not partial.folder.exists()


def test_a_lock_whose_file_was_deleted_is_not_held_twice(store: Store) -> None:
    """Whoever waited for the old file takes the new one."""
    with store.lock("k"):
        (store.root / "locks" / "k.lock").unlink()
    with store.lock("k"):
        assert Store(store.root)._try_lock("k") is None


@pytest.mark.parametrize("how", ["pipe", "file", "empty"])
def test_a_lock_needs_no_file_of_ours(store: Store, how: str) -> None:
    (store.root / "locks").mkdir(parents=True)
    _replace(store.root / "locks" / "k.lock", how)
    with store.lock("k"):
        assert Store(store.root)._try_lock("k") is None


def test_another_current_folder_changes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    make(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.find("train", "k") is not None


@pytest.mark.parametrize("name", ["with space", "with\nnewline", "größer 库", "x" * 200, "-", "'"])
def test_a_store_of_any_name(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / name)
    with store.lock("k"):
        make(store)
    assert store.find("train", "k") is not None
