"""Images of any size and mode become what the networks see."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from bench_plugins.reward_models.pictures import (
    MEAN,
    SIZE,
    STD,
    cropped,
    padded,
    upright_rgb,
)
from PIL import Image
from torchvision import transforms

from bench.lib.images import decode
from tests.reward_models import material

PICTURES = material.pictures()


def _eight_bit(picture: torch.Tensor) -> np.ndarray:
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return ((picture * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", PICTURES)
def test_shortest_side_is_torchvisions_pillow_path(name):
    official = transforms.Compose(
        [
            transforms.Resize(SIZE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = PICTURES[name].convert("RGB")
    torch.testing.assert_close(cropped(image), official(image), rtol=0, atol=1e-6)


def test_an_odd_spare_pixel_is_cut_where_each_official_code_cuts_it():
    image = Image.fromarray(np.arange(227, dtype=np.uint8)[None].repeat(224, 0)).convert("RGB")
    assert _eight_bit(cropped(image))[0, 0, 0] == 2
    assert _eight_bit(cropped(image, "transformers"))[0, 0, 0] == 1


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("name", [n for n in PICTURES if n != "exact"])
def test_longest_side_is_torchvisions_tensor_path_and_padding(name, antialias):
    pixels = transforms.functional.to_tensor(PICTURES[name].convert("RGB"))[None]
    height, width = pixels.shape[-2:]
    scale = SIZE / max(height, width)
    new = [round(height * scale), round(width * scale)]
    resized = transforms.functional.resize(
        pixels, new, transforms.InterpolationMode.BICUBIC, antialias=antialias
    )
    left, top = (SIZE - new[1]) // 2, (SIZE - new[0]) // 2
    framed = torch.zeros(1, 3, SIZE, SIZE)
    framed[..., top : top + new[0], left : left + new[1]] = resized
    expected = transforms.functional.normalize(framed, MEAN, STD)
    found = padded(PICTURES[name].convert("RGB"), antialias)
    torch.testing.assert_close(found[None], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(224, 100), (100, 224)])
def test_an_image_already_224_long_is_padded_with_black(size):
    image = Image.new("RGB", size, "white")
    seen = _eight_bit(padded(image))
    white = np.full((size[1], size[0]), 255)
    top, left = (SIZE - size[1]) // 2, (SIZE - size[0]) // 2
    np.testing.assert_array_equal(seen[top : top + size[1], left : left + size[0], 0], white)
    assert seen[..., 0].sum() == white.sum()


def test_extreme_shapes_are_seen():
    for size in ((1, 600), (600, 1), (1, 1)):
        assert padded(Image.new("RGB", size)).shape == (3, SIZE, SIZE)
        assert cropped(Image.new("RGB", size)).shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_every_mode_becomes_upright_rgb(mode):
    image = PICTURES["small"].convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image, dtype=np.uint16) * 257)
    assert image.mode == mode
    rgb = upright_rgb(image)
    assert rgb.mode == "RGB"
    if mode in ("L", "LA", "I;16"):
        np.testing.assert_array_equal(rgb, PICTURES["small"].convert("L").convert("RGB"))
    elif mode == "RGBA":
        np.testing.assert_array_equal(rgb, PICTURES["small"])


def test_exif_rotation_is_applied_as_bench_does_it_to_files():
    image = PICTURES["wide"]
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(buffer.getvalue()))
    assert turned.size == image.size
    np.testing.assert_array_equal(upright_rgb(turned), image.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(upright_rgb(turned), decode(buffer.getvalue()))


def test_transparent_images_are_seen_as_bench_sees_files():
    source = np.random.default_rng(0)
    image = Image.fromarray(source.integers(0, 256, (60, 90, 4), dtype=np.uint8), "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    for prepare in (cropped, padded):
        assert torch.equal(prepare(image), prepare(decode(buffer.getvalue())))
