"""The scorers at reduced width, their made up checkpoints written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench_plugins.reward_models.scoring import RewardModel

from tests.reward_models import cases


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], cases.Case]:
    made: dict[str, cases.Case] = {}

    def get(scorer: str) -> cases.Case:
        if scorer not in made:
            made[scorer] = cases.make(scorer, tmp_path_factory.mktemp(scorer))
        return made[scorer]

    return get


@pytest.fixture(scope="session")
def model(case: Callable[[str], cases.Case]) -> Callable[[str], RewardModel]:
    loaded: dict[str, RewardModel] = {}

    def get(scorer: str) -> RewardModel:
        if scorer not in loaded:
            loaded[scorer] = case(scorer).scorer.load("cpu")
        return loaded[scorer]

    return get


@pytest.fixture
def batches_of() -> Iterator[Callable[[Any, int], None]]:
    changed: list[tuple[Any, int]] = []

    def change(model: RewardModel, size: int) -> None:
        changed.append((model, model.batch))
        model.batch = size

    yield change
    for model, size in changed:
        model.batch = size
