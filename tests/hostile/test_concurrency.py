"""Several commands on one folder at the same time."""

from __future__ import annotations

import itertools
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile.harness import (
    OUT,
    RUN,
    STORE,
    Case,
    Ended,
    Running,
    World,
    in_this_process,
    judge_words,
    results,
    sample,
    scores_on,
    snapshot,
)

ANEW = f"{RUN} --store fresh/store"


@dataclass(frozen=True, kw_only=True)
class Together:
    """Commands that are started at once, in one copy of the world."""

    id: str
    commands: tuple[str, ...]
    prepare: Callable[[Path], object] | None = None
    killed: tuple[int, ...] = ()
    """Which of them are ended from outside."""
    all_end_well: bool = True
    same_board: tuple[str, ...] = ()
    """Boards that must hold the same scores."""

    def __str__(self) -> str:
        return self.id


def damage(here: Path) -> None:
    path = next((here / STORE / "artefacts" / "train").rglob("*.safetensors"))
    path.write_bytes(b"junk")


def no_store(here: Path) -> None:
    shutil.rmtree(here / STORE)


def no_board(here: Path) -> None:
    shutil.rmtree(here / OUT)


CASES = [
    Together(id="two-cached-one-board", commands=(RUN,) * 2),
    Together(id="four-cached-one-board", commands=(RUN,) * 4),
    Together(id="two-cached-two-boards", commands=(RUN, f"{RUN} --out second")),
    Together(id="two-cached-no-board", commands=(RUN,) * 2, prepare=no_board),
    Together(
        id="two-new-one-store-two-boards",
        commands=(f"{ANEW} --out fresh/a", f"{ANEW} --out fresh/b"),
        same_board=("fresh/a", "fresh/b"),
    ),
    Together(
        id="two-new-one-store-one-board",
        commands=(f"{ANEW} --out fresh/a",) * 2,
        same_board=("fresh/a",),
    ),
    Together(
        id="three-new-one-store",
        commands=(f"{ANEW} --out fresh/a", f"{ANEW} --out fresh/b", f"{ANEW} --out fresh/c"),
        same_board=("fresh/a", "fresh/b", "fresh/c"),
    ),
    Together(id="no-store-two-runs", commands=(RUN,) * 2, prepare=no_store),
    Together(
        id="two-methods-one-board",
        commands=(f"{RUN} --methods sft", f"{RUN} --methods 'dpo[beta=7]'"),
    ),
    Together(id="method-beside-plain", commands=(RUN, f"{RUN} --methods sft")),
    Together(id="two-seeds-one-board", commands=(f"{RUN} --seeds 1", f"{RUN} --seeds 2")),
    Together(id="repair-by-two", commands=(RUN,) * 2, prepare=damage),
    Together(id="repair-by-three", commands=(RUN,) * 3, prepare=damage),
    Together(id="repair-beside-dry-run", commands=(RUN, f"{RUN} --dry-run"), prepare=damage),
    Together(id="dry-runs", commands=(f"{RUN} --dry-run",) * 4),
    Together(id="run-beside-build", commands=(RUN, f"leaderboard build {OUT}"), all_end_well=False),
    Together(id="run-beside-check", commands=(RUN, f"leaderboard check {OUT}"), all_end_well=False),
    Together(id="builds", commands=(f"leaderboard build {OUT}",) * 3, all_end_well=False),
    Together(
        id="one-of-two-killed",
        commands=(f"{ANEW} --out fresh/a", f"{ANEW} --out fresh/b"),
        killed=(0,),
        same_board=("fresh/b",),
    ),
    Together(
        id="two-of-three-killed",
        commands=(f"{ANEW} --out fresh/a", f"{ANEW} --out fresh/b", f"{ANEW} --out fresh/c"),
        killed=(0, 2),
        same_board=("fresh/b",),
    ),
    Together(id="one-of-two-cached-killed", commands=(RUN,) * 2, killed=(1,)),
    Together(
        id="data-checks",
        commands=tuple(f"data check ./pairs.parquet --out look{i}.png" for i in range(3)),
    ),
    Together(
        id="data-checks-one-picture",
        commands=("data check ./pairs.parquet --out look.png",) * 3,
    ),
    Together(
        id="converts-one-file",
        commands=("data convert ./pairs.parquet new.parquet",) * 2,
        all_end_well=False,
    ),
    Together(
        id="scores-one-table",
        commands=("score images --prompts ./prompts.tsv --scorers channel --out s.csv",) * 3,
        prepare=lambda here: shutil.copytree(
            sorted((here / STORE / "artefacts" / "sample").iterdir())[0] / "images",
            here / "images",
        ),
    ),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_together(case: Together, world: World, tmp_path: Path) -> None:
    here = world.copy(tmp_path / "here")
    if case.prepare:
        case.prepare(here)
    mine = {name: held for name, held in snapshot(here).items() if "bench-runs" not in name}

    running = [
        Running(shlex.split(command), here, tmp_path / f"log{number}")
        for number, command in enumerate(case.commands)
    ]
    for number in case.killed:
        running[number].until(lambda: (here / "fresh/store/artefacts/inspect").exists())
        running[number].signal(signal.SIGKILL)
    ended: list[Ended] = [each.wait() for each in running]

    for number, each in enumerate(ended):
        if number in case.killed:
            continue
        ends = "well" if case.all_end_well else "either"
        judge_words(Case(id=case.id, command=case.commands[number], ends=ends), each)  # type: ignore[arg-type]
    after = snapshot(here)
    assert {name: after.get(name) for name in mine} == mine
    boards = [scores_on(here / board) for board in case.same_board]
    for one, other in itertools.pairwise(boards):
        assert one == other

    plain = in_this_process(shlex.split(RUN), here)
    assert plain.code == 0, plain.err
    found = results(here)
    assert {name: found.get(name) for name in world.results} == world.results
    assert world.scores <= scores_on(here / OUT)
    shutil.rmtree(here)
