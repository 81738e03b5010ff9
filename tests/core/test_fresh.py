"""`--fresh`, and artefacts whose inputs have been replaced."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.lib.errors import BenchError
from bench.lib.progress import Progress
from bench.running import planning
from bench.running.fresh import chosen
from bench.running.plan import Plan
from bench.running.walk import RunOutcome, Walk, status
from bench.stages.sample import SampleStage
from bench.stages.train import TrainStage
from bench.store.store import Artefact, Store
from tests import toy
from tests.commands import in_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Store:
    store = Store(folder / "store")
    assert not _run(_plan(folder), store).failures
    return store


@pytest.fixture
def store(finished: Store, tmp_path: Path) -> Store:
    return Store(shutil.copytree(finished.root, tmp_path / "store"))


def _plan(folder: Path, **changes: Any) -> Plan:
    return planning.make(toy.recipe(folder, **changes), toy.registry())


def _run(plan: Plan, store: Store, *fresh: str) -> RunOutcome:
    found = status(plan.stages, store).without(chosen(plan, fresh))
    progress = Progress(Console(quiet=True))
    return Walk(plan.stages, store, "cpu", progress).run(found.finished, found.anew)


def _labels(plan: Plan, keys: frozenset[str]) -> set[str]:
    return {f"{plan.stage(key).name}: {plan.stage(key).label}" for key in keys}


def _train(plan: Plan, method: str) -> Any:
    return next(cell.train for cell in plan.cells if cell.method.startswith(method))


def test_a_kind_of_stage_and_all_that_follows(folder: Path) -> None:
    plan = _plan(folder)
    names = {plan.stage(key).name for key in chosen(plan, ["train"])}
    assert names == {"train", "sample", "describe", "score"}
    assert not any("base" in label for label in _labels(plan, chosen(plan, ["train"])))
    assert {plan.stage(key).name for key in chosen(plan, ["score"])} == {"score"}
    assert chosen(plan, ["inspect"]) >= chosen(plan, ["encode"]) >= chosen(plan, ["train"])


def test_a_method_is_its_training_sampling_and_what_is_said_of_images(folder: Path) -> None:
    plan = _plan(folder)
    labels = _labels(plan, chosen(plan, ["dpo"]))
    assert labels == {
        "train: train dpo, seed 0",
        "sample: sample prompts.tsv from dpo, seed 0",
        "describe: describe images of prompts.tsv from dpo, seed 0",
        "score: score with channel: prompts.tsv from dpo, seed 0",
        "score: score with truth[index=1]: prompts.tsv from dpo, seed 0",
    }


def test_a_bare_name_is_all_variants_unless_one_is_called_so(folder: Path) -> None:
    plan = _plan(folder, methods=["dpo[beta=5]", "dpo[beta=6]"])
    assert len(chosen(plan, ["dpo"])) == 2 * len(chosen(plan, ["dpo[beta=5]"]))
    plan = _plan(folder, methods=["dpo", "dpo[beta=6]"])
    assert chosen(plan, ["dpo"]).isdisjoint(chosen(plan, ["dpo[beta=6]"]))
    assert chosen(plan, ["dpo,dpo[beta=6]"]) == chosen(plan, ["train"])


@pytest.mark.parametrize(("name", "close"), [("trian", "'train'"), ("dpoo", "'dpo'")])
def test_unknown_names_say_what_is_close(folder: Path, name: str, close: str) -> None:
    with pytest.raises(BenchError, match=f"unknown stage or method .*{name}.*{close}"):
        chosen(_plan(folder), [name])


def test_what_is_chosen_runs_again_and_nothing_else(folder: Path, store: Store) -> None:
    plan, before = _plan(folder), toy.artefacts(store)
    assert set(_run(plan, store, "dpo").ran) == chosen(plan, ["dpo"])
    assert toy.artefacts(store) == before
    assert not _run(plan, store).ran


def test_a_dry_run_shows_them_as_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = in_folder(tmp_path, monkeypatch, capsys)
    code, out, _ = bench("run", "--methods", "dpo", "--dry-run", "--fresh", "dpo")
    assert code == 0
    assert "0 of them cached" in out
    code, _, err = bench("run", "--methods", "dpo", "--dry-run", "--fresh", "dppo")
    assert code == 1
    assert "Did you mean 'dpo'" in err


def _raising(error: BaseException) -> Callable[..., Any]:
    def work(*_: object) -> Any:
        raise error

    return work


def test_a_failure_leaves_the_old_artefact(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, before = _plan(folder), toy.artefacts(store)
    with monkeypatch.context() as patch:
        patch.setattr(TrainStage, "run", _raising(BenchError("no luck")))
        assert _run(plan, store, "dpo").failures.keys() == chosen(plan, ["dpo"])
    assert toy.artefacts(store) == before
    assert not _run(plan, store).ran


@pytest.mark.parametrize("moment", ["training", "sampling"])
def test_a_kill_leaves_old_or_new_and_nothing_that_does_not_fit(
    folder: Path, store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while sampling, the store holds a new checkpoint and images of the old one."""
    plan = _plan(folder)
    train = _train(plan, "dpo")
    old = Artefact(store.path("train", train.key)).digest
    if (pid := os.fork()) == 0:
        train_as_ever = TrainStage.run

        def other_bytes(self: TrainStage, context: Any, partial: Any, task: Any) -> Any:
            if moment == "training":
                os.kill(os.getpid(), signal.SIGKILL)
            made = train_as_ever(self, context, partial, task)
            (partial.out / "curve.csv").write_text("another\n")
            return made

        monkeypatch.setattr(TrainStage, "run", other_bytes)
        monkeypatch.setattr(SampleStage, "run", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            _run(plan, store, "dpo")
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    same = Artefact(store.path("train", train.key)).digest == old
    assert same == (moment == "training")
    # The images come out as before, so their scores hold.
    images = {sample.key for cell in plan.cells for sample in cell.samples.values()}
    assert set(_run(plan, store).ran) == (set() if same else images & chosen(plan, ["dpo"]))
    assert not _run(plan, store).ran


def test_what_was_made_from_a_replaced_artefact_is_made_again(folder: Path, store: Store) -> None:
    """A damaged artefact that comes out otherwise takes its descendants along."""
    plan = _plan(folder)
    train = _train(plan, "dpo")
    place = store.path("train", train.key)
    partial = store.begin("train", train.key)
    shutil.copytree(place, partial.out, dirs_exist_ok=True)
    (partial.out / "artefact.json").unlink()
    (partial.out / "curve.csv").write_text("another\n")
    made = Artefact(place).manifest
    store.commit("train", train.key, partial, made.cost, made.info, made.made_with, made.inputs)
    assert _labels(plan, frozenset(_run(plan, store).ran)) == {
        "sample: sample prompts.tsv from dpo, seed 0"
    }


def test_what_was_begun_from_other_inputs_is_dropped(store: Store) -> None:
    partial = store.begin("train", "k", {"a": "1"})
    (partial.work / "state").write_text("half")
    assert (store.begin("train", "k", {"a": "1"}).work / "state").exists()
    assert not (store.begin("train", "k", {"a": "2"}).work / "state").exists()
    (partial.work / "state").write_text("half")
    assert not (store.begin("train", "k", {"a": "2"}, anew=True).work / "state").exists()


def test_two_fresh_runs_at_once_both_end_right(folder: Path, store: Store) -> None:
    plan, before = _plan(folder), toy.artefacts(store)
    pids = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                code = 1 if _run(plan, store, "dpo").failures else 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert toy.artefacts(store) == before
