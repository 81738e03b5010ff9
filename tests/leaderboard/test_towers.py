from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.leaderboard.results import load_cells
from bench.leaderboard.towers import shared_towers
from bench.registry.registry import default_registry

SHAPES = Path(__file__).parents[2] / "leaderboards" / "shapes"
OWN = ("pickscore", "hpsv2", "hpsv2.1", "clip-h14", "clip-l14", "aesthetic", "image_reward")


def scorer(fingerprint: str, **options: Any) -> dict[str, Any]:
    return {"name": "any", "version": "1", "options": options, "fingerprint": fingerprint}


def described(names: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
    registry = default_registry()
    return {name: registry.describe(registry.build("scorers", name)) for name in names}


def pairs(*names: tuple[str, str]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in names}


def test_declared_towers_are_shared_by_name() -> None:
    nothing = scorer("")
    found = shared_towers(
        {"a": nothing, "b": nothing, "c": nothing, "d": nothing},
        {"a": "clip", "c": "clip", "b": ""},
    )
    assert found == {frozenset("ac"): "clip"}


def test_weights_within_other_weights_are_shared() -> None:
    head, clip, other = "a" * 64, "b" * 64, "c" * 64
    found = shared_towers(
        {
            "aesthetic": scorer(f"{head} {clip}"),
            "clip": scorer(clip),
            "halves": scorer(f"{head} {other}"),
            "wrapped": scorer("", inner=scorer(clip)),
        },
        {},
    )
    assert found == {
        frozenset(("aesthetic", "clip")): "the weights of clip",
        frozenset(("clip", "wrapped")): "the weights of clip",
        frozenset(("aesthetic", "wrapped")): "the weights of wrapped",
    }


def test_short_or_no_fingerprints_show_nothing() -> None:
    assert shared_towers({"a": scorer(""), "b": scorer(""), "c": scorer("v1")}, {}) == {}
    assert shared_towers({"a": scorer("v1"), "b": scorer("v1")}, {}) == {}


def test_own_scorers_say_on_which_network_they_stand() -> None:
    registry = default_registry()
    towers = {name: registry.build("scorers", name).tower for name in OWN}
    found = shared_towers(described(OWN), towers)
    large, huge = pairs(("clip-l14", "aesthetic")), ("pickscore", "hpsv2", "hpsv2.1", "clip-h14")
    assert found.keys() == large | {frozenset((a, b)) for a in huge for b in huge if a != b}
    assert set(found.values()) == {towers["clip-l14"], towers["clip-h14"]}


def test_old_results_show_what_their_fingerprints_do() -> None:
    assert shared_towers(described(OWN), {}).keys() == pairs(("clip-l14", "aesthetic"))


def test_published_packages_share_with_the_scorers_that_they_are() -> None:
    registry = default_registry()
    names = ("hpsv2", "hpsv2-official", "image_reward", "image_reward-official")
    towers = {name: registry.build("scorers", name).tower for name in names}
    twins = pairs(("hpsv2", "hpsv2-official"), ("image_reward", "image_reward-official"))
    assert shared_towers(described(names), towers).keys() == twins


def test_towers_change_no_description() -> None:
    # Else no committed result would be the cell that it was.
    for name, facts in described(OWN).items():
        assert facts.keys() == {"name", "version", "options", "fingerprint"}, name
        assert "tower" not in facts["options"]


def test_the_shapes_scorers_stand_on_one_encoder_but_for_gold() -> None:
    registry = default_registry()
    cell = next(iter(load_cells(SHAPES).values()))
    scorers = cell.evaluation.scorers
    towers = {name: registry.build("scorers", name).tower for name in scorers}
    found = shared_towers(scorers, towers)
    assert found.keys() == pairs(
        ("shapes_aesthetic", "shapes_clip"),
        ("shapes_aesthetic", "shapes_preference"),
        ("shapes_clip", "shapes_preference"),
    )
    assert towers["gold"] == ""
    assert shared_towers(scorers, {}) == {}
