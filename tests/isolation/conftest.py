from __future__ import annotations

import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.scoring.isolation import environments
from bench.scoring.isolation.environments import EnvironmentSpec

ADAPTER = Path(__file__).with_name("adapter.py")


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments and logs of a test are its own."""
    monkeypatch.setenv(environments.ROOT_VARIABLE, str(tmp_path / "environments"))


@pytest.fixture(scope="session")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package that `tiny` installs."""
    folder = tmp_path_factory.mktemp("lender")
    paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
    wheel(folder, "bench_test_lender", "1.0", "".join(lines), suffix="pth")
    return folder


@pytest.fixture(autouse=True)
def _no_index(
    request: pytest.FixtureRequest, lender: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages come from folders, but for the proofs that take minutes."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setenv("UV_FIND_LINKS", str(lender))
        monkeypatch.setenv("UV_NO_INDEX", "1")
        monkeypatch.setenv("UV_CACHE_DIR", str(lender / "cache"))


@pytest.fixture
def logs(tmp_path: Path) -> Callable[[], list[Path]]:
    """The logs that are there."""
    return lambda: sorted((tmp_path / "environments" / "logs").glob("*.log"))


def tiny(name: str = "tiny", **changes: Any) -> EnvironmentSpec:
    """An environment that is built within a second: it sees all packages of this one."""
    own = changes.pop("requirements", ())
    return EnvironmentSpec(name=name, requirements=("bench-test-lender", *own), **changes)


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


def wheel(
    folder: Path, name: str, version: str, text: str, requires: str = "", suffix: str = "py"
) -> Path:
    """A package of one file."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.{suffix}": text,
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    return path
