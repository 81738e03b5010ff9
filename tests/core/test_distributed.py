"""Processes that meet through gloo."""

from __future__ import annotations

import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from bench.lib.distributed import ALONE, World
from bench.running.launch import meeting_point
from tests.training.conftest import exit_code, forked


def _run(script: str, folder: Path) -> list[str]:
    """Standard output of the script in each of two processes."""

    def share() -> None:
        world = World.from_environment()
        world.connect("cpu")
        with (folder / str(world.rank)).open("w") as printed, redirect_stdout(printed):
            exec(textwrap.dedent(script), {"world": world})
        world.close()

    shared = meeting_point(2)
    running = [forked(share, RANK=str(rank), **shared) for rank in range(2)]
    assert [exit_code(pid) for pid in running] == [0, 0]
    return [(folder / str(rank)).read_text() for rank in range(2)]


def test_alone_nothing_needs_a_group() -> None:
    assert World.from_environment() == ALONE
    assert ALONE.shard([1, 2, 3]) == [1, 2, 3]
    assert ALONE.gather("x") == ["x"]
    assert ALONE.broadcast("x") == "x"
    with pytest.raises(ZeroDivisionError), ALONE.all_or_none():
        raise ZeroDivisionError


def test_the_shares_of_all_processes_are_the_whole() -> None:
    items = list(range(7))
    parts = [World(rank=rank, size=3).shard(items) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == items


def test_processes_exchange_and_fail_together(tmp_path: Path) -> None:
    outputs = _run(
        """
        import torch
        from bench.lib.errors import BenchError
        total = torch.tensor([1.0, 10.0]) * (world.rank + 1)
        world.sum_([total])
        print(total.tolist(), world.gather(world.rank), world.broadcast(f"from {world.rank}"))
        for failing in (0, 1):
            try:
                with world.all_or_none():
                    if world.rank == failing:
                        raise BenchError("no score for image 3")
                print("went on")
            except BenchError as error:
                print(error)
        try:
            with world.all_or_none():
                if world.rank == 1:
                    raise ValueError("unforeseen")
        except (BenchError, ValueError) as error:
            print(type(error).__name__, error)
        """,
        tmp_path,
    )
    first, second = (output.splitlines() for output in outputs)
    assert first[0] == second[0] == "[3.0, 30.0] [0, 1] from 0"
    assert first[1:3] == ["no score for image 3", "no score for image 3 (in process 1 of 2)"]
    assert second[1:3] == ["no score for image 3 (in process 0 of 2)", "no score for image 3"]
    assert first[3] == "BenchError ValueError: unforeseen (in process 1 of 2)"
    assert second[3] == "ValueError unforeseen"


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_who_has_left_keeps_no_threads(tmp_path: Path) -> None:
    """A thread that outlives the interpreter now and then aborts the process."""
    outputs = _run(
        """
        import torch._dynamo
        world.barrier()
        world.close()
        from pathlib import Path
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        print([name for name in names if "gloo" in name])
        """,
        tmp_path,
    )
    assert [output.strip() for output in outputs] == ["[]", "[]"]
