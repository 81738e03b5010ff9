"""A result is named by all that made it, and a board ranks one protocol at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import tables
from bench.leaderboard.names import shortened, wrapped
from bench.leaderboard.results import CellResult, record_path
from tests.leaderboard import small_board
from tests.leaderboard.small_board import EVALUATION, TRAINING, cell


def _scored(**scorers: Any) -> dict[str, Any]:
    scorers = {**EVALUATION.scorers, **scorers}
    return {"evaluation": dataclasses.replace(EVALUATION, scorers=scorers)}


def _trained(**changes: Any) -> dict[str, Any]:
    return {"training": dataclasses.replace(TRAINING, **changes)}


GOLD = EVALUATION.scorers["gold"]
OTHERWISE: list[dict[str, Any]] = [
    {"seed": 1},
    {"method": "dpo[beta=1]"},
    {"described": {"name": "dpo", "version": "2", "options": {"beta": 500.0}}},
    {"described": {"name": "dpo", "version": "1", "options": {"beta": 501.0}}},
    {"label_scorers": {"colour": {"name": "colour", "fingerprint": "1"}}},
    {"training": small_board.steps(11)},
    _trained(pairs={**TRAINING.pairs, "fingerprint": "other"}),
    _trained(filters={"ties": "drop"}),
    _trained(framing={"crop": "random"}),
    {"evaluation": small_board.sampled(steps=21)},
    {"evaluation": small_board.sampled(guidance=1.0)},
    _scored(gold={**GOLD, "version": "2"}),
    _scored(gold={**GOLD, "fingerprint": "2"}),
    _scored(gold={**GOLD, "package": "other 2"}),
    _scored(more=GOLD),
    {
        "evaluation": dataclasses.replace(
            EVALUATION, backbone={**EVALUATION.backbone, "fingerprint": "2"}
        )
    },
]
"""Whatever differs in how a cell was made."""


@pytest.mark.parametrize("number", range(len(OTHERWISE)))
def test_whatever_makes_a_cell_names_its_file(number: int) -> None:
    ours, theirs = cell("dpo"), dataclasses.replace(cell("dpo"), **OTHERWISE[number])
    assert ours.identity != theirs.identity
    assert record_path(Path(), ours) != record_path(Path(), theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "other"},
        {"pairs": "renamed"},
        {"backbone": "renamed"},
        {"label": "DPO"},
        {"provenance": {"device": "cuda"}},
        {"held_out": ()},
    ],
)
def test_names_and_machines_make_no_other_cell(changes: dict[str, Any]) -> None:
    assert cell("dpo").identity == cell("dpo", **changes).identity


def test_what_was_not_read_from_a_file_yet_is_the_same_cell(tmp_path: Path) -> None:
    from bench.leaderboard.results import load_cell, save_record

    ours = cell("dpo", seed=3)
    loaded = load_cell(save_record(tmp_path, ours))
    assert loaded.identity == ours.identity
    assert loaded.protocol.digest == ours.protocol.digest


@pytest.mark.parametrize("number", [i for i, c in enumerate(OTHERWISE) if "training" in c])
def test_trainings_of_other_protocols_are_never_ranked_together(
    tmp_path: Path, number: int
) -> None:
    small_board.save(tmp_path, [cell("base"), cell("dpo"), cell("sft", **OTHERWISE[number])])
    found = tables.build(tmp_path).sections
    assert [[row.method for row in section.rows if not row.base] for section in found] in (
        [["dpo"], ["sft"]],
        [["sft"], ["dpo"]],
    )
    assert len({section.heading for section in found}) == 2


@pytest.mark.parametrize("changes", [{"seed": 1}, OTHERWISE[2], OTHERWISE[3], OTHERWISE[4]])
def test_method_and_seed_are_what_a_ranking_compares(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    small_board.save(tmp_path, [cell("base"), cell("dpo"), cell("sft", **changes)])
    assert len(tables.build(tmp_path).sections) == 1


def test_headings_say_in_words_what_differs(tmp_path: Path) -> None:
    records = [
        cell("base"),
        *(cell("dpo", training=small_board.steps(steps)) for steps in (500, 3, 2000)),
    ]
    text = tables.render_markdown(tables.build(small_board.save(tmp_path, records)))
    headings = [line[3:] for line in text.splitlines() if line.startswith("## tiny")]
    assert headings == [f"tiny, pairs of shapes, {steps} steps" for steps in (3, 500, 2000)]
    assert "this section's differs from that of others here: 500 steps." in text


def test_many_differences_are_cut_in_the_heading_and_told_in_full(tmp_path: Path) -> None:
    options = {"steps": 3, "batch_size": 4, "lora_rank": 2, "tf32": True}
    training = dataclasses.replace(TRAINING, options=options)
    records = [cell("base"), cell("dpo"), cell("dpo", training=training)]
    section = tables.build(small_board.save(tmp_path, records)).sections[0]
    assert section.heading == "tiny, pairs of shapes, batches of 4, lora_rank 2, 3 steps, ..."
    assert section.differs == "batches of 4, lora_rank 2, 3 steps, tf32 True"


def test_evaluations_differ_in_words_too(tmp_path: Path) -> None:
    more = _scored(more={"name": "more", "version": "1"})
    other = _scored(gold={**GOLD, "version": "2"})
    records = [cell(m, **c) for m in ("base", "dpo") for c in ({}, more, other)]
    found = tables.build(small_board.save(tmp_path, records)).sections
    assert [section.heading.removeprefix("tiny, pairs of shapes, ") for section in found] == [
        "scored by colour, gold, more, shape, gold version 1",
        "scored by colour, gold, shape, gold version 1",
        "scored by colour, gold, shape, gold version 2",
    ]


def test_what_is_not_trained_stands_in_every_section_of_its_evaluation(tmp_path: Path) -> None:
    untrained = {"training": None, "pairs": ""}
    records = [
        cell("base"),
        cell("base", evaluation=small_board.sampled(steps=9)),
        cell("dpo"),
        cell("dpo", training=small_board.steps(3)),
        cell("pretrained:x", **untrained),
        small_board.failure("pretrained:y", **untrained),
        cell("pretrained:z", evaluation=small_board.sampled(steps=9), **untrained),
    ]
    found = tables.build(small_board.save(tmp_path, records)).sections
    members = {section.heading: {row.method for row in section.rows} for section in found}
    everywhere = {"base", "pretrained:x", "pretrained:y"}
    assert members == {
        "tiny, nothing trained": {"base", "pretrained:z"},
        "tiny, pairs of shapes, 3 steps": {"dpo", *everywhere},
        "tiny, pairs of shapes, 10 steps": {"dpo", *everywhere},
    }


def test_methods_of_one_spec_that_are_not_the_same_are_told_apart(tmp_path: Path) -> None:
    records = [cell("base"), cell("dpo"), cell("dpo", seed=1), cell("dpo", **OTHERWISE[2])]
    built = tables.build(small_board.save(tmp_path, records))
    (section,) = built.sections
    rows = [row for row in section.rows if not row.base]
    assert sorted(row.seeds for row in rows) == [(0,), (0, 1)]
    assert {row.shown for row in rows} == {f"dpo #{row.variant}" for row in rows}
    text = tables.render_markdown(built)
    assert "differ in method.version (" in text
    for row in rows:
        assert f"`dpo #{row.variant}`" in text
        assert f",dpo,{row.variant}," in tables.render_csv(built)


@pytest.mark.parametrize(
    ("key", "ours", "theirs"),
    [("device", "cpu", "cuda:1"), ("torch", "2.1", "2.2"), ("python", "3.11", "3.13")],
)
def test_what_was_made_elsewhere_is_said(tmp_path: Path, key: str, ours: str, theirs: str) -> None:
    records = [
        cell("base", provenance={key: ours}),
        cell("dpo", provenance={key: ours}),
        cell("sft", provenance={key: theirs}),
    ]
    text = tables.render_markdown(tables.build(small_board.save(tmp_path, records)))
    notes = text.replace("`dpo`, `base`", "`base`, `dpo`")
    assert f"Not all made alike, {key}: {ours} (`base`, `dpo`)." in notes
    assert f"Not all made alike, {key}: {theirs.split(':')[0]} (`sft`)." in notes


def test_two_gpus_of_a_machine_are_alike(tmp_path: Path) -> None:
    records = [
        cell("base", provenance={"device": "cuda:0"}),
        cell("dpo", provenance={"device": "cuda:1"}),
    ]
    text = tables.render_markdown(tables.build(small_board.save(tmp_path, records)))
    assert "Not all made alike" not in text


def test_the_same_cells_in_any_order_give_the_same_board(tmp_path: Path) -> None:
    records: list[CellResult] = [
        cell("base"),
        cell("dpo"),
        cell("dpo", **OTHERWISE[2]),
        cell("dpo", training=small_board.steps(3)),
        cell("base", evaluation=small_board.sampled(steps=9)),
    ]
    one = small_board.save(tmp_path / "one", [*records])
    two = small_board.save(tmp_path / "two", [*reversed(records)])
    assert tables.render(tables.build(one)) == tables.render(tables.build(two))


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["dpo", "pretrained:owner/name"], ["dpo", "pretrained:owner/name"]),
        (
            ["pretrained:/data/runs/sd15/checkpoints/smpo-seed0"],
            ["pretrained:…/checkpoints/smpo-seed0"],
        ),
        (
            ["pretrained:/data/a/x/unet", "pretrained:/data/b/x/unet", "pretrained:/data/c/y/unet"],
            ["pretrained:…/a/x/unet", "pretrained:…/b/x/unet", "pretrained:…/y/unet"],
        ),
        (
            ["sd15[unet=/data/runs/one/unet,dtype=fp16]"],
            ["sd15[unet=…/one/unet,dtype=fp16]"],
        ),
        (["/a/b/c/d", "…/c/d"], ["…/b/c/d", "…/c/d"]),
    ],
)
def test_long_paths_are_cut_to_what_tells_them_apart(specs: list[str], names: list[str]) -> None:
    assert list(shortened(specs).values()) == names


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("dpo", ["dpo"]),
        ("pretrained:…/checkpoints/smpo-seed0", ["pretrained:…/", "checkpoints/smpo-seed0"]),
        (
            "balanced[labels=majority_vote[ties=human]]",
            ["balanced[labels=", "majority_vote[ties=", "human]]"],
        ),
        ("x" * 40, ["x" * 40]),
        ("", [""]),
    ],
)
def test_names_break_behind_their_marks(name: str, broken: list[str]) -> None:
    assert wrapped(name) == broken
