"""Commands that are ended from outside, and what the same command makes of it."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.harness import OUT, RUN, Act, Case, Running, World, judge, sample

STAGES = ("inspect", "encode", "train", "sample", "score")
SIGNALS = {
    "int": signal.SIGINT,
    "term": signal.SIGTERM,
    "kill": signal.SIGKILL,
    "hup": signal.SIGHUP,
}
ANEW = f"{RUN} --store fresh/store --out fresh/board"
"""The plain command with everything to do."""


def when(there: Callable[[Path], bool], number: int, delay: float = 0.0) -> Act:
    """A signal once something is there."""

    def act(running: Running) -> None:
        if running.until(lambda: there(running.folder)):
            time.sleep(delay)
            running.signal(number)

    return act


def begun(stage: str) -> Callable[[Path], bool]:
    """The stage before is done, so this one runs."""
    before = {
        "inspect": "partial",
        "encode": "artefacts/inspect",
        "train": "artefacts/encode",
        "sample": "artefacts/train",
        "score": "artefacts/sample",
    }
    return lambda here: (here / "fresh" / "store" / before[stage]).exists()


def at_once(_: Path) -> bool:
    return True


def twice(number: int) -> Act:
    """An impatient user."""

    def act(running: Running) -> None:
        running.until(lambda: begun("train")(running.folder))
        for _ in range(3):
            running.signal(number)
            time.sleep(0.01)

    return act


def paused(running: Running) -> None:
    """Ctrl-Z and back."""
    running.until(lambda: begun("train")(running.folder))
    running.signal(signal.SIGSTOP)
    time.sleep(0.2)
    running.signal(signal.SIGCONT)


def store_taken_away(running: Running) -> None:
    """Somebody clears the disk while a run goes on."""
    running.until(lambda: begun("train")(running.folder))
    shutil.rmtree(running.folder / "fresh" / "store", ignore_errors=True)


def pairs_taken_away(running: Running) -> None:
    running.until(lambda: begun("inspect")(running.folder))
    (running.folder / "pairs.parquet").unlink()


def goes_on(here: Path) -> None:
    """What was finished before a kill is not done again, and nothing half done is left."""
    fresh = here / "fresh" / "store"
    if not fresh.exists():
        return
    for path in fresh.rglob("artefacts/*/*"):
        assert (path / "artefact.json").is_file(), f"half an artefact: {path}"


CASES = [
    *(
        Case(
            id=f"{stage}-{name}",
            command=ANEW,
            where="fork",
            act=when(begun(stage), number),
            own=("fresh/",),
            check=goes_on,
        )
        for stage in STAGES
        for name, number in SIGNALS.items()
    ),
    *(
        Case(
            id=f"while-cached-{name}-{delay}",
            where="fork",
            act=when(at_once, number, delay / 1000),
            own=(f"{OUT}/",),
        )
        for name, number in SIGNALS.items()
        for delay in (20, 120)
    ),
    *(
        Case(
            id=f"dry-run-{name}",
            command=f"{RUN} --dry-run",
            where="fork",
            act=when(at_once, number, 0.03),
        )
        for name, number in SIGNALS.items()
    ),
    *(
        Case(
            id=f"board-{name}",
            command=f"leaderboard build {OUT}",
            where="fork",
            act=when(at_once, number, 0.05),
            own=(f"{OUT}/",),
        )
        for name, number in SIGNALS.items()
    ),
    Case(
        id="interrupted-thrice",
        command=ANEW,
        where="fork",
        act=twice(signal.SIGINT),
        own=("fresh/",),
    ),
    Case(
        id="terminated-thrice",
        command=ANEW,
        where="fork",
        act=twice(signal.SIGTERM),
        own=("fresh/",),
    ),
    Case(id="paused", command=ANEW, where="fork", act=paused, ends="well"),
    Case(
        id="pairs-taken-away",
        command=ANEW,
        where="fork",
        act=pairs_taken_away,
        files={"pairs.parquet": lambda path: None},
        own=("fresh/", "pairs.parquet"),
    ),
    Case(
        id="store-taken-away",
        command=ANEW,
        where="fork",
        act=store_taken_away,
        own=("fresh/",),
        may_name_exceptions=True,
    ),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_kill(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(text[1]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNALS)
def test_no_worker_outlives_its_launcher(name: str, world: World, tmp_path: Path) -> None:
    workers: list[int] = []

    def act(running: Running) -> None:
        running.until(lambda: begun("encode")(running.folder))
        workers.extend(_children(running.pid))
        running.signal(SIGNALS[name])

    judge(
        Case(
            id=name,
            command=f"{ANEW} --num-processes 2",
            where="process",
            act=act,
            own=("fresh/",),
        ),
        world,
        tmp_path,
    )
    assert len(workers) == 2
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "a worker outlives its launcher"
        time.sleep(0.05)
