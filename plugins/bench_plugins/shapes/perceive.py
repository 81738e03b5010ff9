"""What a picture of the shapes world truly shows, found by analysis; nothing here is learned.

A picture is explained as it is drawn. The background is the colour of the frame; what differs
from it is split into objects; and every object is compared with redrawn hypotheses of shape,
pose, style and blur. Each style is a linear subspace: whatever the colours are, the pixels of
a flat object less the background are multiples of its mask, those of a striped one a mixture
of two maps, and so on. So the best hypothesis is the subspace that leaves least unexplained,
which dull colours cannot upset and noise and blur upset late.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from bench_plugins.shapes import draw, grammar
from bench_plugins.shapes.grammar import Scene, Thing

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

UNKNOWN_ALIGNMENT = 0.5
"""The alignment of every picture under a caption that the grammar cannot parse."""

SIZE_CUT = (draw.RADIUS_RANGE["small"][1] + draw.RADIUS_RANGE["large"][0]) / 2
"""Objects of a greater radius than this, in pixels, are large."""

_SIZE = draw.IMAGE_SIZE
_FRAME = np.pad(np.zeros((_SIZE - 4, _SIZE - 4), dtype=bool), 2, constant_values=True)
_GRID = 24
_REACH = 1.45
_MASK_REACH = 1.1
_MIN_AREA = 36
_MAX_EXTENT = 34
_WORST_FIT = 0.5
_LEAST_CHROMA = 12.0
_ROTATIONS = tuple(math.radians(d) for d in range(-20, 21, 5))
_BLURS = (0.0, 1.1, 2.0, 3.0)
_PHASES = 10
_CANDIDATE_MARGIN = 0.12
_STYLE_GAIN = {"flat": 1.0, "outlined": 0.92, "striped": 0.82, "shaded": 0.86}
_STYLE_MARGIN = 0.002
_ROUGHNESS = 12.0
_WEAKEST = 0.36
_BLACK_BELOW = 98.0
_COLOURED_ABOVE = 160.0
_COLOURED_BELOW = 185.0
_LINE_CONTRAST = 10.0
_RADIUS_TRIES = (0.86, 0.93, 1.07)
_FINALISTS = 2
_RADII = tuple((low + high) / 2 for low, high in draw.RADIUS_RANGE.values())


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One object of a picture, as it was recognised."""

    shape: str | None
    """None: it resembles no shape of this world."""
    colour: str | None
    """None: it has next to no colour."""
    size: str
    x: float
    """Centre, in pixels from the left."""
    y: float
    """Centre, in pixels from the top."""
    radius: float
    """Of the circle around it, in pixels."""
    style: str
    purity: float
    """Its colour's chroma as a share of the palette's for that hue, 0 to 1."""
    contrast: float
    """Its distance from the background colour as a share of the palette's, 0 to 1."""
    blur: float
    """Standard deviation of the blur that explains it best, in pixels, 0 to 3."""


@dataclass(frozen=True, kw_only=True)
class Percept:
    """What a picture shows."""

    background: str
    objects: tuple[Seen, ...]
    style: str | None
    """The style of most of the objects' area; None without objects."""
    vividness: float
    """0 (grey, pale or empty) to 1 (colours as pure and as far apart as the palette allows)."""
    cleanliness: float
    """0 (noisy or blurred beyond use) to 1 (even surfaces, sharp edges)."""


def perceive(image: Image.Image | Tensor) -> Percept:
    """Recognise what `draw.fitted` takes; about 4 ms."""
    pixels = draw.fitted(image).astype(np.float32)
    ground, distance = _stand_out(pixels)
    background = _background_name(ground)
    masks = _object_masks(distance)
    seen = tuple(
        _recognise(pixels - ground, masks, i, ground, background) for i in range(len(masks))
    )
    return Percept(
        background=background,
        objects=seen,
        style=_common_style(seen),
        vividness=_vividness(seen),
        cleanliness=_cleanliness(pixels - ground, masks, seen),
    )


# --- background and objects -------------------------------------------------------------


def _stand_out(pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The background's colour, and how far each pixel is from it in units of its noise.

    The noise is measured at the frame, where no object reaches, with its direction in colour
    space: blotches of light and dark then hide no object that differs in hue.
    """
    frame = pixels[_FRAME]
    ground = np.median(frame, axis=0)
    off = frame - ground
    strength = (off * off).sum(axis=1)
    calm = off[strength <= np.sort(strength)[int(0.88 * len(off))]]
    spread = 1.4 * (calm.T @ calm) / len(calm) + 9.0 * np.eye(3, dtype=np.float32)
    whiten = np.linalg.inv(np.linalg.cholesky(spread)).astype(np.float32)
    white = (pixels - ground) @ whiten.T
    return ground.astype(np.float32), np.sqrt((white * white).sum(axis=2))


def _background_name(ground: FloatArray) -> str:
    """The palette's background nearest in hue if it has one, else in lightness."""
    light, chroma = float(ground.mean()), float(ground.max() - ground.min())
    # Coloured backgrounds are neither darker nor lighter than this, whether dulled or not: a
    # tint beyond that belongs to a poor grey or white.
    darker, lighter = max(0.0, _COLOURED_ABOVE - light), max(0.0, light - _COLOURED_BELOW)
    if chroma > _LEAST_CHROMA + 0.4 * (darker + lighter):
        palette = draw.BACKGROUND_RGB
        return _nearest_hue(ground, {n: v for n, v in palette.items() if max(v) > min(v)})
    # Not half-way: dull colours draw white and black towards middle grey, never past these.
    return "black" if light < _BLACK_BELOW else "grey" if light < _COLOURED_ABOVE else "white"


def _object_masks(distance: FloatArray) -> list[BoolArray]:
    """One mask for each object, holes filled, in reading order."""
    strong = float(np.sort(distance, axis=None)[-80])
    threshold = max(3.2, 0.2 * strong)
    masks = _regions(distance > threshold)
    parts = [p for m in masks for p in _split(m, distance, threshold)]
    whole = [_tightened(m, distance) for m in _joined(parts)]
    large = [m for m in whole if int(m.sum()) >= _MIN_AREA]
    clear = [_contrast(m, distance) for m in large]
    # Next to a real object, a far weaker one is a blotch.
    return [m for m, c in zip(large, clear, strict=True) if c >= _WEAKEST * max(clear)][:6]


def _contrast(mask: BoolArray, distance: FloatArray) -> float:
    """How far the clearest fifth of a mask stands out at least."""
    inside = np.sort(distance[mask])
    return float(inside[-len(inside) // 5])


def _tightened(mask: BoolArray, distance: FloatArray) -> BoolArray:
    """Draw a blurred object's mask in to half of its contrast; leave a sharp one alone.

    Only a sharp object can have parts that stand out less than half, such as dark stripes.
    """
    contrast = _contrast(mask, distance)
    rim = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=1)
    slopes = np.sort(np.hypot(*_slopes(distance))[rim])
    steep = float(slopes[-len(slopes) // 6]) / contrast
    softness = min(1.0, max(0.0, (0.44 - steep) / 0.22))
    if softness == 0:
        return mask
    clear: BoolArray = mask & (distance > (0.2 + 0.27 * softness) * contrast)
    return np.asarray(ndimage.binary_fill_holes(clear))


def _slopes(field: FloatArray) -> tuple[FloatArray, FloatArray]:
    down, right = np.zeros_like(field), np.zeros_like(field)
    down[1:-1] = 0.5 * (field[2:] - field[:-2])
    right[:, 1:-1] = 0.5 * (field[:, 2:] - field[:, :-2])
    return down, right


def _regions(mask: BoolArray) -> list[BoolArray]:
    """The 4-connected regions of a mask, holes filled, in reading order."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(mask))
    return [labels == i for i in range(1, count + 1)]


def _extent(mask: BoolArray) -> int:
    return int(np.ptp(np.argwhere(mask), axis=0).max()) + 1


def _split(mask: BoolArray, distance: FloatArray, threshold: float) -> list[BoolArray]:
    """Take apart what is too large to be one object: blur has joined neighbours."""
    if int(mask.sum()) < _MIN_AREA or _extent(mask) <= _MAX_EXTENT:
        return [mask]
    for raised in (1.5, 2.0, 2.6, 3.3):
        cores = _regions(mask & (distance > raised * threshold))
        cores = [c for c in cores if int(c.sum()) >= _MIN_AREA]
        if len(cores) >= 2:
            return _share_out(mask, cores)
    halves = _cut(mask)
    return [p for h in halves for p in _split(h, distance, threshold)] if halves else [mask]


def _share_out(mask: BoolArray, cores: list[BoolArray]) -> list[BoolArray]:
    """Give each pixel of a mask to the core whose circle is nearest."""
    ys, xs = np.nonzero(mask)
    powers = []
    for core in cores:
        cy, cx = (float(v.mean()) for v in np.nonzero(core))
        powers.append((ys - cy) ** 2 + (xs - cx) ** 2 - core.sum() / math.pi)
    return _shares(mask, np.argmin(np.stack(powers), axis=0))


def _shares(mask: BoolArray, owners: IntArray) -> list[BoolArray]:
    """Take a mask apart by the owner's number of each of its pixels."""
    numbers = np.full(mask.shape, -1)
    numbers[mask] = owners
    return [numbers == i for i in range(owners.max() + 1)]


def _cut(mask: BoolArray) -> list[BoolArray]:
    """Halve a mask across its long axis where it is narrowest; empty where it has no waist."""
    ys, xs = np.nonzero(mask)
    points = np.stack([xs - xs.mean(), ys - ys.mean()])
    axis = np.linalg.eigh(points @ points.T)[1][:, 1]
    along = axis @ points
    bins = np.floor(along - along.min()).astype(int)
    widths = np.bincount(bins)
    low, high = len(widths) // 4, len(widths) - len(widths) // 4
    if high - low < 2:
        return []
    waist = low + int(np.argmin(widths[low:high]))
    if widths[waist] > 0.7 * min(widths[:waist].max(), widths[waist:].max()):
        return []
    return _shares(mask, (bins >= waist).astype(int))


def _joined(parts: list[BoolArray]) -> list[BoolArray]:
    """Put fragments back to the object they broke off: stripes or noise have cut it."""
    whole = [p for p in parts if int(p.sum()) >= 12]
    whole.sort(key=lambda p: -int(p.sum()))
    kept: list[BoolArray] = []
    for part in whole:
        home = None
        if int(part.sum()) < 90:
            home = next((i for i, k in enumerate(kept) if _belongs(part, k)), None)
        if home is None:
            kept.append(part)
        else:
            kept[home] = kept[home] | part
    return kept


def _belongs(part: BoolArray, whole: BoolArray) -> bool:
    if _extent(part | whole) > 30:
        return False
    ys, xs = np.nonzero(part)
    wy, wx = np.nonzero(whole)
    gap = np.abs(ys[:, None] - wy) + np.abs(xs[:, None] - wx)
    return int(gap.min()) <= 5


# --- hypotheses -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Silhouette:
    """Masks of one shape at T turns on one grid, scaled to area 1."""

    shape: str
    outlined: bool
    turns: FloatArray
    sides: FloatArray
    """[T, 2] square root of the mask's area at the two radii `_RADII`."""
    maps: FloatArray
    """[T, 2, _GRID**2] at the two radii, mean 0 and norm 1 each."""


@dataclass(frozen=True, kw_only=True)
class _Textures:
    """Orthonormal bases of what objects of one shape and size can look like.

    T hypotheses: every blur times every style, stripes at several phases; blur slowest. Each
    has up to three maps, of which its pixels are mixtures.
    """

    of_style: dict[str, IntArray]
    """The hypotheses of each style."""
    rows: IntArray
    """[R] index, into the T * 3 maps, of those that are used."""
    basis: FloatArray
    """[R, _GRID**2]"""
    solve: FloatArray
    """[T, 3, 3] takes the projections on `basis` to the weights of the style's maps."""


@dataclass(frozen=True, kw_only=True)
class _Pose:
    shape: str
    turn: float
    radius: float
    x: float
    y: float
    outlined: bool
    """Whether an outline is part of the mask that it was found by."""


@lru_cache(maxsize=4)
def _grid(reach: float) -> tuple[FloatArray, FloatArray]:
    axis = (np.arange(_GRID, dtype=np.float32) + 0.5) * (2 * reach / _GRID) - reach
    x, y = np.meshgrid(axis, axis)
    return x.astype(np.float32).ravel(), y.astype(np.float32).ravel()


def _margined(field: FloatArray) -> FloatArray:
    """[64, 64, C] with a margin of zeros, flat: [66 * 66, C], for `_sample`."""
    wide = np.pad(field, ((1, 1), (1, 1), (0, 0)))
    return wide.reshape((_SIZE + 2) ** 2, -1)


def _sample(margined: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear values [N, C] at N pixel positions; 0 beyond the edge."""
    width = _SIZE + 2
    x = np.minimum(np.maximum(x + np.float32(0.5), 0), np.float32(width - 1.001))
    y = np.minimum(np.maximum(y + np.float32(0.5), 0), np.float32(width - 1.001))
    left, top = x.astype(np.int32), y.astype(np.int32)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    corner = top * width + left
    a, b = margined[corner], margined[corner + width]
    upper = a + fx * (margined[corner + 1] - a)
    lower = b + fx * (margined[corner + width + 1] - b)
    return np.asarray(upper + fy * (lower - upper), dtype=np.float32)


@lru_cache(maxsize=1)
def _silhouettes() -> tuple[_Silhouette, ...]:
    """Of every shape, without an outline and with one."""
    silhouettes = []
    x, y = _grid(_MASK_REACH)
    for shape, outlined in itertools.product(grammar.SHAPES, (False, True)):
        turns = (0.0,) if shape == "circle" else _ROTATIONS
        sides, maps = [], []
        for turn, radius in itertools.product(turns, _RADII):
            distance = draw.signed_distance(shape, radius, turn)
            edge = np.float32(draw.OUTLINE_OUTSIDE if outlined else 0.0)
            mask = (distance < edge).astype(np.float32)
            side = math.sqrt(float(mask.sum()))
            sides.append(side)
            maps.append(_unit(_sample(_margined(mask[..., None]), *_around(side, x, y)).ravel()))
        silhouettes.append(
            _Silhouette(
                shape=shape,
                outlined=outlined,
                turns=np.asarray(turns, dtype=np.float32),
                sides=np.asarray(sides, dtype=np.float32).reshape(-1, 2),
                maps=np.stack(maps).reshape(-1, 2, _GRID**2),
            )
        )
    return tuple(silhouettes)


def _around(scale: float, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Positions around the middle of a picture."""
    return _SIZE / 2 + scale * x, _SIZE / 2 + scale * y


def _unit(values: FloatArray) -> FloatArray:
    centred = values - values.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-6), dtype=np.float32)


@lru_cache(maxsize=16)
def _textures(shape: str, large: bool) -> _Textures:
    radius = _RADII[int(large)]
    at = _around(radius, *_grid(_REACH))
    kinds = _style_maps(draw.signed_distance(shape, radius), radius)
    styles, rows, bases, solves = [], [], [], []
    for i, (blur, (style, maps)) in enumerate(itertools.product(_BLURS, kinds)):
        columns = [_sample(_margined(_blurred(m, blur)[..., None]), *at)[:, 0] for m in maps]
        q, r = np.linalg.qr(np.stack(columns, axis=1).astype(np.float64))
        styles.append(style)
        rows += [3 * i + j for j in range(len(maps))]
        bases.append(q.T)
        solves.append(np.pad(np.linalg.inv(r), (0, 3 - len(maps))))
    return _Textures(
        of_style={s: np.flatnonzero(np.asarray(styles) == s) for s in grammar.STYLES},
        rows=np.asarray(rows),
        basis=np.concatenate(bases).astype(np.float32),
        solve=np.stack(solves).astype(np.float32),
    )


def _style_maps(distance: FloatArray, radius: float) -> list[tuple[str, list[FloatArray]]]:
    """Pairs of a style and the maps whose mixtures it shows.

    The weight of the first map is always the object's own colour less the background's.
    """
    inside = draw.coverage(distance)
    x, y = draw.object_axes()
    inner = draw.coverage(distance + np.float32(draw.OUTLINE_INSIDE))
    outer = draw.coverage(distance - np.float32(draw.OUTLINE_OUTSIDE))
    far = draw.shade(x / radius, y / radius)
    white, dark = np.clip(1 - 2 * far, 0.0, 1.0), np.clip(2 * far - 1, 0.0, 1.0)
    kinds = [
        ("flat", [inside]),
        ("outlined", [inner, outer - inner]),
        ("shaded", [inside, inside * white, inside * dark]),
    ]
    phases = np.arange(_PHASES) / _PHASES
    kinds += [("striped", [inside, inside * draw.stripes(y, phase)]) for phase in phases]
    return [(style, [np.asarray(m, dtype=np.float32) for m in maps]) for style, maps in kinds]


def _blurred(field: FloatArray, sigma: float) -> FloatArray:
    """A map after a Gaussian blur of `sigma` pixels, by products with the kernel's matrix."""
    if sigma == 0:
        return field
    axis = np.arange(_SIZE)
    kernel = np.exp(-((axis[:, None] - axis) ** 2) / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(kernel @ field @ kernel.T, dtype=np.float32)


# --- recognition ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Match:
    """The best hypothesis of one style at one pose."""

    pose: _Pose
    style: str
    misfit: float
    """Share of the object's variation that it leaves unexplained, 0 to 1."""
    by_blur: FloatArray
    """The misfit at each of `_BLURS`, all else the same."""
    colour: FloatArray
    """The object's own colour less the background's, [3]."""


def _recognise(
    off: FloatArray, masks: Sequence[BoolArray], index: int, ground: FloatArray, background: str
) -> Seen:
    """Explain the object under one mask; `off` is the picture less its background."""
    alone = off
    for i, mask in enumerate(masks):
        if i != index:
            alone = alone * ~ndimage.binary_dilation(mask)[..., None]
    margined = _margined(alone)
    poses = _poses(masks[index])
    first = [m for pose in poses for m in _matches(margined, pose, ground)]
    shapes = dict.fromkeys(m.pose.shape for m in first)
    best = {s: min(m.misfit for m in first if m.pose.shape == s) for s in shapes}
    rivals = sorted(best, key=lambda shape: best[shape])[:_FINALISTS]
    finalists = [s for s in rivals if best[s] < 1.7 * best[rivals[0]] + 0.02]
    final = [m for m in first if m.pose.shape in finalists]
    for pose, factor in itertools.product(poses, _RADIUS_TRIES):
        if pose.shape in finalists:
            final += _matches(margined, replace(pose, radius=factor * pose.radius), ground)
    return _seen(_chosen(final), ground, background)


def _seen(match: _Match, ground: FloatArray, background: str) -> Seen:
    rgb = ground + match.colour
    chroma = float(rgb.max() - rgb.min())
    colour = _nearest_hue(rgb, draw.COLOUR_RGB) if chroma > _LEAST_CHROMA else None
    purity, contrast = 0.0, 0.0
    if colour is not None:
        pure = np.asarray(draw.COLOUR_RGB[colour], dtype=np.float32)
        full = pure - np.asarray(draw.BACKGROUND_RGB[background], dtype=np.float32)
        purity = min(1.0, chroma / float(pure.max() - pure.min()))
        contrast = min(1.0, float(np.linalg.norm(match.colour) / np.linalg.norm(full)))
    pose = match.pose
    return Seen(
        shape=pose.shape if match.misfit < _WORST_FIT else None,
        colour=colour,
        size="large" if pose.radius > SIZE_CUT else "small",
        x=pose.x,
        y=pose.y,
        radius=pose.radius,
        style=match.style,
        purity=purity,
        contrast=contrast,
        blur=_lowest_blur(match.by_blur),
    )


def _poses(mask: BoolArray) -> list[_Pose]:
    """The likely poses by the mask's silhouette, with and without an outline."""
    ys, xs = np.nonzero(mask)
    side = math.sqrt(len(xs))
    x, y = float(xs.mean()) + 0.5, float(ys.mean()) + 0.5
    bank = _silhouettes()
    gx, gy = _grid(_MASK_REACH)
    field = _margined(mask[..., None].astype(np.float32))
    seen = _unit(_sample(field, x + side * gx, y + side * gy).ravel())
    scores = [(one.maps @ seen).max(axis=1) for one in bank]
    least = max(float(s.max()) for s in scores) - _CANDIDATE_MARGIN
    poses = []
    for one, score in zip(bank, scores, strict=True):
        i = int(np.argmax(score))
        if score[i] < least:
            continue
        # The side grows linearly with the radius, also where an outline is added.
        small, large = (float(v) for v in one.sides[i])
        share = (side - small) / (large - small)
        radius = max(2.0, _RADII[0] + share * (_RADII[1] - _RADII[0]))
        poses.append(
            _Pose(
                shape=one.shape,
                turn=float(one.turns[i]),
                radius=radius,
                x=x,
                y=y,
                outlined=one.outlined,
            )
        )
    return poses


def _matches(margined: FloatArray, pose: _Pose, ground: FloatArray) -> list[_Match]:
    """The best plausible hypothesis of each style at a pose."""
    bank = _textures(pose.shape, pose.radius > SIZE_CUT)
    x, y = _grid(_REACH)
    along = np.float32(pose.radius * math.cos(pose.turn))
    across = np.float32(pose.radius * math.sin(pose.turn))
    patch = _sample(
        margined,
        np.float32(pose.x) + (along * x - across * y),
        np.float32(pose.y) + (across * x + along * y),
    )
    total = float(np.vdot(patch, patch)) + 1e-6
    count = len(bank.solve)
    weights = np.zeros((count, 3, 3), dtype=np.float32)
    weights.reshape(-1, 3)[bank.rows] = bank.basis @ patch
    misfits = 1 - np.einsum("tkc,tkc->t", weights, weights) / total
    maps = bank.solve @ weights
    each_blur = count // len(_BLURS)
    matches = []
    for style, among in bank.of_style.items():
        if (style == "outlined") != pose.outlined:
            continue
        judged = np.where(_plausible(style, maps[among], ground), misfits[among], np.inf)
        i = int(among[np.argmin(judged)])
        if math.isfinite(judged.min()):
            matches.append(
                _Match(
                    pose=pose,
                    style=style,
                    misfit=float(misfits[i]),
                    by_blur=misfits[i % each_blur :: each_blur],
                    colour=maps[i, 0],
                )
            )
    return matches


def _plausible(style: str, maps: FloatArray, ground: FloatArray) -> BoolArray:
    """Whether fitted colours [T, 3 maps, 3] are such as a style is drawn with.

    Without this the spare maps of the richer styles would explain blur and noise.
    """
    colour = ground + maps[:, 0]
    paper = float(ground.mean())
    first, second, third = maps.mean(axis=2).T
    holds: BoolArray = np.ones(len(maps), dtype=bool)
    if style == "outlined":
        light, rim, rim_rgb = paper + first, paper + second, ground + maps[:, 1]
        if paper < _BLACK_BELOW:
            holds = (rim > np.maximum(light, paper) + _LINE_CONTRAST) & (rim > 150)
        else:
            holds = (rim < np.minimum(light, paper) - _LINE_CONTRAST) & (rim < 110)
        holds &= rim_rgb.max(axis=1) - rim_rgb.min(axis=1) < 90
    elif style == "striped":
        darker = -np.einsum("tc,tc->t", maps[:, 1], colour)
        darker /= np.maximum(np.einsum("tc,tc->t", colour, colour), 1.0)
        holds = (darker > 0.2) & (darker < 1.1)
    elif style == "shaded":
        holds = (second > 10) & (second < 230) & (third < -12) & (third > -230)
    return holds


def _lowest_blur(misfits: FloatArray) -> float:
    """The blur of least misfit, between the levels tried by a parabola through three."""
    i = min(max(int(np.argmin(misfits)), 1), len(_BLURS) - 2)
    x0, x1, x2 = _BLURS[i - 1 : i + 2]
    y0, y1, y2 = (float(v) for v in misfits[i - 1 : i + 2])
    rise, further = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (further - rise) / (x2 - x0)
    if bend < 1e-9:
        return _BLURS[int(np.argmin(misfits))]
    lowest = 0.5 * (x0 + x1 - rise / bend)
    return min(max(lowest, _BLURS[0]), _BLURS[-1])


def _chosen(matches: Sequence[_Match]) -> _Match:
    """The match that explains most; flat, which the others contain, unless they do better."""
    flat = min((m for m in matches if m.style == "flat"), key=lambda m: m.misfit, default=None)
    best = min(matches, key=lambda m: m.misfit)
    if flat is None or best.misfit < _STYLE_GAIN[best.style] * flat.misfit - _STYLE_MARGIN:
        return best
    return flat


def _nearest_hue(
    rgb: FloatArray | tuple[int, int, int], palette: dict[str, tuple[int, int, int]]
) -> str:
    own = _hue(rgb)
    return max(palette, key=lambda name: math.cos(own - _hue(palette[name])))


def _hue(rgb: FloatArray | tuple[int, int, int]) -> float:
    """Angle in the plane across grey; drawing colours towards grey leaves it unchanged."""
    r, g, b = (float(v) for v in rgb)
    return math.atan2(math.sqrt(3) / 2 * (g - b), r - (g + b) / 2)


# --- measures ---------------------------------------------------------------------------


def _common_style(seen: Sequence[Seen]) -> str | None:
    area: dict[str, float] = {}
    for one in seen:
        area[one.style] = area.get(one.style, 0.0) + one.radius**2
    return max(area, key=lambda style: area[style]) if area else None


def _vividness(seen: Sequence[Seen]) -> float:
    """Mean over the objects of how pure their colours are and how far they stand out."""
    if not seen:
        return 0.0
    return sum(0.6 * s.purity + 0.4 * s.contrast for s in seen) / len(seen)


def _cleanliness(off: FloatArray, masks: Sequence[BoolArray], seen: Sequence[Seen]) -> float:
    """Half for an even background, half for sharp edges."""
    free = np.ones((_SIZE, _SIZE), dtype=bool)
    for mask in masks:
        free &= ~ndimage.binary_dilation(mask, iterations=3)
    rough = float(np.sqrt(np.mean(off[free] ** 2))) if int(free.sum()) > 50 else 64.0
    even = math.exp(-rough / _ROUGHNESS)
    sharp = sum(1 - s.blur / _BLURS[-1] for s in seen) / len(seen) if seen else 0.0
    return 0.5 * even + 0.5 * sharp


# --- agreement with a caption -----------------------------------------------------------


def agreement(percept: Percept, scene: Scene | None) -> float:
    """Share of a scene's named attributes that a percept shows, 0 to 1.

    The attributes are the count, each named shape, colour and size, the relation, background
    and style. Objects are matched to things so that most of them hold; of several things of
    one kind each counts in part. `None`, a caption that the grammar cannot parse, has
    `UNKNOWN_ALIGNMENT`.
    """
    if scene is None:
        return UNKNOWN_ALIGNMENT
    wanted = scene.things if len(scene.things) == 2 else scene.things * scene.count
    shown, matched = _best_matching(percept.objects, wanted)
    checks = [len(percept.objects) == len(wanted)]
    if scene.relation is not None:
        checks.append(_relation_holds(scene.relation, matched))
    if scene.background is not None:
        checks.append(scene.background == percept.background)
    if scene.style is not None:
        checks.append(scene.style == percept.style)
    # Three objects of one kind are one named attribute each of shape, colour and size.
    points = shown * len(scene.things) / len(wanted)
    for holds in checks:
        points += holds
    return points / (sum(len(_named(t)) for t in scene.things) + len(checks))


def _named(thing: Thing) -> list[str]:
    """The attributes that are not left open."""
    return [a for a in grammar.OF_THINGS if getattr(thing, a) is not None]


def _shown(thing: Thing, seen: Seen | None) -> int:
    """How many of them an object shows."""
    return sum(getattr(thing, a) == getattr(seen, a, None) for a in _named(thing))


def _best_matching(
    seen: Sequence[Seen], wanted: Sequence[Thing]
) -> tuple[int, tuple[Seen | None, ...]]:
    """The most attributes that objects can show at once, and the object of each thing."""
    pool: list[Seen | None] = [*seen, *[None] * max(0, len(wanted) - len(seen))]
    best, best_points = tuple(pool[: len(wanted)]), -1
    for chosen in itertools.permutations(pool, len(wanted)):
        points = sum(_shown(t, s) for t, s in zip(wanted, chosen, strict=True))
        if points > best_points:
            best, best_points = chosen, points
    return best_points, best


def _relation_holds(relation: str, matched: Sequence[Seen | None]) -> bool:
    first, second = matched
    if first is None or second is None:
        return False
    right, down = second.x - first.x, second.y - first.y
    along = {"left of": right, "right of": -right, "below": -down, "above": down}[relation]
    across = down if relation in ("left of", "right of") else right
    return along > 4.0 and along > abs(across)
