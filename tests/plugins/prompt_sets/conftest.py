"""A Hub cache on disk, as huggingface_hub lays it out, for files that tests make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import huggingface_hub.constants
import pytest

HubFile: TypeAlias = Callable[[str, str, str, bytes], Path]


@pytest.fixture
def hub_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubFile:
    """Put a data set's file (id, commit, name, bytes) into an offline cache; `main` means it."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))

    def put(dataset: str, commit: str, name: str, data: bytes) -> Path:
        folder = cache / f"datasets--{dataset.replace('/', '--')}"
        file = folder / "snapshots" / commit / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        return file

    return put
