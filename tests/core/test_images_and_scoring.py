from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.lib.errors import BenchError
from bench.lib.images import decode, fit, upright_rgb
from bench.lib.prefetch import ahead
from bench.scoring.chunks import CHUNK, score_in_chunks


def _encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(_encoded(Image.new(mode, (5, 3)), form)).mode == "RGB"


@pytest.mark.parametrize(
    ("header", "dtype", "levels"),
    [(b"P5 2 1 65535 ", ">u2", (0x8012, 0xFF00)), (b"P5 2 1 255 ", "u1", (0x80, 0xFF))],
)
def test_greyscale_of_any_depth_keeps_its_brightness(
    header: bytes, dtype: str, levels: tuple[int, int]
) -> None:
    image = decode(header + np.array(levels, dtype).tobytes())
    assert [image.getpixel((x, 0))[0] for x in (0, 1)] == [0x80, 0xFF]
    assert upright_rgb(Image.new("I", (1, 1), 200)).getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("F", (2, 2), 0.5), "of floats"),
        (Image.new("I", (2, 2), 1 << 20), "of 32-bit integers"),
        (Image.new("I", (2, 2), -1), "of 32-bit integers"),
    ],
)
def test_images_of_no_known_range_are_refused(image: Image.Image, kind: str) -> None:
    with pytest.raises(ValueError, match=f"an image {kind}, whose range is not known"):
        decode(_encoded(image, "TIFF"))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_threads_may_share_an_image_that_is_not_yet_read(form: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "image").write_bytes(_encoded(Image.fromarray(pixels), form, exif=exif))
    expected = np.asarray(decode((tmp_path / "image").read_bytes()))
    for _ in range(5):
        with Image.open(tmp_path / "image") as shared:
            found = [*ahead(upright_rgb, [shared] * 8, depth=8, threads=8)]
        for image in found:
            np.testing.assert_array_equal(image, expected)


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(_encoded(image, "JPEG", exif=exif)).size == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_orientation_is_undone_once(orientation: int, form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encoded(Image.fromarray(pixels), form, exif=exif)
    found = decode(data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(upright_rgb(found), found)


def test_another_broken_exif_tag_does_not_matter() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    # The resolution as a number of bytes instead of a fraction, which cannot be written back.
    broken = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x01")
    assert broken != exif.tobytes()
    data = _encoded(Image.new("RGB", (6, 4)), "JPEG", exif=broken)
    assert decode(data).size == (4, 6)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).quantize(40)
    plain = np.asarray(image.convert("RGB"))
    data = _encoded(image, transparency=bytes(range(40)))
    np.testing.assert_array_equal(decode(data), plain)
    assert not recwarn.list


@pytest.mark.parametrize("harm", ["empty", "text", "truncated"])
def test_broken_bytes_say_what_is_wrong(harm: str) -> None:
    whole = _encoded(Image.effect_noise((32, 32), 50).convert("RGB"), "JPEG")
    data = {"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}[harm]
    with pytest.raises(ValueError, match=r"cannot identify|(?i:truncated)"):
        decode(data)


def test_fit_scales_the_short_side_and_cuts_the_centre() -> None:
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 15:25] = 255
    fitted = np.asarray(fit(Image.fromarray(pixels), 20))
    assert fitted.shape == (20, 20, 3)
    assert fitted[:, 1:-1].min() == 255
    square = Image.new("RGB", (20, 20))
    assert fit(square, 20) is square


class _Counting:
    """Scores image i (whose red is i) by i, and counts what it was shown."""

    def __init__(self) -> None:
        self.shown = 0

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        self.shown += len(images)
        assert [prompt.split()[1] for prompt in prompts] == [
            str(image.getpixel((0, 0))[0]) for image in images
        ]
        return np.array([image.getpixel((0, 0))[0] for image in images], dtype=np.float64)


def _score(work: Path, scorer: _Counting, count: int = 150) -> np.ndarray:
    prompts = [f"image {i}" for i in range(count)]
    return score_in_chunks(
        lambda: scorer,
        "counting",
        lambda positions: (Image.new("RGB", (1, 1), (i, 0, 0)) for i in positions),
        prompts,
        work,
        lambda done: None,
    )


def test_images_meet_their_own_prompts_and_no_chunk_is_scored_twice(tmp_path: Path) -> None:
    scorer = _Counting()
    first = _score(tmp_path, scorer)
    np.testing.assert_array_equal(first, np.arange(150))
    assert scorer.shown == 150
    np.testing.assert_array_equal(_score(tmp_path, scorer), first)
    assert scorer.shown == 150


def test_a_damaged_chunk_is_scored_again(tmp_path: Path) -> None:
    scorer = _Counting()
    first = _score(tmp_path, scorer)
    chunk = sorted(tmp_path.glob("*.npy"))[1]
    chunk.write_bytes(chunk.read_bytes()[:-9])
    np.testing.assert_array_equal(_score(tmp_path, scorer), first)
    assert scorer.shown == 150 + CHUNK


@pytest.mark.parametrize(
    ("result", "message"),
    [([1.0], r"gave shape \(1,\) for 2 images"), ([1.0, np.inf], "no finite score for image 1")],
)
def test_wrong_scores_are_refused(tmp_path: Path, result: list[float], message: str) -> None:
    class Wrong:
        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
            return np.array(result)

    image = Image.new("RGB", (1, 1))
    with pytest.raises(BenchError, match=message):
        score_in_chunks(
            Wrong, "wrong", lambda _: [image, image], ["a", "b"], tmp_path, lambda n: None
        )
