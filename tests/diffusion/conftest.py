from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.diffusion.schedule import NoiseSchedule
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from tests.tiny import save_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture(scope="session")
def tiny_velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "velocity", "v_prediction")


@pytest.fixture
def policy(tiny_folder: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(tiny_folder, "cpu")


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    """Stable Diffusion's own: scaled linear betas from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule(torch.cumprod(1 - betas, dim=0), "epsilon")
