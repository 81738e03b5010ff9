"""The list of outputs at the end of a run names only what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.cli import run
from bench.cli.frame import Frame
from bench.lib.distributed import ALONE
from bench.running import planning
from tests import toy


@pytest.mark.parametrize("methods", [["base"], ["base", "dpo"]])
def test_checkpoints_are_announced_where_there_are_some(
    tmp_path: Path, methods: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    recipe = toy.recipe(world, methods=methods, training={"steps": 1})
    plan, store = planning.make(recipe, toy.registry()), tmp_path / "store"
    out = tmp_path / "out"
    frame = Frame(folder=store, asked_device="cpu", world=ALONE)
    frame.console = Console(width=200)
    outcome = frame.make(plan.stages, frame.status(plan.stages))
    assert not outcome.failures
    run._write(frame, plan, out, outcome)
    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    announced = {line[0] for line in said if len(line) == 2 and str(out) in line[1]}
    assert "recipe" in announced
    assert ("checkpoints" in announced) == (out / "checkpoints").is_dir() == ("dpo" in methods)
