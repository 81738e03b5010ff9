"""Which scorers a method reads is seen, whatever it says: starred, and refused if held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import BenchError
from bench.api import scorer_loads
from bench.registry.registry import Registry
from bench.running.plan import Cell, Plan
from tests import toy
from tests.trust import plugins
from tests.trust.conftest import MakePlan
from tests.trust.running import run

SCORERS = ["channel", "channel[index=2]", "truth[index=1]"]


def _cell(plan: Plan, method: str) -> Cell:
    return next(cell for cell in plan.cells if cell.method.startswith(method))


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("rewarded[reward=truth]", "reward"),
        ("reader[loss=reading_loss[scorer=truth]]", "loss.scorer"),
        ("reader[trajectory=reading_trajectory[scorer=truth[index=2]]]", "trajectory.scorer"),
        ("reader[reference=reading_reference[judge=truth]]", "reference.judge"),
        ("reader[labels=reading_labels[scorer=truth]]", "labels.scorer"),
        ("reader[labels=average[scorers=channel+truth]]", "labels.scorers"),
        ("rewarded[reward=wrapping[inner=truth]]", "reward.inner"),
        ("reader[named=truth]", "named"),
        ("reader[names=channel+truth]", "names"),
        ("best_of[scorer=truth]", "scorer"),
        ("rewarded[reward=disguised]", "reward"),
        ("rewarded[reward=wavering]", "reward"),
        ("pretrained[weights=a/b,in_loop=truth]", "its own word"),
    ],
)
def test_a_held_out_scorer_is_refused_by_method_option_and_name(
    make_plan: MakePlan, method: str, option: str
) -> None:
    with pytest.raises(BenchError, match="held out") as caught:
        make_plan(method)
    said = str(caught.value)
    assert option in said
    assert method.split("[")[0] in said
    assert "truth" in said or "disguised" in said or "wavering" in said
    assert "\n" not in said


@pytest.mark.parametrize("where", ["reward", "several"])
def test_plugins_built_by_hand_are_seen_too(folder: Path, where: str) -> None:
    held = ({"a": [toy.Truth(), "channel[index=1]"]}, toy.Channel)
    method = (
        plugins.Rewarded(reward=toy.Truth()) if where == "reward" else plugins.Reader(several=held)
    )
    found = {(r.option, r.spec) for r in plugins.registry().scorers_read(method)}
    assert (where, "truth") in found
    if where == "several":
        assert {(where, "channel"), (where, "channel[index=1]")} <= found


@pytest.mark.parametrize(
    "method",
    [
        "rewarded",
        "reader[loss=reading_loss]",
        "reader[trajectory=reading_trajectory]",
        "reader[reference=reading_reference]",
        "reader[labels=reading_labels]",
        "reader[labels=average[scorers=channel]]",
        "reader[named=channel]",
        "rewarded[reward=channel[index=1]]",
        "best_of[scorer=channel[index=1]]",
        "denying",
        "pretrained[weights={unet},in_loop=channel]",
    ],
)
def test_what_is_read_stars_every_column_of_the_plugin(
    make_plan: MakePlan, folder: Path, method: str
) -> None:
    method = method.format(unet=folder / "pipeline" / "unet")
    cell = _cell(make_plan(method, scorers=SCORERS), method.split("[")[0])
    assert {"channel", "channel[index=2]"} <= set(cell.in_loop)
    assert "truth[index=1]" not in cell.in_loop


def test_a_path_that_reads_like_a_scorer_is_a_path(make_plan: MakePlan) -> None:
    assert _cell(make_plan("reader[path=truth]"), "reader").in_loop == ()


def test_methods_that_read_nothing_have_no_star(make_plan: MakePlan) -> None:
    plan = make_plan("dpo", "sft", "best_of", scorers=SCORERS)
    assert {c.method: bool(c.in_loop) for c in plan.cells} == {
        "base": False,
        "best_of": True,
        "dpo": False,
        "sft": False,
    }


def test_labels_get_the_rewards_that_the_method_denies(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan("denying")
    done = run(plan, tmp_path)
    assert not done.failures
    assert set(_cell(plan, "denying").in_loop) == {"channel", "channel[index=2]"}


# Every way in training or in sampling; both are what a slow run is for.
@pytest.mark.parametrize(
    ("method", "how"),
    [
        pytest.param(method, how, marks=[pytest.mark.slow] if (i + j) % 4 else [])
        for i, method in enumerate(["secret", "secret_best"])
        for j, how in enumerate(plugins.LOADS)
    ],
)
def test_an_undeclared_load_fails_its_own_cell_alone(
    make_plan: MakePlan, tmp_path: Path, method: str, how: str
) -> None:
    done = run(make_plan(f"{method}[how={how}]"), tmp_path)
    (reason,) = set(done.failures.values())
    assert method in reason
    assert "was to be loaded" in reason
    assert ("not declared" in reason) == (how == "not_held_out")
    assert {row.method for row in done.rows if row.cost} == {"base"}


def test_a_name_that_is_declared_does_not_open_the_held_out() -> None:
    with scorer_loads.only("dpo", ["channel"]):
        toy.Channel().load("cpu")
        with pytest.raises(BenchError, match="held out"):
            plugins._through_a_declared_name()
    plugins._through_a_declared_name()


def test_a_loss_with_a_scorer_in_a_global_is_caught(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "GLOBAL", [])
    done = run(make_plan("dpo[loss=global_loss]", "dpo"), tmp_path)
    (reason,) = set(done.failures.values())
    assert "'truth' was to be loaded" in reason
    assert {row.method for row in done.rows if row.cost} == {"base", "dpo"}


def test_nothing_is_loaded_while_the_run_is_planned(make_plan: MakePlan) -> None:
    with pytest.raises(BenchError, match="while the run is planned: the scorer 'truth'"):
        make_plan("planner")


def test_a_plugin_that_loads_on_import_is_broken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from bench.registry import registry as registries

    points = [EntryPoint("hasty", "tests.trust.hasty", "bench")]
    monkeypatch.setattr(registries, "entry_points", lambda group: points)
    (broken,) = Registry.discover().broken
    assert "'truth' was to be loaded" in broken.reason


def test_a_scorer_that_wraps_a_held_out_one_may_not_label(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=r"label.*inner.*held out"):
        make_plan("denying", label_scorers=["wrapping[inner=truth]"])
    assert not run(make_plan("denying", label_scorers=["wrapping"]), tmp_path).failures


def test_declared_scorers_may_be_read(make_plan: MakePlan, tmp_path: Path) -> None:
    done = run(make_plan("rewarded", "best_of"), tmp_path)
    assert not done.failures
    for row in done.rows:
        if not row.base:
            assert row.in_loop == ("channel",)
            assert row.held_out_scorers == ("truth[index=1]",)


def test_what_an_instance_says_of_being_held_out_counts_for_nothing() -> None:
    scorer = toy.Truth()
    object.__setattr__(scorer, "held_out", False)
    from bench.api.kinds import is_held_out

    assert is_held_out(type(scorer))
    assert is_held_out(plugins.Disguised)
    assert is_held_out(plugins.Wavering)
    assert not is_held_out(toy.Channel)


def test_guards_end_with_their_stage(make_plan: MakePlan, tmp_path: Path) -> None:
    run(make_plan("secret"), tmp_path)
    toy.Truth().load("cpu")


def test_pairs_labelled_by_a_held_out_scorer_are_refused(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(make_plan("dpo").stages[0].pairs)  # type: ignore[attr-defined]
    monkeypatch.setattr(kind, "labelled_by", lambda self: ("truth",))
    with pytest.raises(BenchError, match=r"preference set 'pairs\.parquet' reads .*'truth'"):
        make_plan("dpo")
