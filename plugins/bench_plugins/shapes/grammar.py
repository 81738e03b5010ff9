"""The caption grammar of the shapes world: scenes, their captions, and back.

A caption says only what it wants to say: every attribute but shape and count may be left
open, and the picture then shows any value. Nothing here draws or learns.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross")
BACKGROUNDS = ("white", "black", "grey", "pink", "cyan")
STYLES = ("flat", "outlined", "striped", "shaded")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = (1, 2, 3)
COUNT_WORDS = {1: "a", 2: "two", 3: "three"}
OF_THINGS: Mapping[str, tuple[Any, ...]] = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
OF_SCENES: Mapping[str, tuple[Any, ...]] = {
    "background": BACKGROUNDS,
    "style": STYLES,
    "relation": RELATIONS,
    "count": COUNTS,
}
"""Attributes and their values."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One kind of object: a shape, with size and colour if the caption names them."""

    shape: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a caption asks for.

    Either one kind of thing, `count` times (1 to 3), or two things (one of each) with a
    relation: `things[0]` is `relation` `things[1]`. `None` leaves an attribute open.
    """

    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None
    background: str | None = None
    style: str | None = None


def caption(scene: Scene) -> str:
    """The caption of a scene; `parse` is its exact inverse."""
    first = scene.things[0]
    words = [_noun_phrase(first, scene.count)]
    if len(scene.things) == 2:
        words += [str(scene.relation), _noun_phrase(scene.things[1], 1)]
    if scene.background:
        words.append(f"on a {scene.background} background")
    text = " ".join(words)
    return f"{text}, {scene.style}" if scene.style else text


def _noun_phrase(thing: Thing, count: int) -> str:
    shape = thing.shape if count == 1 else _plural(thing.shape)
    words = [w for w in (thing.size, thing.colour, shape) if w]
    article = COUNT_WORDS[count]
    if article == "a" and words[0] == "orange":
        article = "an"
    return " ".join([article, *words])


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


_SINGULAR = {_plural(s): s for s in SHAPES} | {s: s for s in SHAPES}
_PHRASE = (
    r"(?P<count{i}>an?|two|three)(?: (?P<size{i}>" + "|".join(SIZES) + r"))?"
    r"(?: (?P<colour{i}>" + "|".join(COLOURS) + r"))? (?P<shape{i}>" + "|".join(_SINGULAR) + r")"
)
_CAPTION = re.compile(
    _PHRASE.replace("{i}", "0")
    + r"(?: (?P<relation>"
    + "|".join(RELATIONS)
    + r") "
    + _PHRASE.replace("{i}", "1")
    + r")?"
    r"(?: on a (?P<background>" + "|".join(BACKGROUNDS) + r") background)?"
    r"(?:, (?P<style>" + "|".join(STYLES) + r"))?"
)
_COUNT_OF = {"a": 1, "an": 1, "two": 2, "three": 3}


def parse(text: str) -> Scene | None:
    """The scene that a caption asks for, or None where it is not of this grammar."""
    match = _CAPTION.fullmatch(text)
    if match is None:
        return None
    g = match.groupdict()
    things = tuple(
        Thing(shape=_SINGULAR[g[f"shape{i}"]], colour=g[f"colour{i}"], size=g[f"size{i}"])
        for i in (0, 1)
        if g[f"shape{i}"]
    )
    return Scene(
        things=things,
        count=_COUNT_OF[g["count0"]],
        relation=g["relation"],
        background=g["background"],
        style=g["style"],
    )


def sample_scene(rng: random.Random, *, open_share: float = 0.15) -> Scene:
    """A random scene; each optional attribute is left open with probability `open_share`."""

    def maybe(values: tuple[str, ...]) -> str | None:
        return None if rng.random() < open_share else rng.choice(values)

    def thing() -> Thing:
        return Thing(shape=rng.choice(SHAPES), colour=maybe(COLOURS), size=maybe(SIZES))

    kind = rng.random()
    background, style = maybe(BACKGROUNDS), maybe(STYLES)
    if kind < 0.45:
        return Scene(things=(thing(),), background=background, style=style)
    if kind < 0.7:
        return Scene(
            things=(thing(),), count=rng.choice((2, 3)), background=background, style=style
        )
    first, second = thing(), thing()
    while (first.shape, first.colour) == (second.shape, second.colour):
        second = thing()
    return Scene(
        things=(first, second),
        relation=rng.choice(RELATIONS),
        background=background,
        style=style,
    )


def fill(scene: Scene, rng: random.Random) -> Scene:
    """The scene with every open attribute chosen at random: what a picture truly shows."""
    things = tuple(
        replace(
            t,
            colour=t.colour or rng.choice(COLOURS),
            size=t.size or rng.choice(SIZES),
        )
        for t in scene.things
    )
    return replace(
        scene,
        things=things,
        background=scene.background or rng.choice(BACKGROUNDS),
        style=scene.style or rng.choice(STYLES),
    )


def changed(scene: Scene, attribute: str, rng: random.Random, *, thing: int = 0) -> Scene:
    """The scene with another value of one attribute, which may be one of a thing's."""

    def other(values: tuple[Any, ...], value: Any) -> Any:
        return rng.choice([v for v in values if v != value])

    if values := OF_SCENES.get(attribute):
        return replace(scene, **{attribute: other(values, getattr(scene, attribute))})
    things = list(scene.things)
    value = other(OF_THINGS[attribute], getattr(things[thing], attribute))
    things[thing] = replace(things[thing], **{attribute: value})
    return replace(scene, things=tuple(things))


WORDS = tuple(
    sorted(
        {*SIZES, *COLOURS, *_SINGULAR, *BACKGROUNDS, *STYLES}
        | {w for r in RELATIONS for w in r.split()}
        | {*_COUNT_OF, "on", "background"}
    )
)
"""Every word that a caption can hold, for the tokenizer."""
