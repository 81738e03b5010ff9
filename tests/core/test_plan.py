from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.lib import plain_yaml
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable, stratified
from bench.recipe.recipe import Recipe, validate
from bench.running import planning
from bench.running.plan import Plan
from tests import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


def _plan(folder: Path, **changes: object) -> Plan:
    return planning.make(toy.recipe(folder, **changes), toy.registry())


def _keys(plan: Plan) -> set[str]:
    return {stage.key for stage in plan.stages}


def test_stages_come_in_order_and_once(folder: Path) -> None:
    plan = _plan(folder)
    names = Counter(stage.name for stage in plan.stages)
    assert names == {
        "inspect": 1,
        "encode": 1,
        "rewards": 2,
        "train": 2,
        "sample": 3,
        "describe": 3,
        "score": 6,
    }
    seen: set[str] = set()
    for stage in plan.stages:
        assert {source.key for source in stage.inputs} <= seen, stage.label
        seen.add(stage.key)
    assert len(seen) == len(plan.stages)


def test_the_untouched_backbone_is_always_a_cell(folder: Path) -> None:
    assert [c.label for c in _plan(folder, methods=["dpo"], seeds=[1, 0]).cells] == [
        "base",
        "dpo, seed 0",
        "dpo, seed 1",
    ]


def test_where_nothing_is_trained_neither_pairs_nor_training_are_needed(folder: Path) -> None:
    recipe = toy.recipe(folder, methods=["base"])
    bare = Recipe.model_validate(recipe.model_dump() | {"pairs": None, "training": None})
    again = validate(plain_yaml.load(bare.to_yaml()), "again")
    assert again == bare
    same, plan = (planning.make(r, toy.registry()) for r in (recipe, again))
    assert _keys(plan) == _keys(same)
    assert {stage.name for stage in plan.stages} == {"sample", "describe", "score"}


def test_pairs_are_generated_only_for_what_is_trained_on_them(folder: Path) -> None:
    generate = {"prompts": str(folder / "prompts.tsv"), "images_per_prompt": 2}
    for methods, forms in ((["base"], False), (["base", "dpo"], True)):
        recipe = toy.recipe(folder, methods=methods).model_dump()
        made = validate(recipe | {"pairs": "generated", "generate": generate}, "generated")
        plan = planning.make(made, toy.registry())
        assert ("pairs" in {stage.name for stage in plan.stages}) == forms


@pytest.mark.parametrize("block", ["pairs", "training"])
def test_a_method_that_is_trained_says_what_the_recipe_lacks(folder: Path, block: str) -> None:
    recipe = toy.recipe(folder, methods=["dpo"]).model_copy(update={block: None})
    with pytest.raises(BenchError, match=f"'dpo' is trained, but there is no `{block}`"):
        planning.make(recipe, toy.registry())


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["dpo", "balanced[labels=majority_vote[ties=human]]", "sft"]},
        {"seeds": [0, 1]},
        {"scorers": ["channel", "truth[index=1]", "channel[index=1]"]},
        {"sampling": {"image_seeds": [0, 1]}},
    ],
)
def test_adding_adds_only_what_is_new(folder: Path, changes: dict[str, object]) -> None:
    before, after = _plan(folder), _plan(folder, **changes)
    # The images of a prompt are described together, so anew with another image seed.
    together = {s.key for s in before.stages if s.name == "describe" and "sampling" in changes}
    assert _keys(before) - together < _keys(after)
    assert not together & _keys(after)


def test_order_changes_nothing(folder: Path) -> None:
    methods = ["balanced[labels=majority_vote[ties=human]]", "dpo"]
    plan, other = (
        _plan(folder),
        _plan(folder, methods=methods, scorers=["truth[index=1]", "channel"]),
    )
    assert _keys(plan) == _keys(other)
    assert [c.label for c in plan.cells] == [c.label for c in other.cells]


@pytest.mark.parametrize(
    "changes",
    [{"training": {"micro_batch_size": 1, "checkpoint_every": 9}}, {"sampling": {"batch_size": 5}}],
)
def test_what_is_chosen_for_speed_is_in_no_key(folder: Path, changes: dict[str, object]) -> None:
    assert _keys(_plan(folder)) == _keys(_plan(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"training": {"steps": 4}}, {"inspect", "encode", "rewards"}),
        ({"sampling": {"guidance": 3.0}}, {"inspect", "encode", "rewards", "train"}),
        ({"methods": ["dpo[beta=9]"]}, {"inspect", "encode"}),
    ],
)
def test_what_changes_bytes_changes_keys(
    folder: Path, changes: dict[str, object], same: set[str]
) -> None:
    plan, other = _plan(folder), _plan(folder, **changes)
    for stage in other.stages:
        untrained = stage.name in ("sample", "describe", "score") and "base" in stage.label
        if stage.name in same or (untrained and "sampling" not in changes):
            assert stage.key in _keys(plan)
        else:
            assert stage.key not in _keys(plan)


def test_other_data_changes_keys(folder: Path, tmp_path: Path) -> None:
    other = toy.write_pairs(tmp_path / "pairs.parquet", count=13)
    shared = _keys(_plan(folder)) & _keys(_plan(folder, pairs=str(other)))
    base = [s for s in _plan(folder).stages if "from base" in s.label]
    assert shared == {s.key for s in base}


def test_in_loop_scorers_are_those_that_label(folder: Path) -> None:
    dpo, balanced = _plan(folder).cells[2], _plan(folder).cells[1]
    assert dpo.in_loop == ()
    assert balanced.in_loop == ("channel", "channel[index=2]")


def test_a_held_out_scorer_may_not_label(folder: Path) -> None:
    with pytest.raises(BenchError, match=r"'truth' is held out.*label_scorers"):
        _plan(folder, label_scorers=["truth"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["dpoo"]}, "unknown method 'dpoo'. Did you mean 'dpo'"),
        ({"scorers": ["chanel"]}, "unknown scorer 'chanel'. Did you mean 'channel'"),
        ({"prompts": ["nowhere/x.tsv"]}, "no such file"),
        ({"pairs": "gone.parquet/x"}, "no such file"),
        ({"methods": ["smpo[beta=high]"]}, "valid number"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        _plan(folder, **changes)


def test_a_limit_keeps_shares_and_order() -> None:
    groups = [{"category": "A"}] * 60 + [{"category": "B"}] * 30 + [{"category": "C"}] * 10
    table = PromptTable(name="t", texts=tuple(f"p{i}" for i in range(100)), groups=tuple(groups))
    taken = stratified(table, 21)
    assert Counter(g["category"] for g in taken.groups) == {"A": 13, "B": 6, "C": 2}
    assert list(taken.texts) == sorted(taken.texts, key=lambda t: int(t[1:]))
    assert stratified(table, 21) == taken
    assert stratified(table, 100) is table
