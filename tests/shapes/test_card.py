"""The card of a checkpoint of the embedded world: its code is run as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_plugins.shapes.plugin import ShapesBackbone
from diffusers import StableDiffusionPipeline

from bench.diffusion import lora
from bench.leaderboard import comparing
from bench.outputs.cards import model_card
from bench.outputs.checkpoint_folders import is_adapter, write_checkpoint
from bench.store.store import Cost, Store
from tests.leaderboard import small_board

CHECK = """
import torch
x = torch.zeros(1, 4, 16, 16)
told = torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)
with torch.no_grad():
    print(float(pipeline.unet(x, 300, encoder_hidden_states=told).sample.double().sum()))
"""


@pytest.mark.parametrize("adapter", [False, True])
def test_the_code_of_a_shapes_card_loads_the_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    adapter: bool,
) -> None:
    backbone, store = ShapesBackbone(), Store(tmp_path / "store")
    policy = backbone.load("cpu")
    if adapter:
        lora.add(policy.denoiser, lora.LoraSettings(rank=2, alpha=4.0), seed=0)
    trained = lora.parameters(policy.denoiser) if adapter else [*policy.denoiser.parameters()]
    with torch.no_grad():
        for weight in trained:
            weight.add_(0.01)
    partial = store.begin("train", "k")
    policy.save_checkpoint(partial.out)
    artefact = store.commit("train", "k", partial, Cost(), {}).path

    record = small_board.cell("dpo", lift=0.3)
    small_board.save(tmp_path / "board", [small_board.cell("base"), record])
    (section,) = comparing.build(tmp_path / "board").sections
    row = next(row for row in section.seed_rows if row.method == "dpo")
    card = model_card(record, row, backbone.start_model, "unknown", adapter=is_adapter(artefact))
    assert str(Path.home()) not in card
    write_checkpoint(tmp_path / "out", artefact, card)

    code = card.split("```python\n")[1].split("```")[0]
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "out")
    exec(code + CHECK, {})
    printed = capsys.readouterr().out
    names = {"torch": torch, "pipeline": type("", (), {"unet": policy.denoiser})}
    expected: list[float] = []
    exec(CHECK.replace("print(", "expected.append("), names | {"expected": expected})
    assert float(printed.split()[-1]) == pytest.approx(expected[0], rel=1e-4)
    untouched = StableDiffusionPipeline.from_pretrained(ShapesBackbone().load("cpu").files.folder)
    names["pipeline"], before = untouched, []
    exec(CHECK.replace("print(", "expected.append("), names | {"expected": before})
    assert before[0] != pytest.approx(expected[0], rel=1e-4)
