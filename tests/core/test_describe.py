"""The stage that describes images: its bytes, resumption, processes, and what results hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bench.leaderboard.results import CellResult
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.running import planning
from bench.running.estimates import estimate
from bench.running.plan import Plan
from bench.running.walk import RunOutcome, Walk, status
from bench.scoring import image_facts
from bench.stages import describe
from bench.stages.describe import DescribeStage, read_diversity, read_facts
from bench.store.store import Store
from tests import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


def _plan(folder: Path, **changes: Any) -> Plan:
    changes = {"methods": ["sft"], "sampling": {"image_seeds": [3, 0]}, **changes}
    return planning.make(toy.recipe(folder, **changes), toy.registry())


def _run(plan: Plan, store: Store) -> RunOutcome:
    progress = Progress(Console(quiet=True))
    return Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    store = Store(folder / "store")
    assert not _run(_plan(folder), store).failures
    return store


def _descriptions(plan: Plan) -> list[DescribeStage]:
    return [stage for stage in plan.stages if isinstance(stage, DescribeStage)]


def test_it_says_of_each_image_what_the_image_shows(folder: Path, store: Store) -> None:
    plan = _plan(folder)
    assert len(_descriptions(plan)) == len(plan.cells) == 2
    for stage in _descriptions(plan):
        assert [sample.image_seed for sample in stage.samples] == [0, 3]
        left = store.path(stage.name, stage.key)
        facts, diversity = read_facts(left), read_diversity(left)
        prompts = len(plan.prompts[0].texts)
        assert len(diversity) == prompts
        for row in range(prompts):
            files = [
                store.path("sample", sample.key) / "images" / f"{row:05d}.png"
                for sample in stage.samples
            ]
            images = [Image.open(file).convert("RGB") for file in files]
            for i, image in enumerate(images):
                mine = [facts[fact][2 * row + i] for fact in image_facts.FACTS]
                assert mine == image_facts.facts(image).tolist()
            assert diversity[row] == image_facts.diversity(images) > 0


def test_with_one_image_seed_there_is_no_diversity(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    store = Store(shutil.copytree(store.root, tmp_path / "store"))
    plan = _plan(folder, methods=["base"], sampling={"image_seeds": [0]})
    _run(plan, store)
    (stage,) = _descriptions(plan)
    assert read_diversity(store.path(stage.name, stage.key)).shape == (0,)
    assert len(read_facts(store.path(stage.name, stage.key))["contrast"]) == stage.units


def test_the_order_of_image_seeds_and_the_speed_of_sampling_are_in_no_key(folder: Path) -> None:
    (base, _) = _descriptions(_plan(folder))
    other = _plan(folder, sampling={"image_seeds": [0, 3], "batch_size": 2})
    assert base.key == _descriptions(other)[0].key
    other = _plan(folder, sampling={"image_seeds": [0, 3], "steps": 3})
    assert base.key != _descriptions(other)[0].key


def test_an_interrupted_description_goes_on_where_it_was(
    folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe, "CHUNK", 2)
    again = Store(shutil.copytree(store.root, tmp_path / "store"))
    shutil.rmtree(again.root / "artefacts" / "describe")
    plan = _plan(folder)
    asked: list[object] = []
    real = image_facts.facts

    class Killed(BaseException):
        pass

    def facts(image: Image.Image) -> np.ndarray:
        asked.append(image)
        if len(asked) == 6:
            raise Killed
        return real(image)

    monkeypatch.setattr(image_facts, "facts", facts)
    with pytest.raises(Killed):
        _run(plan, again)
    assert not _run(plan, again).failures
    assert toy.artefacts(again) == toy.artefacts(store)
    # Two prompts of two images were kept; one image was looked at in vain, and a sixth killed it.
    images = sum(stage.units for stage in _descriptions(plan))
    assert len(asked) == images + 2


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_chunks_and_leave_the_same_bytes(
    folder: Path, store: Store, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process in turn does its own chunks; the main one, which writes, comes last."""
    from dataclasses import dataclass

    from bench.lib.distributed import World
    from bench.stages.context import Context
    from bench.store.store import Partial

    monkeypatch.setattr(describe, "CHUNK", 2)

    @dataclass(frozen=True, kw_only=True)
    class Share(World):
        def gather(self, value: Any) -> list[Any]:
            return [value]

    class Task:
        done = 0

        def advance(self, amount: int, note: str = "") -> None:
            self.done += amount

    for stage in _descriptions(_plan(folder)):
        partial = Partial(tmp_path / stage.key)
        for made in (partial.out, partial.work):
            made.mkdir(parents=True)
        for rank in reversed(range(size)):
            task, world = Task(), Share(rank=rank, size=size)
            context = Context(store, "cpu", world)
            if rank:
                with pytest.MonkeyPatch.context() as only:
                    only.setattr(DescribeStage, "_write", None)
                    stage.run(context, partial, task)  # type: ignore[arg-type]
            else:
                stage.run(context, partial, task)  # type: ignore[arg-type]
                assert task.done == stage.units
        left = store.path(stage.name, stage.key)
        for file in (describe.FACTS, describe.DIVERSITY):
            assert (partial.out / file).read_bytes() == (left / file).read_bytes()


def test_results_hold_what_is_known_and_costs_do_not_count_it(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    plan = _plan(folder)
    outcome = _run(plan, store)
    writing.write(plan, store, tmp_path / "out", outcome)
    from bench.leaderboard.results import load_cells

    base, sft = load_cells(tmp_path / "out").values()
    assert isinstance(base, CellResult)
    assert isinstance(sft, CellResult)
    for cell, planned in zip((base, sft), plan.cells, strict=True):
        (part,) = cell.evaluations
        assert part.samples == tuple(planned.samples[part.prompt_set, s].key for s in (0, 3))
        assert set(part.facts) == set(image_facts.FACTS)
        assert len(part.diversity) == part.prompts
        assert cell.towers == dict.fromkeys(plan.scorers, "an eye")
    assert (base.weight_distance, base.curve) == (None, {})
    assert sft.weight_distance == pytest.approx(sft.curve["relative_weight_change"][-1], rel=1e-5)
    assert sft.curve["step"] == tuple(range(1, sft.budget.steps + 1))
    # Supervised training has no margin.
    assert {"loss", "grad_norm", "nfe"} <= sft.curve.keys()
    assert "margin" not in sft.curve
    failed = RunOutcome(ran=(), failures={s.key: "killed" for s in _descriptions(plan)})
    writing.write(plan, store, tmp_path / "bare", failed)
    bare = list(load_cells(tmp_path / "bare").values())
    assert [cell.identity for cell in bare] == [base.identity, sft.identity]
    for cell, full in zip(bare, (base, sft), strict=True):
        assert isinstance(cell, CellResult)
        assert cell.cost == full.cost
        assert cell.provenance == full.provenance
        assert cell.evaluations[0].scores == full.evaluations[0].scores
        assert cell.evaluations[0].facts == {}


def test_a_plan_shows_it_and_estimates_its_time(folder: Path, tmp_path: Path) -> None:
    plan = _plan(folder)
    found = estimate(plan, Store(tmp_path / "empty"), frozenset())
    names = [group.name for group in found.groups]
    assert names[-2:] == ["describe", "score"]
    group = found.groups[-2]
    images = sum(stage.units for stage in _descriptions(plan))
    assert (group.stages, group.nfe) == (2, 0)
    # Of 16 pixels; images of 512 would take 20 times as long.
    assert group.seconds == pytest.approx(images * (0.001 + 0.02 / 32**2))
    assert "describe (1 of 1)" in found.cells[0].todo


def test_planning_and_describing_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, bench.stages.describe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "pandas", "PIL"} & set(done.stdout.split())
