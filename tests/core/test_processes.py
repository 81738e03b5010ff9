"""Real processes on one store: killed with SIGKILL, and two at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.lib.progress import Progress
from bench.running import planning
from bench.running.plan import Plan
from bench.running.walk import Walk, status
from bench.store.store import Store
from tests import toy

STAGES = ("inspect", "encode", "rewards", "train", "sample", "score")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe = toy.recipe(tmp_path_factory.mktemp("toy"), training={"steps": 8})
    return planning.make(recipe, toy.registry())


@pytest.fixture(scope="module")
def uninterrupted(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("uninterrupted") / "store")
    assert _wait(_start(plan, store)) == 0
    return store


def _start(plan: Plan, store: Store) -> int:
    """Run the plan in a forked process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        import torch

        # The parent's thread pool does not live on in a fork.
        torch.set_num_threads(1)
        progress = Progress(Console(quiet=True))
        outcome = Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)
        code = 1 if outcome.failures else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _kill_when(pid: int, begun: Callable[[], bool], delay: float) -> bool:
    """SIGKILL the process `delay` seconds after `begun`; False if it had ended by then."""
    while not begun():
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    time.sleep(delay)
    if os.waitpid(pid, os.WNOHANG)[0]:
        return False
    os.kill(pid, signal.SIGKILL)
    return _wait(pid) == -signal.SIGKILL


@pytest.mark.parametrize("each", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    plan: Plan, uninterrupted: Store, tmp_path: Path, each: int
) -> None:
    """Kills at random moments, one or two in each stage, in as many lives as it takes."""
    rng, store = random.Random(0), Store(tmp_path / "store")
    seconds = {
        stage: max(
            json.loads(path.read_text())["cost"]["seconds"]
            for path in uninterrupted.root.glob(f"artefacts/{stage}/*/artefact.json")
        )
        for stage in STAGES
    }
    for stage in STAGES:
        folders = [store.root / "partial" / s.key for s in plan.stages if s.name == stage]
        kills = 0
        while kills < each:
            pid = _start(plan, store)
            delay = rng.uniform(0, 0.9 * seconds[stage])
            kills += _kill_when(pid, lambda paths=folders: any(p.exists() for p in paths), delay)
            if all(store.find(s.name, s.key) for s in plan.stages):
                shutil.rmtree(store.root)
    assert _wait(_start(plan, store)) == 0
    assert toy.artefacts(store) == toy.artefacts(uninterrupted)
    assert not list((store.root / "partial").iterdir())


def test_two_runs_at_once_both_end_right(plan: Plan, uninterrupted: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    runs = [_start(plan, store) for _ in range(2)]
    assert [_wait(pid) for pid in runs] == [0, 0]
    assert toy.artefacts(store) == toy.artefacts(uninterrupted)
