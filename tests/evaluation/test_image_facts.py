"""Facts of pictures made by hand, whose right values are known."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from bench.scoring import image_facts


def _of(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.asarray(pixels, dtype=np.uint8))


def _flat(*colour: int, side: int = 40) -> Image.Image:
    return _of(np.broadcast_to(np.array(colour), (side, side, 3)))


def _checkerboard(side: int, square: int = 1) -> Image.Image:
    grid = np.add.outer(np.arange(side) // square, np.arange(side) // square) % 2
    return _of(np.repeat(255 * grid[..., None], 3, axis=-1))


def _noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)


def _facts(image: Image.Image) -> dict[str, float]:
    return dict(zip(image_facts.FACTS, image_facts.facts(image).tolist(), strict=True))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (_flat(128, 128, 128), {"saturation": 0, "contrast": 0, "sharpness": 0, "clipping": 0}),
        (_flat(255, 255, 255), {"saturation": 0, "contrast": 0, "sharpness": 0, "clipping": 1}),
        (_flat(0, 0, 0), {"saturation": 0, "contrast": 0, "sharpness": 0, "clipping": 1}),
        (_flat(255, 0, 0), {"saturation": 1, "contrast": 0, "sharpness": 0, "clipping": 1}),
        (_flat(200, 100, 150), {"saturation": 0.5, "contrast": 0, "sharpness": 0, "clipping": 0}),
        (_flat(255, 100, 150), {"saturation": 0.607843, "clipping": 0.333333}),
        (_checkerboard(40), {"saturation": 0, "contrast": 1, "sharpness": 1, "clipping": 1}),
        (_flat(9, 20, 30, side=2), {"sharpness": 0}),
    ],
)
def test_facts_of_pictures_made_by_hand(image: Image.Image, expected: dict[str, float]) -> None:
    found = _facts(image)
    assert {name: found[name] for name in expected} == expected


def test_facts_are_what_their_formulas_say() -> None:
    """Against the formulas written out pixel by pixel."""
    pixels = _noise(1)
    pixels[:5, :9] = 0
    found = _facts(_of(pixels))
    hsv = [colorsys.rgb_to_hsv(*(p / 255)) for p in pixels.reshape(-1, 3)]
    assert found["saturation"] == pytest.approx(np.mean([s for _, s, _ in hsv]), abs=1e-6)
    luma = np.round(pixels @ [0.299, 0.587, 0.114]) / 255
    assert found["contrast"] == pytest.approx(2 * luma.std(), abs=1e-3)
    height, width = luma.shape
    laplacian = [
        4 * luma[y, x] - luma[y - 1, x] - luma[y + 1, x] - luma[y, x - 1] - luma[y, x + 1]
        for y in range(1, height - 1)
        for x in range(1, width - 1)
    ]
    assert found["sharpness"] == pytest.approx(np.std(laplacian) / 4, abs=1e-3)
    assert found["clipping"] == pytest.approx(np.mean((pixels == 0) | (pixels == 255)), abs=1e-6)


def test_larger_squares_are_less_sharp_and_as_contrasty() -> None:
    fine, coarse = _facts(_checkerboard(64)), _facts(_checkerboard(64, square=8))
    assert coarse["contrast"] == fine["contrast"] == 1
    assert coarse["sharpness"] < 0.6 * fine["sharpness"]


@pytest.mark.parametrize(
    ("change", "fact", "up"),
    [
        (lambda p: np.clip(p * 1.5, 0, 255), "clipping", True),
        (lambda p: 128 + (p - 128.0) / 2, "contrast", False),
        (lambda p: p.mean(axis=-1, keepdims=True).repeat(3, axis=-1), "saturation", False),
        (lambda p: (p + np.roll(p, 1, axis=0).astype(float)) / 2, "sharpness", False),
    ],
)
def test_a_change_of_the_picture_moves_its_fact(
    change: Callable[[np.ndarray], np.ndarray], fact: str, up: bool
) -> None:
    pixels = _noise(2)
    before, after = _facts(_of(pixels))[fact], _facts(_of(change(pixels)))[fact]
    assert (after > before) == up
    assert before != after


def test_facts_know_neither_the_place_of_pixels_in_memory_nor_their_size_in_it() -> None:
    pixels = _noise(3)
    turned = _of(pixels.transpose(1, 0, 2))
    assert _facts(turned) == _facts(_of(pixels))


def test_diversity_of_pictures_made_by_hand() -> None:
    black, white, grey = _flat(0, 0, 0), _flat(255, 255, 255), _flat(51, 51, 51)
    assert image_facts.diversity([black, black]) == 0
    assert image_facts.diversity([black, white]) == 1
    assert image_facts.diversity([black, grey]) == 0.2
    # The mean over the three pairs: 1, 0.2 and 0.8.
    assert image_facts.diversity([black, white, grey]) == pytest.approx(2 / 3, abs=1e-6)
    # Red against black differs in one of three channels.
    assert image_facts.diversity([black, _flat(255, 0, 0)]) == pytest.approx(3**-0.5, abs=1e-6)


def test_diversity_compares_pictures_at_its_own_size() -> None:
    """Detail finer than a box is averaged, and the sizes need not be the same."""
    grey = _flat(127, 127, 127, side=64)
    assert image_facts.diversity([_checkerboard(64), grey]) < 0.01
    assert image_facts.diversity([_flat(10, 20, 30, side=64), _flat(10, 20, 30, side=96)]) == 0
    assert image_facts.diversity([_checkerboard(64, square=8), grey]) > 0.49


def test_a_collapsed_prompt_is_less_diverse() -> None:
    pixels = np.kron(_noise(4, 8, 8), np.ones((8, 8, 1)))
    others = [np.kron(_noise(seed, 8, 8), np.ones((8, 8, 1))) for seed in (5, 6)]
    alike = [np.clip(pixels + shift, 0, 255) for shift in (0, 3, 6)]
    diverse = image_facts.diversity([_of(p) for p in (pixels, *others)])
    assert image_facts.diversity([_of(p) for p in alike]) < 0.1 * diverse
