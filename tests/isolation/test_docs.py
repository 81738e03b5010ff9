"""The tutorial in docs/isolation.md works as it stands, but for the download."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.registry.registry import Registry
from bench.scoring.isolation import build, environments
from tests.isolation.conftest import pictures, tiny

DOCS = (Path(__file__).parents[2] / "docs" / "isolation.md").read_text(encoding="utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the docs as a wheel holds it, on the path."""
    project, adapter, plugin = re.findall(r"```(?:toml|python)\n(.*?)```", DOCS, flags=re.DOTALL)
    source, site = tmp_path / "bench-colourfulness", tmp_path / "site"
    (source / "bench_colourfulness").mkdir(parents=True)
    (source / "pyproject.toml").write_text(project, encoding="utf-8")
    (source / "bench_colourfulness" / "adapter.py").write_text(adapter, encoding="utf-8")
    (source / "bench_colourfulness" / "__init__.py").write_text(plugin, encoding="utf-8")
    build_wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build_wheel, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, site, format="zip")
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("bench_colourfulness", None)


@pytest.mark.usefixtures("installed")
def test_the_package_of_the_docs_works() -> None:
    scorer = Registry.discover().build("scorers", "colourfulness[factor=0.5]")
    assert scorer.unavailable_reason().endswith("run: bench env create colourfulness")
    # All as written, but for the download.
    cls = type(scorer)
    cls.environment = replace(cls.environment, requirements=tiny().requirements)
    build.create(scorer.environment, [scorer.adapter], lambda line: None)
    worker = scorer.load("cpu")
    (image,) = pictures(1)
    r, g, b = (np.asarray(channel, dtype=float) for channel in image.split())
    rg, yb = r - g, 0.5 * (r + g) - b
    measure = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    np.testing.assert_allclose(worker.score([image], [""]), [0.5 * measure])
    worker.close()


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_environment_of_the_docs_is_built_as_written() -> None:
    scorer = Registry.discover().build("scorers", "colourfulness")
    build.create(scorer.environment, [scorer.adapter], print)
    assert environments.require(scorer.environment).installed["numpy"] == "2.2.6"
    worker = scorer.load("cpu")
    assert worker.score(pictures(1), [""])[0] > 0
    worker.close()


@pytest.mark.parametrize("words", ["create", "list", "check", "remove"])
def test_every_command_is_documented(words: str) -> None:
    from bench.cli.env import env_app

    assert words in {c.name or c.callback.__name__ for c in env_app.registered_commands}  # type: ignore[union-attr]
    assert f"`bench env {words}" in DOCS
    assert len(env_app.registered_commands) == 4
