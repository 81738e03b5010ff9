"""Draws the pictures of the shapes world: scenes, their degradations, training examples.

Every function is pure: the same scene and the same seed give the same bytes. Shapes are
signed distance fields, so that edges are anti-aliased and a recogniser can redraw any
hypothesis exactly.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bench.files import upright_rgb
from bench_plugins.shapes import grammar
from bench_plugins.shapes.grammar import Scene

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

IMAGE_SIZE = 64
"""Width and height of a picture, in pixels."""

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 35),
    "green": (20, 160, 50),
    "blue": (30, 65, 230),
    "yellow": (252, 220, 20),
    "purple": (140, 35, 190),
    "orange": (255, 130, 5),
}
BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "grey": (128, 128, 128),
    "pink": (255, 175, 210),
    "cyan": (125, 232, 242),
}
RADIUS_RANGE: dict[str, tuple[float, float]] = {"small": (8.8, 9.8), "large": (12.8, 14.3)}
"""Radius of the circle around a shape, in pixels; the corners of a square reach 1.05 of it."""

MAX_ROTATION = math.radians(10)
"""Objects are turned by at most this angle, either way."""

MIN_GAP = 3.6
"""Least distance between the bounding circles of two objects, in pixels."""

BORDER = 1.4
"""Least distance from a bounding circle to the edge of the picture, in pixels."""

OUTLINE_OUTSIDE = 1.3
OUTLINE_INSIDE = 1.0
"""How far the line of an outlined object reaches to either side of its edge, in pixels."""

OUTLINE_RGB = (25, 20, 35)
OUTLINE_RGB_ON_BLACK = (245, 245, 245)
STRIPE_PERIOD = 8.5
"""Height of one light and one dark stripe together; stripes run along the object's x axis."""

STRIPE_DARKNESS = 0.35
"""A dark stripe is the colour times this."""

SHADE_LIGHT = 0.65
"""Share of white at the highlight of a shaded object."""

SHADE_DARK = 0.4
"""The far side of a shaded object is the colour times this."""

DEGRADATIONS = ("noise", "blur", "dull")
DEGRADED_SHARE = 0.35
WRONG_CAPTION_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One object of a picture: what it is, and where; lengths in pixels, angle in radians."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    rotation: float = 0.0
    stripe_phase: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """A training picture with its caption and how it came about."""

    caption: str
    image: ByteArray
    degradation: str | None
    wrong_caption: bool


def fitted(image: Image.Image | Tensor) -> ByteArray:
    """A picture of any size and mode, or what `upright_rgb` takes, as uint8 [64, 64, 3]."""
    rgb = upright_rgb(image)
    if rgb.size != (IMAGE_SIZE, IMAGE_SIZE):
        rgb = rgb.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(rgb, dtype=np.uint8)


# --- shapes -----------------------------------------------------------------------------

Point = tuple[float, float]
CENTRE = (IMAGE_SIZE / 2, IMAGE_SIZE / 2)


def _ring(*reaches: float) -> tuple[Point, ...]:
    """Corners at equal angles, the first at the top, each so far from the centre."""
    angles = [2 * math.pi * i / len(reaches) - math.pi / 2 for i in range(len(reaches))]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(reaches, angles, strict=True))


_CIRCLE = 0.9
_S = 0.74
_A, _B = 0.94, 0.33
_CORNERS: dict[str, tuple[Point, ...]] = {
    "square": ((-_S, -_S), (_S, -_S), (_S, _S), (-_S, _S)),
    "triangle": _ring(1, 1, 1),
    "star": _ring(*(1, 0.46) * 5),
    # A quarter, turned.
    "cross": tuple(
        (c * x - s * y, s * x + c * y)
        for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for x, y in ((_B, -_A), (_B, -_B), (_A, -_B))
    ),
}
"""Of shapes of radius 1, y down; the circle has none, but `_CIRCLE` for a radius."""


def object_axes(
    radius: float = 1.0, rotation: float = 0.0, centre: Point = CENTRE
) -> tuple[FloatArray, FloatArray]:
    """Pixel coordinates x and y in an object's own frame, in units of its radius."""
    axis = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
    gx, gy = np.meshgrid(axis, axis)
    cos, sin = np.float32(math.cos(rotation) / radius), np.float32(math.sin(rotation) / radius)
    dx, dy = gx - np.float32(centre[0]), gy - np.float32(centre[1])
    return cos * dx + sin * dy, cos * dy - sin * dx


def signed_distance(
    shape: str,
    radius: float,
    rotation: float = 0.0,
    centre: Point = CENTRE,
) -> FloatArray:
    """Distance of each pixel centre from the shape's edge, negative inside."""
    x, y = object_axes(radius, rotation, centre)
    if shape == "circle":
        return np.asarray((np.hypot(x, y) - _CIRCLE) * np.float32(radius), dtype=np.float32)
    corners = np.asarray(_CORNERS[shape], dtype=np.float32)
    return _polygon_distance(x, y, corners) * np.float32(radius)


def _polygon_distance(x: FloatArray, y: FloatArray, corners: FloatArray) -> FloatArray:
    best = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        qx, qy = px - t * ex, py - t * ey
        np.minimum(best, qx * qx + qy * qy, out=best)
        if ay != by:
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (px < ex * py / ey)
    signed = np.where(inside, -1.0, 1.0).astype(np.float32) * np.sqrt(best)
    return np.asarray(signed, dtype=np.float32)


def coverage(distance: FloatArray) -> FloatArray:
    """How much of each pixel lies inside an edge, 0 to 1."""
    return np.asarray(np.clip(0.5 - distance, 0.0, 1.0), dtype=np.float32)


def stripes(y: FloatArray, phase: float) -> FloatArray:
    """How dark an object's stripes are, 0 to 1; `y` in pixels along its own axis."""
    wave = np.sin((y / STRIPE_PERIOD + phase) * 2 * math.pi)
    # The steep, clipped wave is a square wave with edges about one pixel wide.
    dark: FloatArray = np.clip(0.5 + wave * STRIPE_PERIOD / (2 * math.pi), 0.0, 1.0)
    return dark


def shade(x: FloatArray, y: FloatArray) -> FloatArray:
    """How far an object's pixels are from its highlight, 0 to 1; `x`, `y` by its radius."""
    far: FloatArray = np.clip(np.hypot(x + 0.35, y + 0.35) / 1.25, 0.0, 1.0)
    return far


# --- pictures ---------------------------------------------------------------------------


def paint(placed: tuple[Placed, ...], background: str, style: str) -> ByteArray:
    """The picture of objects at given places; nothing in it is random."""
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32)
    canvas[:] = BACKGROUND_RGB[background]
    for thing in placed:
        distance = signed_distance(thing.shape, thing.radius, thing.rotation, (thing.x, thing.y))
        edge = np.float32(OUTLINE_OUTSIDE if style == "outlined" else 0.0)
        alpha = coverage(distance - edge)[..., None]
        canvas += alpha * (object_texture(thing, distance, background, style) - canvas)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def object_texture(thing: Placed, distance: FloatArray, background: str, style: str) -> FloatArray:
    """The colour of each pixel of an object, before it is cut out by its mask."""
    colour = np.asarray(COLOUR_RGB[thing.colour], dtype=np.float32)
    if style == "outlined":
        line = OUTLINE_RGB_ON_BLACK if background == "black" else OUTLINE_RGB
        inner = coverage(distance + np.float32(OUTLINE_INSIDE))[..., None]
        lined = inner * colour + (1 - inner) * np.asarray(line, dtype=np.float32)
        return np.asarray(lined, dtype=np.float32)
    x, y = object_axes(1.0, thing.rotation, (thing.x, thing.y))
    if style == "striped":
        dark = stripes(y, thing.stripe_phase)[..., None]
        return np.asarray(colour * (1 - dark * np.float32(1 - STRIPE_DARKNESS)), dtype=np.float32)
    if style == "shaded":
        r = np.float32(thing.radius)
        t = shade(x / r, y / r)[..., None]
        light, dark = (
            colour + (255 - colour) * np.float32(SHADE_LIGHT),
            colour * np.float32(SHADE_DARK),
        )
        near_side = light + (colour - light) * 2 * t
        far_side = colour + (dark - colour) * (2 * t - 1)
        return np.asarray(np.where(t < 0.5, near_side, far_side), dtype=np.float32)
    return np.broadcast_to(colour, (*distance.shape, 3))


def place(scene: Scene, rng: random.Random) -> tuple[Placed, ...]:
    """Random places for the objects of a filled scene, apart and with its relation true."""
    things = scene.things if len(scene.things) == 2 else scene.things * scene.count
    radii = [rng.uniform(*RADIUS_RANGE[str(t.size)]) for t in things]
    if scene.count > 1:
        # Things of one kind look alike; only a little of the size differs.
        radii = [0.75 * radii[0] + 0.25 * r for r in radii]
    centres = _centres(scene, radii, rng)
    # One phase for all keeps the stripes of a picture alike.
    phase = rng.random()
    return tuple(
        Placed(
            shape=t.shape,
            colour=str(t.colour),
            x=x,
            y=y,
            radius=r,
            rotation=rng.uniform(-MAX_ROTATION, MAX_ROTATION),
            stripe_phase=phase,
        )
        for t, (x, y), r in zip(things, centres, radii, strict=True)
    )


def _centres(scene: Scene, radii: list[float], rng: random.Random) -> list[Point]:
    middle = IMAGE_SIZE / 2
    if len(radii) == 1:
        reach = 0.55 * (middle - radii[0] - BORDER)
        return [(middle + rng.uniform(-reach, reach), middle + rng.uniform(-reach, reach))]
    if len(radii) == 3:
        return _three_cells(radii, rng)
    relation = scene.relation or rng.choice(grammar.RELATIONS)
    return _two_along(relation, radii[0], radii[1], rng)


def _three_cells(radii: list[float], rng: random.Random) -> list[Point]:
    """Centres in three quarters of the picture, each wholly inside its own quarter."""
    quarter = IMAGE_SIZE / 4
    cells = rng.sample([(1, 1), (3, 1), (1, 3), (3, 3)], 3)
    centres = []
    for (i, j), r in zip(cells, radii, strict=True):
        reach = max(0.0, 0.8 * (quarter - r - MIN_GAP / 2))
        jitter = (rng.uniform(-reach, reach), rng.uniform(-reach, reach))
        centres.append((quarter * i + jitter[0], quarter * j + jitter[1]))
    return centres


def _two_along(relation: str, first: float, second: float, rng: random.Random) -> list[Point]:
    """Two centres of which the first is `relation` the second, much more along than across."""
    backwards = relation in ("right of", "below")
    low, high = (second, first) if backwards else (first, second)
    slack = IMAGE_SIZE - 2 * BORDER - MIN_GAP - 2 * (low + high)
    before = rng.uniform(0.1, 0.4) * slack
    between = rng.uniform(0.1, 0.4) * slack
    start = BORDER + before + low
    end = start + low + high + MIN_GAP + between
    across = []
    for r in (low, high):
        reach = min(0.12 * (end - start), IMAGE_SIZE / 2 - BORDER - r)
        across.append(IMAGE_SIZE / 2 + rng.uniform(-reach, reach))
    shift = rng.uniform(-1, 1) * min(4.0, IMAGE_SIZE / 2 - BORDER - max(low, high) - 4)
    centres = [(start, across[0] + shift), (end, across[1] + shift)]
    if relation in ("above", "below"):
        centres = [(y, x) for x, y in centres]
    return centres[::-1] if backwards else centres


def render(scene_filled: Scene, rng: random.Random) -> ByteArray:
    """A picture of a scene that has every attribute filled, as uint8 [64, 64, 3]."""
    return paint(place(scene_filled, rng), str(scene_filled.background), str(scene_filled.style))


def degrade(image: ByteArray, rng: random.Random, kind: str | None = None) -> ByteArray:
    """The picture with one lapse of quality: noise, blur or dull colours."""
    kind = kind or rng.choice(DEGRADATIONS)
    if kind == "noise":
        return _noise(image, rng)
    if kind == "blur":
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(1.8, 2.8)))
        return np.asarray(blurred, dtype=np.uint8)
    return _dull(image, rng)


def _noise(image: ByteArray, rng: random.Random) -> ByteArray:
    """Blotches of light and dark, coarse enough to outlive an autoencoder of factor 8."""
    source = np.random.default_rng(rng.getrandbits(32))
    blotches = source.standard_normal((16, 16)).astype(np.float32)
    field = Image.fromarray(blotches).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    strength = rng.uniform(28.0, 45.0)
    noisy = image + strength * np.asarray(field, dtype=np.float32)[..., None]
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _dull(image: ByteArray, rng: random.Random) -> ByteArray:
    """Colours drawn towards their own grey, and all of it towards middle grey."""
    pixels = image.astype(np.float32)
    own_grey = pixels @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
    saturation, contrast = rng.uniform(0.4, 0.55), rng.uniform(0.45, 0.6)
    dulled = own_grey[..., None] + saturation * (pixels - own_grey[..., None])
    return np.clip(np.rint(128 + contrast * (dulled - 128)), 0, 255).astype(np.uint8)


def wrong_scene(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one or two of its attributes changed, so that its caption is wrong."""
    for _ in range(rng.choice((1, 2))):
        scene = change_one(scene, rng)
    return scene


def change_one(scene: Scene, rng: random.Random) -> Scene:
    """The scene with another value of one attribute that its caption names."""
    first = scene.things[0]
    values = {"shape": first.shape, "colour": first.colour}
    values |= {"background": scene.background, "style": scene.style}
    return grammar.changed(scene, rng.choice([a for a, v in values.items() if v]), rng)


def training_example(rng: random.Random) -> Example:
    """One picture and its caption, as flawed as data from the wild."""
    scene = grammar.sample_scene(rng)
    image = render(grammar.fill(scene, rng), rng)
    degradation = rng.choice(DEGRADATIONS) if rng.random() < DEGRADED_SHARE else None
    if degradation is not None:
        image = degrade(image, rng, degradation)
    wrong = rng.random() < WRONG_CAPTION_SHARE
    return Example(
        caption=grammar.caption(wrong_scene(scene, rng) if wrong else scene),
        image=image,
        degradation=degradation,
        wrong_caption=wrong,
    )
