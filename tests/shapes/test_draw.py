"""The drawings of the shapes world: pure, apart, and true to their scene."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from bench_plugins.shapes import draw, grammar
from bench_plugins.shapes.grammar import Scene, Thing


def _filled(seed: int) -> Scene:
    rng = random.Random(seed)
    return grammar.fill(grammar.sample_scene(rng), rng)


def test_an_example_is_a_pure_function_of_its_seed() -> None:
    for seed in range(20):
        one = draw.training_example(random.Random(seed))
        two = draw.training_example(random.Random(seed))
        assert one.caption == two.caption
        assert np.array_equal(one.image, two.image)


def test_a_picture_is_64_by_64_bytes() -> None:
    image = draw.render(_filled(0), random.Random(0))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("seed", range(100))
def test_objects_keep_apart_and_inside(seed: int) -> None:
    scene = _filled(seed)
    placed = draw.place(scene, random.Random(seed))
    assert len(placed) == (2 if len(scene.things) == 2 else scene.count)
    for i, a in enumerate(placed):
        for value in (a.x, a.y):
            assert a.radius <= value <= draw.IMAGE_SIZE - a.radius
        for b in placed[i + 1 :]:
            gap = math.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius
            assert gap >= draw.MIN_GAP - 1e-6


@pytest.mark.parametrize("relation", grammar.RELATIONS)
def test_a_relation_holds(relation: str) -> None:
    things = (
        Thing(shape="star", colour="red", size="small"),
        Thing(shape="cross", colour="blue", size="large"),
    )
    scene = Scene(things=things, relation=relation, background="white", style="flat")
    for seed in range(50):
        a, b = draw.place(scene, random.Random(seed))
        dx, dy = b.x - a.x, b.y - a.y
        signed = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
        other = dy if relation in ("left of", "right of") else dx
        assert signed > 2 * abs(other)


@pytest.mark.parametrize("shape", grammar.SHAPES)
def test_a_mask_covers_its_inside_and_nothing_beyond_its_radius(shape: str) -> None:
    mask = draw.coverage(draw.signed_distance(shape, 14.0))
    axis = np.arange(draw.IMAGE_SIZE) + 0.5 - draw.IMAGE_SIZE / 2
    distance = np.hypot(*np.meshgrid(axis, axis))
    assert mask[distance < 3].min() == 1.0
    assert mask[distance > 14.0 * math.sqrt(2)].max() == 0.0
    assert 150 < mask.sum() < math.pi * 14.5**2


def test_flat_pictures_show_their_colours() -> None:
    for colour, rgb in draw.COLOUR_RGB.items():
        things = (Thing(shape="circle", colour=colour, size="large"),)
        scene = Scene(things=things, background="grey", style="flat")
        (placed,) = draw.place(scene, random.Random(colour))
        image = draw.paint((placed,), "grey", "flat")
        assert tuple(image[int(placed.y), int(placed.x)]) == rgb
        assert tuple(image[0, 0]) == draw.BACKGROUND_RGB["grey"]


@pytest.mark.parametrize("kind", draw.DEGRADATIONS)
def test_a_degraded_picture_differs(kind: str) -> None:
    image = draw.render(_filled(3), random.Random(3))
    worse = draw.degrade(image, random.Random(4), kind)
    assert worse.shape == image.shape
    assert np.abs(worse.astype(int) - image.astype(int)).mean() > 1


def test_a_wrong_scene_differs_and_is_still_of_the_grammar() -> None:
    for seed in range(50):
        scene = grammar.sample_scene(random.Random(seed))
        wrong = draw.change_one(scene, random.Random(seed))
        assert wrong != scene
        assert grammar.parse(grammar.caption(wrong)) == wrong


def test_shares_of_flawed_examples() -> None:
    examples = [draw.training_example(random.Random(f"s{i}")) for i in range(400)]
    degraded = sum(e.degradation is not None for e in examples) / 400
    wrong = sum(e.wrong_caption for e in examples) / 400
    assert degraded == pytest.approx(draw.DEGRADED_SHARE, abs=0.08)
    assert wrong == pytest.approx(draw.WRONG_CAPTION_SHARE, abs=0.06)
