"""The finished world that every hostile case gets a copy of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import invalidate_caches

import pytest

from bench.registry.registry import default_registry
from tests.hostile import harness


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.World]:
    folder = tmp_path_factory.mktemp("hostile")
    site = folder / "site"
    site.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        # Checksums of large files are remembered there.
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "home" / ".cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        default_registry.cache_clear()
        yield harness.build(folder / "world", site)
    sys.path_importer_cache.clear()
    invalidate_caches()
    default_registry.cache_clear()
