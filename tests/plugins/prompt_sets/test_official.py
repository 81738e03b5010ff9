"""The official files themselves, where BENCH_REAL_PROMPTS names a folder with them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from bench_plugins.prompt_sets import HPDv2, PartiPrompts
from bench_plugins.prompt_sets.benchmarks import HPDV2_STYLES

from bench import Prompt
from bench.lib.files import file_sha256
from tests.plugins.prompt_sets.conftest import HubFile
from tests.slow.test_default_run import REAL_PROMPTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REAL_PROMPTS not in os.environ, reason=f"{REAL_PROMPTS} names no folder"),
]

CATEGORIES = {
    "Animals": 314,
    "Artifacts": 287,
    "World Knowledge": 214,
    "People": 177,
    "Outdoor Scenes": 131,
    "Illustrations": 124,
    "Vehicles": 104,
    "Food & Beverage": 74,
    "Arts": 66,
    "Abstract": 51,
    "Produce & Plants": 50,
    "Indoor Scenes": 40,
}
CHALLENGES = {
    "Fine-grained Detail": 312,
    "Basic": 272,
    "Simple Detail": 232,
    "Style & Format": 206,
    "Imagination": 150,
    "Complex": 113,
    "Writing & Symbols": 91,
    "Quantity": 90,
    "Perspective": 70,
    "Linguistic Structures": 61,
    "Properties & Positioning": 35,
}


@pytest.fixture
def parti() -> Path:
    return Path(os.environ[REAL_PROMPTS]) / "PartiPrompts.tsv"


@pytest.fixture
def hpdv2() -> Path:
    return Path(os.environ[REAL_PROMPTS]) / "hpdv2"


def counts(prompts: tuple[Prompt, ...], group: str) -> dict[str, int]:
    return dict(Counter(prompt.groups[group] for prompt in prompts))


def test_parti_has_the_known_counts(parti: Path) -> None:
    prompts = PartiPrompts(path=str(parti)).load()
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 1632
    assert counts(prompts, "category") == CATEGORIES
    assert counts(prompts, "challenge") == CHALLENGES
    assert max(len(prompt.text.split()) for prompt in prompts) == 67
    assert sum(prompt.text.startswith('"') for prompt in prompts) == 1


def test_parti_is_pinned_to_the_official_file(parti: Path, hub_file: HubFile) -> None:
    assert file_sha256(parti) == PartiPrompts.sha256
    pinned = PartiPrompts()
    hub_file(pinned.path, pinned.revision, "PartiPrompts.tsv", parti.read_bytes())
    assert pinned.load() == PartiPrompts(path=str(parti)).load()


def test_hpdv2_has_the_known_counts(hpdv2: Path) -> None:
    prompts = HPDv2(path=str(hpdv2)).load()
    assert len(prompts) == 3200
    assert len({prompt.text for prompt in prompts}) == 3172
    assert counts(prompts, "style") == dict.fromkeys(HPDV2_STYLES, 800)


def test_hpdv2_is_pinned_to_the_official_lists(hpdv2: Path, hub_file: HubFile) -> None:
    # On the Hub each list is one line of ASCII, which is what json.dumps writes.
    pinned = HPDv2()
    for style, sha256 in HPDV2_STYLES.items():
        data = json.dumps(json.loads((hpdv2 / f"{style}.json").read_text("utf-8"))).encode()
        assert hashlib.sha256(data).hexdigest() == sha256
        hub_file(pinned.path, pinned.revision, f"benchmark/{style}.json", data)
    assert pinned.load() == HPDv2(path=str(hpdv2)).load()
