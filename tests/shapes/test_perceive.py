"""The recogniser reads drawings back, and quality lowers what it should."""

from __future__ import annotations

import random

import numpy as np
import pytest
from bench_plugins.shapes import draw, grammar, perceive
from bench_plugins.shapes.grammar import Scene, Thing
from PIL import Image, ImageFilter

SCENES = 40


def _scene(seed: int) -> Scene:
    rng = random.Random(seed)
    return grammar.fill(grammar.sample_scene(rng), rng)


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(draw.render(_scene(seed), random.Random(seed)))


def _alignment(picture: Image.Image, scene: Scene | None) -> float:
    return perceive.agreement(perceive.perceive(picture), scene)


def _mean_alignment(pictures: list[Image.Image]) -> float:
    return float(np.mean([_alignment(p, _scene(i)) for i, p in enumerate(pictures)]))


def test_clean_drawings_are_read_back() -> None:
    assert _mean_alignment([_picture(i) for i in range(SCENES)]) > 0.99


def test_soft_drawings_are_read_back() -> None:
    soft = ImageFilter.GaussianBlur(1.0)
    assert _mean_alignment([_picture(i).filter(soft) for i in range(SCENES)]) > 0.97


@pytest.mark.parametrize(("kind", "least"), [("noise", 0.88), ("blur", 0.92), ("dull", 0.97)])
def test_degraded_drawings_are_mostly_read_back(kind: str, least: float) -> None:
    pictures = []
    for i in range(SCENES):
        degraded = draw.degrade(np.asarray(_picture(i)), random.Random(i), kind)
        pictures.append(Image.fromarray(degraded))
    assert _mean_alignment(pictures) > least


def test_what_was_drawn_is_what_is_seen() -> None:
    thing = draw.Placed(shape="star", colour="green", x=20.0, y=24.0, radius=13.5)
    other = draw.Placed(shape="circle", colour="red", x=46.0, y=48.0, radius=9.0)
    percept = perceive.perceive(Image.fromarray(draw.paint((thing, other), "pink", "flat")))
    assert percept.background == "pink"
    assert percept.style == "flat"
    seen = sorted(percept.objects, key=lambda s: s.x)
    assert [(s.shape, s.colour, s.size) for s in seen] == [
        ("star", "green", "large"),
        ("circle", "red", "small"),
    ]
    for s, drawn in zip(seen, (thing, other), strict=True):
        assert (s.x, s.y, s.radius) == pytest.approx((drawn.x, drawn.y, drawn.radius), abs=1.0)


def test_dull_pictures_are_less_vivid() -> None:
    for i in range(10):
        picture = _picture(i)
        dull = Image.fromarray(draw.degrade(np.asarray(picture), random.Random(i), "dull"))
        assert perceive.perceive(dull).vividness < perceive.perceive(picture).vividness - 0.3


@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_noisy_and_blurred_pictures_are_less_clean(kind: str) -> None:
    for i in range(10):
        picture = _picture(i)
        worse = Image.fromarray(draw.degrade(np.asarray(picture), random.Random(i), kind))
        assert perceive.perceive(worse).cleanliness < perceive.perceive(picture).cleanliness - 0.1


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (64, 64), (128, 128, 128)),
        Image.new("L", (20, 31), 0),
        Image.new("RGBA", (512, 512), (250, 10, 10, 128)),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)),
        Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))),
    ],
)
def test_any_picture_has_finite_measures(picture: Image.Image) -> None:
    percept = perceive.perceive(picture)
    values = (percept.vividness, percept.cleanliness, perceive.agreement(percept, _scene(0)))
    assert all(0.0 <= v <= 1.0 for v in values)


def test_unknown_captions_have_a_constant_alignment() -> None:
    assert grammar.parse("bond") is None
    assert _alignment(_picture(0), None) == perceive.UNKNOWN_ALIGNMENT
    assert _alignment(_picture(1), None) == perceive.UNKNOWN_ALIGNMENT


def test_alignment_counts_named_attributes() -> None:
    thing = draw.Placed(shape="star", colour="green", x=32.0, y=32.0, radius=13.5)
    picture = Image.fromarray(draw.paint((thing,), "pink", "flat"))
    star = Thing(shape="star")
    assert _alignment(picture, Scene(things=(star,))) == 1.0
    # Of shape, colour, size and count the colour is wrong.
    red = Thing(shape="star", colour="red", size="large")
    assert _alignment(picture, Scene(things=(red,))) == 3 / 4
    # One of two stars is there: half of the shape, and the count is wrong.
    assert _alignment(picture, Scene(things=(star,), count=2)) == pytest.approx(0.5 / 2)
    beside = Scene(things=(star, Thing(shape="circle")), relation="left of", background="pink")
    # Of two shapes, count, relation and background the first and the last hold.
    assert _alignment(picture, beside) == pytest.approx(2 / 5)


def test_relations_need_their_direction() -> None:
    left = draw.Placed(shape="star", colour="green", x=16.0, y=32.0, radius=9.0)
    right = draw.Placed(shape="cross", colour="red", x=48.0, y=34.0, radius=9.0)
    picture = Image.fromarray(draw.paint((left, right), "white", "flat"))
    for relation in grammar.RELATIONS:
        scene = Scene(things=(Thing(shape="star"), Thing(shape="cross")), relation=relation)
        expected = 1.0 if relation == "left of" else 3 / 4
        assert _alignment(picture, scene) == expected


def test_recognition_is_deterministic() -> None:
    assert perceive.perceive(_picture(3)) == perceive.perceive(_picture(3))
