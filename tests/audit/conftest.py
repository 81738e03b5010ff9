"""One run that people can vote on, for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.voting import World, make
from tests.commands import Bench, in_folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(tmp_path_factory.mktemp("audited"), prompts=24)


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)
