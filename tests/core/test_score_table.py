"""`scores.parquet`: a row an image and scorer, with all that one selects rows by."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from bench.leaderboard.results import Cell, CellResult, record_path
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.outputs.score_table import parquet, score_table
from bench.running import planning
from bench.running.walk import Walk
from bench.store.store import Store
from tests import toy
from tests.leaderboard import small_board

COLUMNS = [
    "method",
    "label",
    "base",
    "train_seed",
    "prompt_set",
    "prompt_row",
    "image_seed",
    "scorer",
    "in_loop",
    "prompt",
    "group.category",
    "group.style",
    "score",
    "image",
    "protocol",
    "cell",
]
PROMPTS = {table.sha256: table for table in small_board.TABLES}


def _known(cell: CellResult) -> CellResult:
    evaluations = tuple(
        dataclasses.replace(part, samples=(f"{i}a" * 10, f"{i}b" * 10))
        for i, part in enumerate(cell.evaluations)
    )
    return dataclasses.replace(cell, evaluations=evaluations)


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    return [
        _known(small_board.cell("base")),
        small_board.cell("dpo", lift=0.3, label="Diffusion-DPO"),
        _known(small_board.cell("smpo", seed=1, in_loop=("colour",))),
    ]


@pytest.fixture(scope="module")
def frame(cells: list[CellResult]) -> pd.DataFrame:
    board: dict[Path, Cell] = {record_path(Path(), cell): cell for cell in cells}
    failure = small_board.failure("ipo")
    return score_table({**board, record_path(Path(), failure): failure}, PROMPTS)


def test_every_score_of_every_cell_has_its_row(
    cells: list[CellResult], frame: pd.DataFrame
) -> None:
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 3 * (40 + 20) * 2 * 3
    for cell in cells:
        mine = frame[frame["cell"] == cell.identity[:12]]
        assert set(mine["method"]) == {cell.method}
        assert set(mine["label"]) == {cell.label}
        assert set(mine["base"]) == {cell.base}
        for part, table in zip(cell.evaluations, small_board.TABLES, strict=True):
            for scorer, values in part.scores.items():
                rows = mine[(mine["prompt_set"] == table.name) & (mine["scorer"] == scorer)]
                assert tuple(rows["score"]) == values
                assert list(rows["prompt_row"]) == [
                    row for row in range(part.prompts) for _ in "01"
                ]
                assert list(rows["image_seed"]) == part.prompts * [0, 1]
                assert [table.texts[row] for row in rows["prompt_row"]] == list(rows["prompt"])
                assert set(rows["in_loop"]) == {scorer in cell.in_loop}
                assert set(rows["protocol"]) == {cell.protocol.digest[:12]}


def test_groups_are_columns_and_empty_where_a_set_has_none(frame: pd.DataFrame) -> None:
    parti, styles = (frame[frame["prompt_set"] == table.name] for table in small_board.TABLES)
    assert parti["group.style"].isna().all()
    assert styles["group.category"].isna().all()
    for rows, table, dimension in (
        (parti, small_board.PARTI, "category"),
        (styles, small_board.STYLES, "style"),
    ):
        groups = [table.groups[row][dimension] for row in rows["prompt_row"]]
        assert groups == list(rows[f"group.{dimension}"])


def test_images_are_named_where_they_are_known(frame: pd.DataFrame) -> None:
    assert set(frame.loc[frame["method"] == "dpo", "image"]) == {""}
    one = frame[(frame["method"] == "smpo") & (frame["scorer"] == "gold")].iloc[3]
    assert (one["prompt_row"], one["image_seed"]) == (1, 1)
    assert one["image"] == f"artefacts/sample/{'0b' * 10}/images/00001.png"


def test_train_seeds_are_numbers_and_none_where_nothing_was_trained(frame: pd.DataFrame) -> None:
    again = pd.read_parquet(io.BytesIO(parquet(frame)))
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    assert again["train_seed"].dtype == "Int64"
    assert again.loc[again["base"], "train_seed"].isna().all()
    assert set(again.loc[again["method"] == "smpo", "train_seed"]) == {1}


def test_without_any_score_the_columns_are_there() -> None:
    failure = small_board.failure("dpo")
    empty = score_table({record_path(Path(), failure): failure}, PROMPTS)
    assert list(empty.columns) == [name for name in COLUMNS if not name.startswith("group.")]
    assert not len(pd.read_parquet(io.BytesIO(parquet(empty))))


def test_the_images_of_a_run_lie_where_its_table_says(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, methods=["base"], sampling={"image_seeds": [1, 0]})
    plan, store = planning.make(recipe, toy.registry()), Store(tmp_path / "store")
    outcome = Walk(plan.stages, store, "cpu", Progress(Console(quiet=True))).run(frozenset())
    writing.write(plan, store, tmp_path / "out", outcome)
    frame = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert frame["image"].nunique() == 2 * len(plan.prompts[0].texts)
    for _, row in frame.iterrows():
        with Image.open(store.root / row["image"]) as image:
            assert image.size == (16, 16)
        stage = plan.cells[0].samples[row["prompt_set"], row["image_seed"]]
        assert stage.key in row["image"]
