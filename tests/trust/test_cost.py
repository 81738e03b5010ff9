"""Denoiser evaluations on the board are those that were spent, whatever a plugin declares."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.lib.distributed import World
from bench.running.launch import meeting_point
from bench.store.store import Artefact
from tests import toy
from tests.training.conftest import exit_code, forked
from tests.trust.conftest import MakePlan
from tests.trust.running import Done, run

IMAGES = 5 * 2 * 2
"""Evaluations of sampling: five prompts, two steps, with and without the prompt."""
TRAINED = 2 * 2 * 2 * 2
"""Of training dpo: two steps, two pairs, two images, policy and reference."""


def test_declared_passes_are_only_the_plan(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("cheap", "dpo")
    done = run(plan, tmp_path)
    assert done.nfe("dpo") == (TRAINED, IMAGES)
    assert done.nfe("cheap") == (TRAINED + 5, IMAGES)
    assert done.nfe("base") == (0, IMAGES)
    stage = next(s for s in plan.stages if s.label == "train cheap, seed 0")
    assert stage.nfe == 1


def test_best_of_four_is_four_times_the_sampling(make_plan: MakePlan, tmp_path: Path) -> None:
    done = run(make_plan("best_of", "best_of[n=2]"), tmp_path)
    assert not done.failures
    assert done.nfe("base") == (0, IMAGES)
    assert done.nfe("best_of") == (0, 4 * IMAGES)
    assert done.nfe("best_of[n=2]") == (0, 2 * IMAGES)


def test_without_guidance_it_is_half(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("dpo", sampling={"guidance": 1.0})
    done = run(plan, tmp_path)
    assert done.nfe("dpo") == (TRAINED, IMAGES // 2)
    assert {s.nfe for s in plan.stages if s.name == "sample"} == {IMAGES // 2}


def test_a_policy_with_a_denoiser_of_its_own_is_counted(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    done = run(make_plan("own_denoiser"), tmp_path)
    assert done.nfe("own_denoiser") == (0, IMAGES)


def test_making_a_model_counts_once_for_all_its_images(make_plan: MakePlan, tmp_path: Path) -> None:
    more = str(toy.write_prompts(tmp_path / "more.tsv", count=3))
    plan = make_plan("preparing")
    assert run(plan, tmp_path / "one").nfe("preparing") == (0, IMAGES + 7)
    prompts = [plan.recipe.prompts[0], more]
    wider = make_plan("preparing", prompts=prompts, sampling={"image_seeds": [0, 1]})
    # In one go, and where the first sampling is there already: it is made again, and counts once.
    expected = (0, 2 * (IMAGES + 3 * 4) + 7)
    assert run(wider, tmp_path / "one").nfe("preparing") == expected
    assert run(wider, tmp_path / "two").nfe("preparing") == expected


def test_a_lora_and_checkpointing_count_alike(make_plan: MakePlan, tmp_path: Path) -> None:
    training = {"steps": 2, "batch_size": 2, "checkpoint_every": 1}
    lora = {**training, "lora_rank": 2, "gradient_checkpointing": True, "precision": "bf16"}
    assert run(make_plan("dpo", training=lora), tmp_path).nfe("dpo") == (TRAINED, IMAGES)


class _Killed(KeyboardInterrupt):
    """What SIGKILL looks like from inside."""


@pytest.mark.parametrize(
    "at", [pytest.param(n, marks=[pytest.mark.slow] if n % 4 != 3 else []) for n in range(1, 40, 6)]
)
def test_what_was_interrupted_costs_what_was_not(
    make_plan: MakePlan, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at one of the moments at which anything is written or a step is saved."""
    from bench.stages import sample, tables, train
    from bench.training import loop

    plan = make_plan("cheap", "dpo", "preparing", training={"steps": 4, "batch_size": 2})
    count = [0]

    def dying(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == at:
                raise _Killed
            return real(*args, **kwargs)

        return call

    for writing in (sample, tables, train):
        monkeypatch.setattr(writing, "write_atomic", dying(writing.write_atomic))
    monkeypatch.setattr(loop._Training, "_save", dying(loop._Training._save))
    monkeypatch.setattr(loop._Training, "_batch", dying(loop._Training._batch))
    with pytest.raises(_Killed):
        run(plan, tmp_path)
    monkeypatch.undo()
    done = run(plan, tmp_path)
    assert done.nfe("cheap") == (2 * TRAINED + 5, IMAGES)
    assert done.nfe("dpo") == (2 * TRAINED, IMAGES)
    assert done.nfe("preparing") == (0, IMAGES + 7)


def test_a_damaged_note_is_made_again(make_plan: MakePlan, tmp_path: Path) -> None:
    from bench.stages import sample

    plan = make_plan("best_of")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "evaluations-00000.json").write_text('{"images": {"0": 3')
    (folder / "evaluations-00002.json").write_text('{"images": {"2": 3}, "preparing": 1}')
    noted = sample._Spent.noted(folder)
    assert noted == sample._Spent(images={2: 3}, preparing=1)
    assert not noted.covers(range(3))
    assert plan.cells


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_together_count_what_one_counts(
    make_plan: MakePlan, tmp_path: Path, processes: int
) -> None:
    plan = make_plan("dpo", "best_of", "preparing", sampling={"batch_size": 1})

    def share() -> None:
        from rich.console import Console

        from bench.lib.progress import Progress
        from bench.running.walk import Walk
        from bench.store.store import Store

        world = World.from_environment()
        world.connect("cpu")
        store = Store(tmp_path / "store")
        Walk(plan.stages, store, "cpu", Progress(Console(quiet=True)), world).run(frozenset())
        world.close()

    shared = meeting_point(processes)
    running = [forked(share, RANK=str(rank), **shared) for rank in range(processes)]
    assert [exit_code(pid) for pid in running] == [0] * processes
    done = run(plan, tmp_path)
    assert done.nfe("dpo") == (TRAINED, IMAGES)
    assert done.nfe("best_of") == (0, 4 * IMAGES)
    assert done.nfe("preparing") == (0, IMAGES + 7)


def test_another_batch_size_after_a_kill_counts_alike(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.stages import sample

    calls = [0]
    real = sample._Spent.note

    def note(self: Any, folder: Path) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise _Killed
        real(self, folder)

    monkeypatch.setattr(sample._Spent, "note", note)
    with pytest.raises(_Killed):
        run(make_plan("best_of"), tmp_path)
    monkeypatch.undo()
    done: Done = run(make_plan("best_of", sampling={"batch_size": 4}), tmp_path)
    assert done.nfe("base") == (0, IMAGES)
    assert done.nfe("best_of") == (0, 4 * IMAGES)
    shutil.rmtree(tmp_path / "store")


def test_seconds_of_making_a_model_are_charged(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from tests.trust import plugins

    real = plugins.ask
    monkeypatch.setattr(plugins, "ask", lambda *a: (time.sleep(0.5), real(*a)))
    plan = make_plan("preparing")
    done = run(plan, tmp_path)
    cost = done.row("preparing").cost
    assert cost is not None
    assert cost.sample_seconds >= 0.5
    sampled = next(c for c in plan.cells if c.method == "preparing").samples
    (stage,) = sampled.values()
    assert Artefact(done.store.path("sample", stage.key)).cost.seconds >= 0.5
