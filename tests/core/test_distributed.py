"""Real processes that meet through gloo."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bench.lib.distributed import ALONE, World
from bench.run.launch import meeting_point

ROOT = Path(__file__).parents[2]


def _run(script: str, processes: int = 2) -> list[str]:
    """Standard output of the script in each process."""
    shared = {
        **meeting_point(processes),
        "OMP_NUM_THREADS": "1",
        "PATH": "",
    }
    code = "from bench.lib.distributed import World\nworld = World.from_environment()\n"
    code += "world.connect('cpu')\n" + textwrap.dedent(script) + "\nworld.close()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**shared, "RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in running]
        assert [process.returncode for process in running] == [0] * processes
    finally:
        for process in running:
            process.kill()
    return outputs


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


def test_processes_exchange_and_fail_together() -> None:
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
        """
    )
    first, second = (output.splitlines() for output in outputs)
    assert first[0] == second[0] == "[3.0, 30.0] [0, 1] from 0"
    assert first[1:3] == ["no score for image 3", "no score for image 3 (in process 1 of 2)"]
    assert second[1:3] == ["no score for image 3 (in process 0 of 2)", "no score for image 3"]
    assert first[3] == "BenchError ValueError: unforeseen (in process 1 of 2)"
    assert second[3] == "ValueError unforeseen"


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_who_has_left_keeps_no_threads() -> None:
    """A thread that outlives the interpreter now and then aborts the process."""
    outputs = _run(
        """
        import torch._dynamo
        world.barrier()
        world.close()
        from pathlib import Path
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        print([name for name in names if "gloo" in name])
        """
    )
    assert [output.strip() for output in outputs] == ["[]", "[]"]
