from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from bench.api.schedule import DdimSettings, NoiseSchedule
from bench.diffusion.checkpoints import _DTYPE
from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
from tests import tiny


@dataclass(frozen=True, kw_only=True)
class Family:
    """A pipeline of true structure on disk, and both ways to load it."""

    name: str
    folder: Path
    policy: type[PipelinePolicy]
    pipeline: Any

    def load(self, **options: Any) -> PipelinePolicy:
        return self.policy.load(self.folder, "cpu", **options)

    def diffusers(self, dtype: torch.dtype = torch.float32, **parts: Any) -> Any:
        pipeline = self.pipeline.from_pretrained(self.folder, **{_DTYPE: dtype}, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


_SAVE = {"sd1": tiny.save_tiny_sd1, "sd2": tiny.save_tiny_sd2, "sdxl": tiny.save_tiny_sdxl}


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    root = tmp_path_factory.mktemp("families")
    return {
        name: Family(
            name=name,
            folder=save(root / name),
            policy=StableDiffusionXLPolicy if name == "sdxl" else StableDiffusionPolicy,
            pipeline=StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline,
        )
        for name, save in _SAVE.items()
    }


@pytest.fixture(params=sorted(_SAVE))
def family(families: dict[str, Family], request: pytest.FixtureRequest) -> Family:
    return families[request.param]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture(scope="session")
def tiny_velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "velocity", "v_prediction")


@pytest.fixture
def policy(tiny_folder: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(tiny_folder, "cpu")


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """Stable Diffusion's own: scaled linear betas from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    settings = DdimSettings(set_alpha_to_one=False, steps_offset=1, clip_range=None)
    return NoiseSchedule(torch.cumprod(1 - betas, dim=0), "epsilon", settings)
