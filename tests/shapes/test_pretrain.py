"""The pretraining in small: every stage runs, is skipped when finished, and what it saves loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_plugins.shapes.pretrain import STAGES, Phase, PretrainConfig, pretrain

pytestmark = pytest.mark.slow

PHASE = Phase(steps=2, batch=4, lr=1e-3, weight_decay=1e-4)
TINY = PretrainConfig(
    pictures=64,
    checkpoint_every=1,
    vae=PHASE,
    decoder=PHASE,
    unet=PHASE,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    pretrain(TINY, folder / "work", folder / "assets" / "pipeline", lambda text: None)
    return folder


def test_diffusers_loads_and_runs_it_unchanged(built: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(built / "assets" / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red circle", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_a_finished_build_trains_nothing(built: Path) -> None:
    work = built / "work"
    before = {p: p.stat().st_mtime_ns for p in work.glob("*.json")}
    pretrain(TINY, work, built / "assets" / "pipeline", lambda text: None)
    assert {p: p.stat().st_mtime_ns for p in work.glob("*.json")} == before
    assert {f"{stage}.done.json" for stage in STAGES} <= {p.name for p in before}


def test_provenance_stands_beside_it(built: Path) -> None:
    facts = json.loads((built / "assets" / "provenance.json").read_text())
    assert facts["config"]["seed"] == TINY.seed
    assert facts["stages"]["unet"]["steps"] == 2
