"""The people: stated tastes, exact shares, ties."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from bench_plugins.shapes import draw, grammar, population
from PIL import Image

SOME = population.CENTRE
STEP = population.SPREAD


def _picture(seed: int) -> tuple[Image.Image, str]:
    rng = random.Random(seed)
    scene = grammar.fill(grammar.sample_scene(rng), rng)
    return Image.fromarray(draw.render(scene, rng)), grammar.caption(scene)


def test_groups_have_their_shares_and_tastes() -> None:
    assert sum(g.share for g in population.GROUPS) == pytest.approx(1.0)
    everyone = population.people()
    assert len(everyone) == population.PEOPLE
    assert [p.user_id for p in everyone] == list(range(len(everyone)))
    counts = Counter(p.group for p in everyone)
    for group in population.GROUPS:
        assert counts[group.name] == round(group.share * population.PEOPLE)
        mean = np.mean([p.weights for p in everyone if p.group == group.name], axis=0)
        assert mean == pytest.approx(group.weights, abs=0.05)


def test_people_differ_within_a_group() -> None:
    weights = {p.weights for p in population.people()}
    assert len(weights) == population.PEOPLE


def test_shares_of_both_orders_add_up_to_one() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 50, 3))
    total = population.share_from(first, second) + population.share_from(second, first)
    assert total == pytest.approx(np.ones(50))
    assert population.share_from(first, first) == pytest.approx(np.full(50, 0.5))


def test_the_share_is_the_mean_of_peoples_answers() -> None:
    first, second = SOME + STEP * [0.8, -0.5, 0.3], SOME
    rng = random.Random(0)
    asked = [
        population.choice(person, first, second, rng.random())
        for person in population.people()
        for _ in range(50)
    ]
    assert np.mean(asked) == pytest.approx(float(population.share_from(first, second)), abs=0.02)


def test_small_differences_are_ties_and_large_ones_are_seen() -> None:
    for person in population.people()[:20]:
        assert population.choice(person, SOME, SOME + 1e-3 * STEP, 0.5) == 0.5
        assert population.choice(person, SOME + 9 * STEP, SOME, 0.5) == 1.0
        assert population.choice(person, SOME, SOME + 9 * STEP, 0.5) == 0.0


def test_groups_disagree_where_their_measures_conflict() -> None:
    aligned, vivid = SOME + STEP * [1.5, -1.5, 0.0], SOME
    utility = population.utilities(aligned) - population.utilities(vivid)
    groups = np.asarray([p.group for p in population.people()])
    assert np.mean(utility[groups == "prompt-carers"]) > 0
    assert np.mean(utility[groups == "vivid-colour lovers"]) < 0


def test_gold_is_the_mean_utility() -> None:
    picture, caption = _picture(1)
    measured = population.measures(picture, caption)
    assert population.gold(picture, caption) == pytest.approx(
        float(population.utilities(measured).mean())
    )


def test_gold_prefers_the_right_vivid_and_clean_picture() -> None:
    for seed in range(5):
        picture, caption = _picture(seed)
        gold = population.gold(picture, caption)
        _, other = _picture(seed + 100)
        assert gold > population.gold(picture, other)
        for kind in draw.DEGRADATIONS:
            worse = draw.degrade(np.asarray(picture), random.Random(seed), kind)
            assert gold > population.gold(Image.fromarray(worse), caption)
            measured = [population.measures(p, caption) for p in (picture, Image.fromarray(worse))]
            share = float(population.share_from(*measured))
            assert 0.5 < share <= 1.0


def test_prompts_outside_the_grammar_leave_looks_to_decide() -> None:
    picture, _ = _picture(0)
    dull = Image.fromarray(draw.degrade(np.asarray(picture), random.Random(0), "dull"))
    assert population.gold(picture, "bond") > population.gold(dull, "bond")
    assert np.isfinite(population.gold(picture, ""))


def test_the_fingerprint_is_stable_within_a_process() -> None:
    assert population.fingerprint() == population.fingerprint()
    assert len(population.fingerprint()) == 64
