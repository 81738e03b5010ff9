from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import BenchError
from bench.evaluation.scoring import CHUNK, score_in_chunks
from bench.images import decode, fit


def _encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(_encoded(Image.new(mode, (5, 3)), form)).mode == "RGB"


def test_exif_rotation_is_applied() -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(_encoded(image, "JPEG", exif=exif)).size == (4, 6)


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
