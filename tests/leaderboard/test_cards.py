from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.leaderboard import standings
from bench.leaderboard.cards import BaseModel, model_card
from bench.leaderboard.results import CellResult
from tests.leaderboard import small_board

DPO = {
    "name": "dpo",
    "options": {
        "labels": {"name": "human", "options": {"ties": "drop"}},
        "beta": 2000.0,
    },
}


@pytest.fixture
def cell(tmp_path: Path) -> tuple[CellResult, standings.Row]:
    training = replace(small_board.TRAINING, options={"steps": 10, "lora_rank": None})
    record = small_board.cell(
        "dpo", lift=0.3, in_loop=("colour",), described=DPO, training=training
    )
    small_board.save(tmp_path, [small_board.cell("base"), record])
    (section,) = standings.build(tmp_path).sections
    return record, next(row for row in section.seed_rows if row.method == "dpo")


def test_the_card_says_what_it_is_and_how_it_did(cell: tuple[CellResult, standings.Row]) -> None:
    record, row = cell
    base = BaseModel(
        name="owner/model", licence="creativeml-openrail-m", pipeline="StableDiffusionPipeline"
    )
    card = model_card(record, row, base, adapter=False)
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": "owner/model",
        "license": "creativeml-openrail-m",
        "tags": ["text-to-image", "preference-alignment"],
    }
    rate = row.scores["colour"]
    assert f"| colour | {rate.win_rate:.1%} | [{rate.low:.1%}, {rate.high:.1%}] | 60 |" in body
    assert "its rewards labelled the training pairs" in body
    assert "| method.labels | human |" in body
    assert "| method.labels.ties | drop |" in body
    assert "| steps | 10 |" in body
    assert "lora_rank" not in body


@pytest.mark.parametrize("adapter", [False, True])
def test_the_code_in_the_card_is_python(
    cell: tuple[CellResult, standings.Row], adapter: bool
) -> None:
    base = BaseModel(name="./folder", licence="unknown", pipeline="StableDiffusionXLPipeline")
    card = model_card(*cell, base, adapter=adapter)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("load_lora_weights" in code) == adapter
    header = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in header
    assert "license" not in header
    assert ("lora" in header["tags"]) == adapter
