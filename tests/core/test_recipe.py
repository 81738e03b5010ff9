from __future__ import annotations

from pathlib import Path

import pytest

from bench.lib.errors import BenchError
from bench.recipe.recipe import load, validate
from bench.registry.registry import default_registry

MINIMAL = """
backbone: shapes
pairs: shapes
prompts: shapes-parti
scorers: [gold, {shapes_clip: {}}]
methods: "dpo,smpo[beta=5,labels=human],dpo"
training: {steps: 3, batch_size: 2}
sampling: {steps: 2, guidance: 1}
"""


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_a_recipe_file_becomes_one_typed_object(tmp_path: Path) -> None:
    recipe = load(default_registry(), _file(tmp_path, MINIMAL))
    assert recipe.name == "mine"
    assert recipe.methods == ("dpo", "smpo[beta=5,labels=human]")
    assert recipe.prompts == ("shapes-parti",)
    assert recipe.scorers == ("gold", "shapes_clip")
    assert recipe.seeds == (0,)
    assert recipe.training.micro_batch_size is None


def test_options_may_be_a_mapping(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        '"dpo,smpo[beta=5,labels=human],dpo"',
        "[dpo, {smpo: {beta: 5, labels: {majority_vote: {ties: human}}}}]",
    )
    recipe = load(default_registry(), _file(tmp_path, text))
    assert recipe.methods == ("dpo", "smpo[beta=5,labels=majority_vote[ties=human]]")


def test_the_written_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load(default_registry(), "shapes")
    again = load(default_registry(), _file(tmp_path, recipe.to_yaml()))
    assert again == recipe


def test_overrides_win(tmp_path: Path) -> None:
    overrides = {"training.steps": 9, "methods": "sft", "seeds": [1, 2]}
    recipe = load(default_registry(), _file(tmp_path, MINIMAL), overrides)
    assert (recipe.training.steps, recipe.methods, recipe.seeds) == (9, ("sft",), (1, 2))
    assert recipe.training.batch_size == 2


def test_a_block_that_is_left_out_may_be_set_key_by_key(tmp_path: Path) -> None:
    """As in the recipe.yaml that a run without training leaves."""
    without = MINIMAL.replace("training: {steps: 3, batch_size: 2}", "training: null")
    overrides = {"training.steps": 9, "training.batch_size": 4}
    recipe = load(default_registry(), _file(tmp_path, without), overrides)
    assert recipe.training is not None
    assert recipe.training.steps == 9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 3", "stepz: 3", r"unknown training key 'stepz'\. Did you mean 'steps'"),
        ("steps: 3", "steps: many", r"training\.steps: input should be a valid integer"),
        ("steps: 3", "steps: 0", r"training\.steps: input should be greater than or equal to 1"),
        ("pairs: shapes", "pears: shapes", r"unknown recipe key 'pears'\. Did you mean 'pairs'"),
        ("backbone: shapes", "", r"backbone: field required"),
        ("pairs: shapes", "pairs: [", "not valid YAML"),
        ("prompts: shapes-parti", "prompts: 3", "prompts: expected a list, not 3"),
        ("prompts: shapes-parti", "prompts: []", "prompts: tuple should have at least 1 item"),
        ("prompts: shapes-parti", "prompts: [7]", "prompts: 7 is not a plugin's name"),
        (MINIMAL, "- just a list", "expected a mapping"),
    ],
)
def test_mistakes_are_named_with_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = _file(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(BenchError, match=message) as caught:
        load(default_registry(), file)
    assert str(caught.value).startswith(file)


def test_unknown_preset_and_missing_file() -> None:
    with pytest.raises(BenchError, match=r"unknown recipe 'shape'\. Did you mean 'shapes'"):
        load(default_registry(), "shape")
    with pytest.raises(BenchError, match=r"recipe nowhere/x\.yaml: cannot be read"):
        load(default_registry(), "nowhere/x.yaml")


def test_a_recipe_starts_from_the_one_it_extends(tmp_path: Path) -> None:
    text = "extends: shapes\nmethods: [sft]\ntraining: {steps: 7}\nlimit: 3\n"
    recipe, base = (
        load(default_registry(), _file(tmp_path, text)),
        load(default_registry(), "shapes"),
    )
    changed = {"name": "mine", "methods": ("sft",), "limit": 3}
    training = base.training.model_copy(update={"steps": 7})
    assert recipe == base.model_copy(update={**changed, "training": training})
    assert "extends" not in recipe.to_yaml()


def test_the_nearest_of_several_extensions_wins(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL.replace("steps: 3", "steps: 3, warmup_steps: 1"))
    (tmp_path / "middle.yaml").write_text(
        f"name: theirs\nextends: {tmp_path / 'base.yaml'}\n"
        "training: {steps: 4, warmup_steps: 2}\n"
    )
    text = f"extends: {tmp_path / 'middle.yaml'}\ntraining: {{steps: 5}}\n"
    overrides = {"training.batch_size": 9}
    recipe = load(default_registry(), _file(tmp_path, text), overrides)
    training = recipe.training
    assert recipe.name == "mine"
    assert (training.steps, training.warmup_steps, training.batch_size) == (5, 2, 9)


def test_a_spec_with_options_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL.replace("pairs: shapes", "pairs: {a: {x: 1}}"))
    text = f"extends: {tmp_path / 'base.yaml'}\npairs: {{b: {{y: 2}}}}\n"
    assert load(default_registry(), _file(tmp_path, text)).pairs == "b[y=2]"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("mine.yaml", r"extends itself \(.*mine\.yaml -> .*mine\.yaml\)"),
        ("other.yaml", r"extends itself \(.*mine\.yaml -> .*other\.yaml -> .*mine\.yaml\)"),
        ("gone.yaml", r"gone\.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "other.yaml").write_text(f"extends: {tmp_path / 'mine.yaml'}\n")
    with pytest.raises(BenchError, match=message):
        load(default_registry(), _file(tmp_path, f"extends: {tmp_path / base}\n"))


def test_mistakes_in_what_is_extended_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"unknown recipe 'shape'\. Did you mean 'shapes'"):
        load(default_registry(), _file(tmp_path, "extends: shape\n"))
    with pytest.raises(
        BenchError, match=r"extends: expected a preset's name or a file, not \['sha"
    ):
        load(default_registry(), _file(tmp_path, "extends: [shapes]\n"))


def test_override_of_a_key_without_keys() -> None:
    with pytest.raises(BenchError, match=r"'pairs' holds no keys"):
        load(default_registry(), "shapes", {"pairs.x": 1})


def test_validate_names_its_source() -> None:
    with pytest.raises(BenchError, match=r"^somewhere: "):
        validate({}, "somewhere")
