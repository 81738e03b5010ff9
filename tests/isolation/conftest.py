from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.isolation import environments
from bench.isolation.environments import EnvironmentSpec

ADAPTER = Path(__file__).with_name("adapter.py")


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments and logs of a test are its own."""
    monkeypatch.setenv(environments.ROOT_VARIABLE, str(tmp_path / "environments"))


@pytest.fixture
def logs(tmp_path: Path) -> Callable[[], list[Path]]:
    """The logs that are there."""
    return lambda: sorted((tmp_path / "environments" / "logs").glob("*.log"))


def tiny(name: str = "tiny", **changes: Any) -> EnvironmentSpec:
    """An environment that is built within a second: it borrows all packages of this one."""
    return EnvironmentSpec(**{"name": name, "adapter": ADAPTER, "borrow": True, **changes})


def pictures(count: int, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> list[Image.Image]:
    """Noise."""
    rng = np.random.default_rng(count)
    shape = (count, size[1], size[0], 3)
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    return [Image.fromarray(pixels).convert(mode) for pixels in noise]


def expected(images: list[Image.Image], prompts: list[str]) -> list[float]:
    """What the test adapter computes, computed here."""
    return [
        float(np.asarray(image.convert("RGB")).mean()) + len(prompt)
        for image, prompt in zip(images, prompts, strict=True)
    ]
