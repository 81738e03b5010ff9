"""Images, a toy run with its store, and the command line in this process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bench.lib.progress import Progress
from bench.outputs import writing
from bench.running import planning
from bench.running.walk import Walk, status
from bench.store.store import Store
from tests import toy
from tests.commands import Bench, in_folder


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Runs a command in an empty folder with the toy plugins."""
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    return in_folder(tmp_path, monkeypatch, capsys)


def write_images(folder: Path, reds: Sequence[int], number: int | None = None) -> Path:
    """Image i has this red and nothing else, so that the toy scorer gives just that."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, red in enumerate(reds):
        name = f"{i:05d}.png" if number is None else f"{i:05d}_{number}.png"
        Image.new("RGB", (4, 4), (red, 0, 0)).save(folder / name)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Folders a and b of 60 images; b wins over a in 45, loses in 10 and ties in 5."""
    a = np.full(60, 100)
    b = a + np.array([7] * 45 + [-7] * 10 + [0] * 5)
    write_images(tmp_path / "a", a.tolist())
    write_images(tmp_path / "b", b.tolist())
    toy.write_prompts(tmp_path / "prompts.tsv", 60)
    return tmp_path


@pytest.fixture(scope="session")
def _toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = toy.recipe(folder, methods=["sft"], seeds=[0, 1], training={"steps": 1})
    plan = planning.make(recipe, toy.registry())
    store = Store(folder / "bench-runs" / "store")
    progress = Progress(Console(quiet=True))
    outcome = Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)
    assert not outcome.failures
    writing.write(plan, store, folder / "bench-runs" / "toy", outcome)
    (folder / "toy.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.fixture
def toy_run(_toy_run: Path, tmp_path: Path) -> Path:
    """A run of `sft` over two train seeds, in bench-runs/toy of the current folder."""
    shutil.copytree(_toy_run, tmp_path, dirs_exist_ok=True)
    return tmp_path
