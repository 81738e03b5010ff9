"""The tutorial in docs/isolation.md works as it stands, but for the download."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.isolation import build
from tests.isolation.conftest import pictures

DOCS = (Path(__file__).parents[2] / "docs" / "isolation.md").read_text(encoding="utf-8")


def test_the_scorer_of_the_docs_works(tmp_path: Path) -> None:
    adapter, plugin = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    (tmp_path / "colourfulness_adapter.py").write_text(adapter, encoding="utf-8")
    path = tmp_path / "colourfulness_plugin.py"
    path.write_text(plugin, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("colourfulness_plugin", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        cls = module.Colourfulness
        cls.environment = replace(cls.environment, requirements=(), borrow=True)
        build.create(cls.environment, lambda line: None)
        worker = cls(factor=2.0).load("cpu")
        (image,) = pictures(1)
        r, g, b = (np.asarray(channel, dtype=float) for channel in image.split())
        rg, yb = r - g, 0.5 * (r + g) - b
        measure = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
        np.testing.assert_allclose(worker.score([image], [""]), [2 * measure])
        worker.close()


@pytest.mark.parametrize("words", ["create", "list", "check", "remove"])
def test_every_command_is_documented(words: str) -> None:
    from bench.isolation.command import env_app

    assert words in {c.name or c.callback.__name__ for c in env_app.registered_commands}  # type: ignore[union-attr]
    assert f"`bench env {words}" in DOCS
    assert len(env_app.registered_commands) == 4
