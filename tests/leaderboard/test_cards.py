from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.api.kinds import PipelineLayout, StartModel
from bench.diffusion.files import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from bench.leaderboard import comparing
from bench.leaderboard.results import CellResult
from bench.leaderboard.standings import Row
from bench.outputs.cards import model_card
from tests.leaderboard import small_board

DPO = {
    "name": "dpo",
    "options": {
        "labels": {"name": "human", "options": {"ties": "drop"}},
        "beta": 2000.0,
    },
}


@pytest.fixture
def cell(tmp_path: Path) -> tuple[CellResult, Row]:
    training = replace(small_board.TRAINING, options={"steps": 10, "lora_rank": None})
    record = small_board.cell(
        "dpo", lift=0.3, in_loop=("colour",), described=DPO, training=training
    )
    small_board.save(tmp_path, [small_board.cell("base"), record])
    (section,) = comparing.build(tmp_path).sections
    return record, next(row for row in section.seed_rows if row.method == "dpo")


def test_the_card_says_what_it_is_and_how_it_did(cell: tuple[CellResult, Row]) -> None:
    record, row = cell
    start = StartModel(layout=STABLE_DIFFUSION, hub_id="owner/model", code="pipeline = 1")
    card = model_card(record, row, start, "creativeml-openrail-m", adapter=False)
    assert "# dpo on owner/model, train seed 0" in card
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
    assert "in-loop: the method reads it" in body
    assert "| method.labels | human |" in body
    assert "| method.labels.ties | drop |" in body
    assert "| steps | 10 |" in body
    assert "lora_rank" not in body


@pytest.mark.parametrize("adapter", [False, True])
def test_the_code_in_the_card_is_python(cell: tuple[CellResult, Row], adapter: bool) -> None:
    start = StartModel(layout=STABLE_DIFFUSION_XL, code="pipeline = 1")
    card = model_card(*cell, start, "unknown", adapter=adapter)
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("load_lora_weights" in code) == adapter
    header = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in header
    assert "license" not in header
    assert ("lora" in header["tags"]) == adapter


TRANSFORMER = PipelineLayout(
    pipeline="StableDiffusion3Pipeline", denoiser="SD3Transformer2DModel", part="transformer"
)


def test_another_denoiser_has_its_own_names(cell: tuple[CellResult, Row]) -> None:
    start = StartModel(
        layout=TRANSFORMER, code="pipeline = 1", dtype="torch.bfloat16", needs="a-package"
    )
    card = model_card(*cell, start, "unknown", adapter=False)
    assert "pip install a-package" in card
    code = card.split("```python\n")[1].split("```")[0]
    assert code.splitlines()[:2] == [
        "import torch",
        "from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline",
    ]
    assert "pipeline.transformer = SD3Transformer2DModel.from_pretrained(" in code
    assert 'subfolder="transformer", torch_dtype=torch.bfloat16' in code
    assert "unet" not in card.lower()
    without = replace(start, layout=replace(TRANSFORMER, loads_lora=False))
    card = model_card(*cell, without, "unknown", adapter=True)
    assert "pipeline.transformer.load_lora_adapter(" in card
    assert 'prefix="transformer"' in card


def test_a_form_of_its_own_names_no_pipeline(cell: tuple[CellResult, Row]) -> None:
    card = model_card(*cell, None, "unknown", adapter=False)
    assert "diffusers" not in card
    assert "pretrained:FOLDER" in card
