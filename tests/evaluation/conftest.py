"""Small sets of images to score, and the command line in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import toy
from tests.commands import Bench, in_folder


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Runs a command in an empty folder with the toy scorers; exit code and what was printed."""
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    return in_folder(tmp_path, monkeypatch, capsys)
