"""The shipped recipes: valid, plannable without the network, and true to their sources."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bench_plugins.recipes.plugin import FOLDER

from bench.api.pair_method import PairMethod
from bench.cli import main as cli
from bench.recipe.recipe import Recipe, load, validate
from bench.registry.registry import default_registry
from bench.running import planning
from bench.running.estimates import encoded_gb, facts, training_memory_gb
from bench.running.plan import Plan

NAMES = [
    "balanced-sd15",
    "diffusion-dpo-sd15",
    "diffusion-dpo-sdxl",
    "eval-sd15",
    "eval-sdxl",
    "sd15",
    "sd15-24gb",
    "sd15-80gb",
    "sd15-generated",
    "sd21",
    "sdxl",
    "sdxl-24gb",
    "sdxl-80gb",
    "smpo-sd15-paper",
    "smpo-sd15-reference-code",
    "smpo-sdxl-paper",
    "smpo-sdxl-reference-code",
]
DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No socket reaches anything, and nothing was downloaded before."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a plan that is only printed asks the network for nothing")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def _recipe(name: str, **overrides: object) -> Recipe:
    return load(default_registry(), name, overrides)


def _plan(name: str) -> Plan:
    return planning.make(_recipe(name), default_registry(), download=False)


def test_every_file_is_a_recipe_with_a_summary() -> None:
    found = {e.cls.name: e.summary for e in default_registry().entries("recipes")}
    assert sorted(file.stem for file in FOLDER.glob("*.yaml")) == NAMES
    for name in NAMES:
        assert found[name].endswith("."), name
        assert found[name] in (FOLDER / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_its_written_form_stands_alone(name: str) -> None:
    recipe = _recipe(name)
    assert recipe.name == name
    assert "extends" not in recipe.to_yaml()
    again = validate(recipe.model_dump(mode="json"), "written")
    assert again == recipe


def _rows() -> dict[str, list[str]]:
    """The first table of the docs: recipe -> its other cells."""
    table = DOCS.read_text(encoding="utf-8").split("\n## ")[0]
    rows = (line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `"))
    return {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in rows}


def test_the_docs_list_every_recipe_and_no_other() -> None:
    assert sorted(_rows()) == sorted([*NAMES, "shapes"])


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("eval-")])
def test_the_docs_state_what_the_plan_does(name: str) -> None:
    plan = _plan(name)
    training, memory, disk = plan.recipe.training, training_memory_gb(plan, 1), encoded_gb(plan)
    _, shown, gpu, _, latents = _rows()[name]
    assert shown == f"{training.steps * training.batch_size:,}"
    assert gpu == f"{memory:.0f} GB"
    assert latents == (f"{disk:,.0f} GB" if disk >= 1 else "< 1 GB")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_planned_without_the_network(name: str) -> None:
    plan = _plan(name)
    official = {
        "parti": 1632,
        "hpdv2": 3200,
        "pickapic-test": 500,
        "drawbench": 200,
        "pickapic[path=pickapic_v2,split=train]": 959_040,
    }
    assert plan.absent <= official.keys()
    for table in plan.prompts:
        expected = min(official[table.name], plan.recipe.limit or official[table.name])
        assert len(table.texts) == expected
    told = dict(facts(plan, 1))
    assert "not downloaded" in told["prompts"]
    if any(cell.train for cell in plan.cells):
        assert "not downloaded" in told["pairs"]
    if plan.recipe.pairs != "generated" and "pairs" in told:
        assert " 959,040*" in told["pairs"]


@pytest.mark.usefixtures("_no_network")
def test_what_was_downloaded_before_is_planned_as_it_is(tmp_path: Path) -> None:
    revision = "ad794cba698c253ffdb6d18eff3fc87b004c1135"
    folder = tmp_path / "hub" / "datasets--sayakpaul--drawbench" / "snapshots" / revision
    folder.mkdir(parents=True)
    text = "Prompts,Category\na red cube,Colors\ntwo cats,Counting\n"
    (folder / "DrawBench Prompts - Sheet1.csv").write_text(text)
    plan = _plan("sd15-generated")
    assert plan.absent == {"hpdv2", "parti"}
    assert plan.prompts[1].texts == ("a red cube", "two cats")
    assert dict(facts(plan, 1))["prompts"].startswith("parti 500*, drawbench 2 (*")


@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("sd15-24gb", 24),
        ("sdxl-24gb", 24),
        ("sd15-generated", 24),
        *((name, 80) for name in NAMES if name[:4] != "eval" and "24gb" not in name),
    ],
)
@pytest.mark.usefixtures("_no_network")
def test_training_fits_its_gpu(name: str, gb: int) -> None:
    memory = training_memory_gb(_plan(name), 1)
    assert memory is not None
    # A card keeps some of its memory for itself, and GB here are 10^9 bytes.
    assert memory < 0.93 * gb


@pytest.mark.usefixtures("_no_network")
def test_small_budgets_need_little_disk() -> None:
    assert 200 < encoded_gb(_plan("sd15")) < 300
    for name in ("sd15-24gb", "sd15-80gb", "sdxl-24gb", "sdxl-80gb", "sd15-generated"):
        assert encoded_gb(_plan(name)) < 30, name


def _trained(plan: Plan) -> dict[str, PairMethod]:
    methods = (cell.resolved for cell in plan.cells if cell.train)
    return {method.name: method for method in methods if isinstance(method, PairMethod)}


# Copied from the launchers and notes named in the files, not from the files.
DPO = {"batch_size": 2048, "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "fp16"}
SMPO = {**DPO, "batch_size": 1024, "steps": 200, "warmup_steps": 100, "prompt_dropout": 0.2}
ADAFACTOR = {"optimizer": "adafactor", "gradient_checkpointing": True}


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    ("name", "method", "training", "options"),
    [
        (
            "diffusion-dpo-sd15",
            "dpo",
            {**DPO, "optimizer": "adamw", "steps": 2000, "warmup_steps": 500},
            {"beta": 5000, "learning_rate": 1e-8 * 2048, "trajectory": "Forward()"},
        ),
        (
            "diffusion-dpo-sdxl",
            "dpo",
            {**DPO, **ADAFACTOR, "steps": 2000, "warmup_steps": 200},
            {"beta": 5000, "learning_rate": 1e-8 * 2048, "labels": "Human(ties='drop')"},
        ),
        (
            "smpo-sd15-paper",
            "smpo",
            {**SMPO, "optimizer": "adamw"},
            {
                "beta": 2000,
                "learning_rate": 1e-8 * 1024,
                "loss": "SmoothedSigmoid(gamma=10.0)",
                "trajectory": "Renoise(steps=9, preset='exact', renoise_steps=1)",
                "labels": "Smoothed(scorers=(), low=None, high=None, temperature=1.0)",
            },
        ),
        (
            "smpo-sd15-reference-code",
            "smpo",
            {**SMPO, "optimizer": "adamw"},
            {
                "beta": 2000,
                "learning_rate": 1e-8 * 1024,
                "trajectory": "Renoise(steps=5, preset='reference-code', renoise_steps=1)",
                "labels": "Smoothed(scorers=(), low=11.54353, high=28.20157, temperature=1.0)",
            },
        ),
        (
            "smpo-sdxl-paper",
            "smpo",
            {**SMPO, **ADAFACTOR},
            {
                "beta": 5000,
                "learning_rate": 1e-8 * 1024,
                "trajectory": "Renoise(steps=9, preset='exact', renoise_steps=1)",
            },
        ),
        (
            "smpo-sdxl-reference-code",
            "smpo",
            {**SMPO, **ADAFACTOR},
            {
                "beta": 5000,
                "learning_rate": 1e-8 * 1024,
                "trajectory": "Renoise(steps=10, preset='reference-code', renoise_steps=1)",
                "labels": "Smoothed(scorers=(), low=11.54353, high=28.20157, temperature=1.0)",
            },
        ),
        (
            "balanced-sd15",
            "balanced",
            DPO,
            {
                "labels": "MajorityVote(scorers=(), ties='drop', priority='', dead_zone=0.0)",
                "reference": "HardCopy(every=20)",
            },
        ),
    ],
)
def test_published_budgets_are_those_of_their_sources(
    name: str, method: str, training: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    plan = _plan(name)
    budget = plan.recipe.training.model_dump()
    assert {key: budget[key] for key in training} == training
    trained = _trained(plan)[method]
    for option, expected in options.items():
        found = getattr(trained, option)
        if isinstance(expected, str):
            assert repr(found) == expected
        else:
            assert found == pytest.approx(expected)
    sources = plan.recipe
    assert sources.filters.ties == "drop"
    if method != "balanced":
        assert (sources.framing.crop, sources.framing.flip) == ("center", True)


@pytest.mark.usefixtures("_no_network")
def test_smpo_presets_read_pickscore_alone() -> None:
    for name in (name for name in NAMES if name.startswith("smpo-")):
        assert [cell.in_loop for cell in _plan(name).cells if cell.train] == [("pickscore",)]


def test_evaluation_is_the_regime_that_readers_compare_with() -> None:
    for name in (name for name in NAMES if name not in ("sd15-generated",)):
        recipe = _recipe(name)
        sampling = recipe.sampling
        assert (sampling.steps, sampling.guidance, sampling.image_seeds) == (50, 7.5, (0,))
        assert recipe.prompts == ("parti", "hpdv2", "pickapic-test")
        assert set(recipe.scorers) == {
            "pickscore",
            "hpsv2.1",
            "image_reward",
            "clip-h14",
            "aesthetic",
        }


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", ["eval-sd15", "eval-sdxl"])
def test_an_evaluation_trains_nothing(name: str) -> None:
    assert {stage.name for stage in _plan(name).stages} == {"sample", "describe", "score"}


def test_generated_pairs_come_from_other_prompts_than_the_evaluation() -> None:
    recipe = _recipe("sd15-generated")
    assert recipe.generate is not None
    assert recipe.pairs == "generated"
    assert not set(recipe.generate.prompts) & set(recipe.prompts)


def test_one_scorer_that_people_taught_stays_out_of_every_loop() -> None:
    for name in NAMES:
        recipe = _recipe(name)
        assert "image_reward" in set(recipe.scorers) - set(recipe.label_scorers)


@pytest.mark.usefixtures("_no_network")
def test_the_dry_run_of_sd15_shows_what_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ["bench", "run", "--recipe", "sd15", "--dry-run", "--num-processes", "8"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "Plan of recipe 'sd15': 4 cells, 93 stages, 0 of them cached." in out
    for text in (
        "959,040*",
        "parti 1,632*, hpdv2 3,200*, pickapic-test 500*",
        "(* official count; not downloaded)",
        "2,048 pairs an optimiser step (16 at a time x 16 accumulated x 8 processes)",
        "GB a process while training",
        "rough, for 8 A100 GPUs in 16 bit",
        "smpo, seed 0",
    ):
        assert text in out, text
    train = next(line for line in out.splitlines() if line.startswith(" train "))
    assert re.search(r" 3 +0 +4\d,\d{3},\d{3} +about [\d.]+ h", train)
    assert max(map(len, out.splitlines())) <= 120
    assert not list(tmp_path.iterdir())


def test_a_real_run_says_that_the_data_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sys.argv", ["bench", "run", "--recipe", "sd15"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "give" in line
