from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.lib import contact_sheet as module
from bench.lib.contact_sheet import choose_prompts, contact_sheet
from bench.lib.errors import BenchError


def picture(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def test_prompts_are_spread_evenly() -> None:
    assert choose_prompts(100, 4) == (12, 37, 62, 87)
    assert choose_prompts(3, 8) == (0, 1, 2)
    assert choose_prompts(0, 8) == ()
    assert len(set(choose_prompts(1632, 200))) == 200


def test_each_image_stands_under_its_method_and_beside_its_prompt(tmp_path: Path) -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    rows = [
        ("first", [picture(tmp_path / "a.png", (64, 64), red), None]),
        ("second", [None, picture(tmp_path / "b.png", (64, 64), blue)]),
    ]
    sheet = contact_sheet(rows, ["base", "dpo"])
    pixels = np.asarray(sheet)
    ys, xs = np.nonzero((pixels == red).all(axis=2))
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (128, 128)
    below, right = np.nonzero((pixels == blue).all(axis=2))
    assert below.min() - ys.min() == right.min() - xs.min() == 128 + module.MARGIN
    grey = tuple(int(module.EMPTY[i : i + 2], 16) for i in (1, 3, 5))
    assert (pixels == grey).all(axis=2).sum() > 128 * 128


def test_whole_multiples_keep_the_pixels(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    sheet = np.asarray(contact_sheet([("p", [path])], ["base"]))
    left = module.CAPTION_WIDTH + 2 * module.MARGIN
    top = sheet.shape[0] - 128 - module.MARGIN
    assert (sheet[top : top + 128, left : left + 128][2::4, 2::4] == noise).all()


def test_large_and_oblong_images_are_reduced_to_fit(tmp_path: Path) -> None:
    path = picture(tmp_path / "wide.png", (1024, 512), (0, 255, 0))
    pixels = np.asarray(contact_sheet([("p", [path])], ["base"]))
    ys, xs = np.nonzero((pixels == (0, 255, 0)).all(axis=2))
    assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (256, 128)


def test_long_prompts_and_headings_wrap_inside_their_cells(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (64, 64), (255, 0, 0))
    rows = [("many words " * 60, [path, path]), ("w" * 300, [path, path])]
    pixels = np.asarray(contact_sheet(rows, ["smpo[labels=majority_vote,beta=500]", "base"]))
    # Two pixels of slack: letters may overshoot the width they advance by.
    gutter = slice(
        module.CAPTION_WIDTH + module.MARGIN + 2, module.CAPTION_WIDTH + 2 * module.MARGIN
    )
    assert (pixels[:, gutter] == 255).all()


def test_wrong_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="1 images for 2 columns under prompt 'p'"):
        contact_sheet([("p", [None])], ["a", "b"])
    with pytest.raises(BenchError, match="at least one prompt"):
        contact_sheet([], ["a"])
    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(BenchError, match=r"x\.png: cannot be read as an image"):
        contact_sheet([("p", [tmp_path / "x.png"])], ["a"])
