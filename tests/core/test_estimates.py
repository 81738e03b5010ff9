from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from bench import Prompt, PromptSet
from bench.api.training import TrainingBudget
from bench.recipe.recipe import validate
from bench.registry.registry import Entry, Registry
from bench.running import planning
from bench.running.estimates import (
    Estimate,
    StageGroup,
    encoded_gb,
    estimate,
    facts,
    facts_table,
    split,
    training_memory_gb,
)
from bench.running.plan import Plan
from bench.store.store import Cost, Store
from tests import toy


@dataclass(frozen=True, kw_only=True)
class FarPrompts(PromptSet):
    """Prompts that would have to be downloaded."""

    name: ClassVar[str] = "far"

    def load(self) -> tuple[Prompt, ...]:
        raise AssertionError("a plan that is only printed downloads nothing")

    def published_count(self) -> int | None:
        return 1632


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimates")
    toy.write_pairs(folder / "pairs.parquet")
    toy.write_prompts(folder / "prompts.tsv")
    return folder


def _plan(folder: Path, *, download: bool = True, **changes: Any) -> Plan:
    """A plan on Stable Diffusion, which planning alone does not read."""
    data: dict[str, Any] = {
        "name": "estimated",
        "backbone": "sd15[dtype=fp16]",
        "pairs": str(folder / "pairs.parquet"),
        "prompts": [str(folder / "prompts.tsv")],
        "scorers": ["channel"],
        "label_scorers": ["channel"],
        "methods": ["dpo"],
        "training": {"steps": 3, "batch_size": 4},
        "sampling": {"steps": 2, "guidance": 2.0},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(data.get(key), dict) else value
    far = Entry(kind="prompt_sets", cls=FarPrompts, package="toys", package_version="1")
    registry = Registry([*toy.registry().entries(), far])
    return planning.make(validate(data, "test"), registry, download=download)


def _store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _seconds(found: Estimate, name: str) -> float:
    return next(group.seconds for group in found.groups if group.name == name)


@pytest.mark.parametrize(
    ("micro", "processes", "words"),
    [
        (None, 1, "10 pairs an optimiser step (10 at a time x 1 accumulated x 1 process)"),
        (4, 1, "10 pairs an optimiser step (4 at a time x 3 accumulated x 1 process)"),
        (4, 2, "10 pairs an optimiser step (4 at a time x 2 accumulated x 2 processes)"),
        (4, 8, "10 pairs an optimiser step (2 at a time x 1 accumulated x 8 processes)"),
    ],
)
def test_the_effective_batch_in_words(micro: int | None, processes: int, words: str) -> None:
    training = TrainingBudget(steps=1, batch_size=10, micro_batch_size=micro)
    assert split(training, processes) == words


GB_A_BYTE = 0.85952
"""What one byte for each weight of SD 1.5's U-Net takes."""


@pytest.mark.parametrize(
    ("before", "after", "gb"),
    [
        ({}, {"training": {"optimizer": "adamw8bit"}}, -6 * GB_A_BYTE),
        ({}, {"training": {"precision": "bf16"}}, 2 * GB_A_BYTE + (1.3 - 2) * 8 * 0.98),
        ({}, {"methods": ["dpo[reference=ema]"]}, 4 * GB_A_BYTE),
        ({"methods": ["dpo[reference=ema]"]}, {"methods": ["balanced"]}, -4 * GB_A_BYTE),
        ({"methods": ["balanced"]}, {"methods": ["balanced"], "training": {"steps": 20}}, 3.43808),
        ({}, {"methods": ["dpo", "sft"]}, 0.0),
        ({}, {"training": {"micro_batch_size": 1}}, -6 * 2 * 0.98),
        ({}, {"training": {"gradient_checkpointing": True}}, -0.8 * 8 * 2 * 0.98),
        (
            {"training": {"lora_rank": 1, "precision": "fp16"}},
            {"training": {"lora_rank": 9, "precision": "fp16"}},
            8 * (4 + 4 + 8) * 0.199296e-3,
        ),
    ],
)
def test_what_changes_the_memory_of_training(
    folder: Path, before: dict[str, Any], after: dict[str, Any], gb: float
) -> None:
    memory = [training_memory_gb(_plan(folder, **changes), 1) for changes in (before, after)]
    assert memory[0] is not None
    assert memory[1] is not None
    assert memory[1] - memory[0] == pytest.approx(gb, abs=1e-3)


@pytest.mark.parametrize(
    ("backbone", "training", "low", "high"),
    [
        # As reported by users of diffusers' and others' training scripts, with room for the
        # reference that these do not hold.
        (
            "sd15[dtype=fp16]",
            {"optimizer": "adamw8bit", "gradient_checkpointing": True, "precision": "fp16"},
            12,
            24,
        ),
        ("sd15[dtype=fp16]", {"batch_size": 8}, 24, 80),
        (
            "sdxl[dtype=fp16]",
            {"optimizer": "adafactor", "gradient_checkpointing": True, "precision": "fp16"},
            40,
            80,
        ),
        ("sdxl[dtype=fp16]", {"precision": "fp16"}, 60, 90),
        (
            "sdxl[dtype=fp16]",
            {"lora_rank": 64, "gradient_checkpointing": True, "precision": "fp16"},
            8,
            24,
        ),
    ],
)
def test_memory_agrees_with_what_is_known(
    folder: Path, backbone: str, training: dict[str, Any], low: float, high: float
) -> None:
    plan = _plan(folder, backbone=backbone, training={"batch_size": 1, **training})
    memory = training_memory_gb(plan, 1)
    assert memory is not None
    assert low < memory < high


def test_no_memory_where_nothing_is_trained_or_known(folder: Path) -> None:
    assert training_memory_gb(_plan(folder, methods=["base"]), 1) is None
    assert training_memory_gb(_plan(folder, backbone="shapes"), 1) is None


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({}, 12 * 2 * 2 * 4 * 64 * 64 * 2),
        ({"framing": {"flip": True}}, 12 * 2 * 2 * 2 * 4 * 64 * 64 * 2),
        ({"backbone": "sdxl"}, 12 * 2 * 2 * 4 * 128 * 128 * 4),
        ({"filters": {"max_pairs": 5}}, 5 * 2 * 2 * 4 * 64 * 64 * 2),
        ({"methods": ["base"]}, 0),
    ],
)
def test_latents_on_disk_are_counted(folder: Path, changes: dict[str, Any], numbers: int) -> None:
    assert encoded_gb(_plan(folder, **changes)) == pytest.approx(numbers / 1e9)


def test_training_counts_backward_passes(folder: Path, tmp_path: Path) -> None:
    store, images = _store(tmp_path), 3 * 4 * 2
    rate = _plan(folder).backbone.seconds_per_evaluation

    def seconds(**changes: Any) -> float:
        return _seconds(estimate(_plan(folder, **changes), store, frozenset()), "train")

    assert seconds() == pytest.approx(rate * images * (2 + 2))
    assert seconds(methods=["sft"]) == pytest.approx(rate * images / 2 * (1 + 2))
    checkpointed = seconds(training={"gradient_checkpointing": True})
    assert checkpointed == pytest.approx(rate * images * (2 + 3))
    inversion = seconds(methods=["dpo[trajectory=ddim_inversion[steps=1]]"])
    assert inversion == pytest.approx(rate * images * (2 + 1 + 2))


def test_processes_share_the_time_but_not_the_passes(folder: Path, tmp_path: Path) -> None:
    plan, store = _plan(folder), _store(tmp_path)
    one, four = (estimate(plan, store, frozenset(), processes=n) for n in (1, 4))
    for alone, shared in zip(one.groups, four.groups, strict=True):
        assert shared.seconds == pytest.approx(alone.seconds / 4)
        assert shared.nfe == alone.nfe


def test_finished_stages_give_the_rate_of_those_to_come(folder: Path, tmp_path: Path) -> None:
    plan, store = _plan(folder, sampling={"image_seeds": [0, 1]}), _store(tmp_path)
    done = next(stage for stage in plan.stages if stage.name == "sample")
    store.begin(done.name, done.key)
    partial = store.partial(done.key)
    cost = Cost(seconds=10.0, nfe=done.nfe, peak_memory_mb=0.0, processes=2)
    store.commit("sample", done.key, partial, cost, {})
    (group,) = (
        group
        for group in estimate(plan, store, frozenset({done.key}), processes=5).groups
        if group.name == "sample"
    )
    assert (group.stages, group.cached, group.measured) == (4, 1, True)
    assert group.seconds == pytest.approx(3 * 10.0 * 2 / 5)
    assert group.nfe == 3 * done.nfe


def test_a_plan_to_print_takes_official_counts(folder: Path, tmp_path: Path) -> None:
    plan = _plan(folder, download=False, prompts=["far", str(folder / "prompts.tsv")])
    assert plan.absent == {"far"}
    assert len(set(plan.prompts[0].texts)) == 1632
    told = dict(facts(plan, 1))
    assert told["prompts"] == "far 1,632*, prompts.tsv 5 (* official count; not downloaded)"
    assert told["pairs"] == "pairs.parquet 12"
    found = estimate(plan, _store(tmp_path), frozenset())
    assert found.cells[0].nfe == 2 * 2 * (1632 + 5)


def test_facts_name_filters_batch_and_hardware(folder: Path) -> None:
    filters = {"ties": "drop", "max_pairs": 3}
    told = dict(facts(_plan(folder, filters=filters), 8))
    assert told["backbone"] == "sd15[dtype=fp16], 512 pixels"
    assert told["pairs"] == "pairs.parquet 12; filters ties=drop, max_pairs=3"
    assert told["effective batch"].startswith("4 pairs")
    assert told["times"].startswith("rough, for 8 A100 GPUs in 16 bit")
    assert set(dict(facts(_plan(folder, methods=["base"]), 1))) == {"backbone", "prompts", "times"}


def test_facts_are_printed_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=120).print(facts_table(_plan(folder), 1))
    assert "sd15[dtype=fp16], 512 pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7, "7 s"),
        (150, "2.5 min"),
        (7200, "2.0 h"),
        (5 * 86400, "5.0 days"),
    ],
)
def test_times_in_words(seconds: float, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for measured in (True, False):
        group = StageGroup(
            name="train", stages=1, cached=0, nfe=1, seconds=seconds, measured=measured
        )
        Console(width=120).print(Estimate(groups=(group,), cells=()).table())
    measured_row, about_row = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith(" train")
    )
    assert measured_row.rstrip().endswith(f" {text}")
    assert f"about {text}" in about_row
    assert "about" not in measured_row
