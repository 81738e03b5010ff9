"""What a method changes is gone before the next one: bytes, base and names stay their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import BenchError
from bench.store.store import Store
from tests import toy
from tests.trust import plugins
from tests.trust.conftest import MakePlan
from tests.trust.running import Done, run

CAREFUL = ("dpo", "best_of", "balanced")


def _artefacts(store: Store, label: str, plan: Any) -> dict[str, Any]:
    keys = {s.key for s in plan.stages if label in s.label}
    found = {k: v for k, v in toy.artefacts(store).items() if k.split("/")[1] in keys}
    assert found
    return found


@pytest.fixture(scope="module")
def clean(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Methods that are not careless, run on their own."""
    return run(make_plan(*CAREFUL), tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("careless", ["a_careless", "a_careless_model"])
def test_a_careless_method_changes_no_other_cell(
    make_plan: MakePlan, clean: Done, tmp_path: Path, careless: str
) -> None:
    """It comes first, it succeeds, and it leaves all that it was given changed."""
    alone = make_plan(*CAREFUL)
    done = run(make_plan(careless, *CAREFUL), tmp_path / "together")
    assert not done.failures
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    for label in ("base", "dpo", "best_of", "balanced"):
        mine, theirs = (_artefacts(d.store, label, alone) for d in (clean, done))
        assert mine == theirs, label
    for row in clean.rows:
        other = done.row(row.method)
        assert (other.in_loop, other.scores, other.held_out) == (
            row.in_loop,
            row.scores,
            row.held_out,
        )
        assert clean.nfe(row.method) == done.nfe(row.method)


def test_another_packages_base_does_not_take_the_place_of_ours(make_plan: MakePlan) -> None:
    plan = make_plan("dpo", more=(plugins.SecondBase,))
    assert [cell.method for cell in plan.cells if cell.baseline] == ["base"]


def test_a_base_that_is_trained_or_reads_is_refused(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.running import planning

    monkeypatch.setattr(planning, "baseline", lambda registry: "base")
    with pytest.raises(BenchError, match=r"'trained_base'.*untouched backbone, but is trained"):
        make_plan("trained_base", more=(plugins.TrainedBase,))
    with pytest.raises(BenchError, match=r"'reading_base'.*but reads the scorer 'channel'"):
        make_plan("reading_base", more=(plugins.ReadingBase,))
    with pytest.raises(BenchError, match="base and a_base are both the untouched backbone"):
        make_plan("base", "a_base", more=(plugins.SecondBase,))


def test_the_base_is_untouched_whatever_its_model_does(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench_plugins.methods import Base

    plan = make_plan("dpo")
    clean = run(plan, tmp_path / "clean")
    monkeypatch.setattr(Base, "model", plugins.SecondBase.model)
    done = run(plan, tmp_path / "other")
    assert _artefacts(done.store, "base", plan) == _artefacts(clean.store, "base", plan)


def test_an_instance_cannot_make_itself_the_base(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("sometimes_base")
    assert [(c.method, c.baseline) for c in plan.cells] == [
        ("base", True),
        ("sometimes_base", False),
    ]
    keys = [next(iter(c.samples.values())).key for c in plan.cells]
    assert len(set(keys)) == 2
    assert run(plan, tmp_path).row("sometimes_base").base is False


@pytest.mark.parametrize(
    ("what", "message"),
    [("method", "the same method, filled in"), ("options", "another beta as `resolved`")],
)
def test_a_method_that_resolves_to_something_else_is_refused(
    make_plan: MakePlan, what: str, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        make_plan(f"becoming[what={what},beta=5]")


def test_a_method_under_the_name_of_another_is_refused(make_plan: MakePlan) -> None:
    with pytest.raises(BenchError, match=r"'impostor' from trust 1 .* calls itself 'dpo'"):
        make_plan("impostor", "dpo")
