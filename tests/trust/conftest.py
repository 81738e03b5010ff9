"""The toy world with plugins that one should not trust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from bench.running import planning
from bench.running.plan import Plan
from tests import toy
from tests.trust import plugins

MakePlan: TypeAlias = Callable[..., Plan]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="session")
def make_plan(folder: Path) -> MakePlan:
    """The plan of some methods in the toy world."""

    def make(*methods: str, more: tuple[Any, ...] = (), **changes: Any) -> Plan:
        options = {"training": {"steps": 2, "batch_size": 2, "checkpoint_every": 1}} | changes
        recipe = toy.recipe(folder, methods=list(methods), **options)
        return planning.make(recipe, plugins.registry(*more))

    return make
