from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from bench.leaderboard.outlook import of_board
from bench.recipe.recipe import load
from bench.registry.registry import default_registry
from bench.running import planning
from bench.running.estimates import estimate
from bench.running.outlook import of_plan, sentences
from bench.running.plan import Plan
from bench.statistics.power import widest
from bench.store.store import Store
from tests.commands import Bench, in_folder

SHAPES = Path(__file__).parents[2] / "leaderboards" / "shapes"


def shapes(**changes: Any) -> Plan:
    return planning.make(
        load(default_registry(), "shapes", changes), default_registry(), download=False
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("seeds", [[0], [3, 4, 5]])
def test_the_plan_itself_costs_what_its_estimate_says(store: Store, seeds: list[int]) -> None:
    plan = shapes(methods=["dpo", "smpo"], seeds=seeds)
    found = of_plan(plan, store, frozenset(), widest(), processes=2)
    groups = estimate(plan, store, frozenset(), processes=2).groups
    (planned,) = [option for option in found.options() if option.planned]
    assert planned.spent
    assert planned.spent.nfe == pytest.approx(sum(group.nfe for group in groups))
    assert planned.spent.seconds == pytest.approx(sum(group.seconds for group in groups))
    assert found.costs.rough


def test_more_train_seeds_cost_as_a_plan_of_them(store: Store) -> None:
    one = of_plan(shapes(methods=["dpo"], seeds=[0]), store, frozenset(), widest())
    five = of_plan(shapes(methods=["dpo"], seeds=[0, 1, 2, 3, 4]), store, frozenset(), widest())
    assert one.costs.of(1, 5).nfe == pytest.approx(five.costs.of(1, 5).nfe)
    assert one.costs.of(1, 5).seconds == pytest.approx(five.costs.of(1, 5).seconds)


def test_more_prompts_cost_as_a_plan_of_them(store: Store) -> None:
    few = of_plan(shapes(methods=["dpo"], limit=40), store, frozenset(), widest())
    many = of_plan(shapes(methods=["dpo"], limit=80), store, frozenset(), widest())
    assert few.prompts == 80
    assert few.costs.of(2, 3).nfe == pytest.approx(many.costs.of(1, 3).nfe)


def test_one_train_seed_ranks_no_method(store: Store) -> None:
    first, second = sentences(of_plan(shapes(), store, frozenset(), widest()))
    assert first == (
        "Power: 320 prompts x 1 train seed judge these checkpoints only (±5.5 points); "
        "no method can be ranked."
    )
    assert re.fullmatch(
        r"--seeds 0,1,2 would find differences of [\d.]+ points against the base, [\d.]+ between "
        r"two methods \(80% power\)\.",
        second,
    )


def test_several_train_seeds_find_differences(store: Store) -> None:
    plan = shapes(methods=["dpo"], seeds=[0, 1, 2])
    first, _ = sentences(of_plan(plan, store, frozenset(), widest()))
    assert re.fullmatch(
        r"Power: 320 prompts x 3 train seeds find differences of [\d.]+ points against the base "
        r"\(80% power\)\.",
        first,
    )


def test_what_is_not_trained_here_is_judged_as_it_is(store: Store) -> None:
    first, _ = sentences(of_plan(shapes(methods=["base"]), store, frozenset(), widest()))
    assert "judge these checkpoints only (±5.5 points), and no method" in first


def test_a_dry_run_says_what_it_can_find(bench: Bench) -> None:
    code, out, _ = bench("run", "--dry-run", "--methods", "dpo", "--seeds", "0,1,2")
    assert code == 0
    assert "Power: 320 prompts x 3 train seeds find differences of" in out


def test_power_of_a_recipe(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = bench("power", "--methods", "smpo,balanced", "--seeds", "0,1,2")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("Recipe shapes: 2 methods and the base, 320 prompts, 3 train seeds (*)\n")
    (planned,) = [line for line in out.splitlines() if " * " in line]
    assert re.search(r"3 \* +320 +[\d.]+ +[\d.]+ +[\d,]+ +[\d.]+ min", planned)
    assert "Spreads: assumed: at worst 50 points" in out
    assert "Half of what 3 train seeds find against the base" in out
    assert not list(Path.cwd().iterdir())


def test_power_of_a_board_as_data(bench: Bench) -> None:
    code, out, _ = bench("power", str(SHAPES), "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert found["spreads"] == "measured by gold"
    assert found["train_seeds"] == 3
    (planned,) = [option for option in found["options"] if option["planned"]]
    assert 0.05 < planned["against_base"] < 0.12
    assert planned["spent"]["nfe"] > 0
    assert found["halved"]["cheapest"]["prompts"] > found["prompts"]


def test_a_board_is_found_by_its_name(bench: Bench) -> None:
    copytree(SHAPES, Path("leaderboards", "mine"))
    code, out, _ = bench("power", "mine")
    assert code == 0
    assert out.startswith("leaderboards/mine: ")
    code, _, err = bench("power", "yours")
    assert code == 1
    assert err.startswith("error: yours")


def test_a_plan_with_the_spreads_of_a_board(bench: Bench) -> None:
    options = ("--methods", "dpo,smpo", "--seeds", "0,1,2", "--limit", "40", "--json")
    code, out, _ = bench("power", str(SHAPES), *options)
    assert code == 0
    (found,) = json.loads(out)
    (board,) = of_board(SHAPES, widest())
    assert found["prompts"] == 80
    assert found["methods"] == 2
    assert found["against_base"] == asdict(board.against_base)
    assert found["spreads"].startswith("measured by gold (")


def test_assumptions_can_be_other_ones(bench: Bench) -> None:
    options = ("power", "--methods", "dpo", "--json", "--seed-sd", "4", "--tie-share", "0.5")
    (found,) = json.loads(bench(*options)[1])
    assert found["against_base"] == {
        "prompt": pytest.approx(0.125**0.5),
        "residual": 0,
        "seed": 0.04,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nowhere",), "nowhere/results: holds no result files"),
        (("--seed-sd", "-1"), "a deviation between trainings of -1 points is not from 0 to 50"),
        (("--seed-sd", "nan"), "is not from 0 to 50"),
        (("--tie-share", "1"), "a tie share of 1 is not from 0 to below 1"),
        (("--seeds", "x"), "--seeds x: expected whole numbers"),
        (("--recipe", "shape"), "Did you mean 'shapes'"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    bench: Bench, options: tuple[str, ...], message: str
) -> None:
    code, out, err = bench("power", *options)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert message in err
