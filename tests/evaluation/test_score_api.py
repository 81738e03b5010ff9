"""`bench.score` as notebooks call it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import bench
from bench.lib.errors import BenchError
from tests import toy
from tests.reward_models import cases, material


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)


def test_images_may_be_pictures_paths_or_bytes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (30, 1, 2)).save(buffer, "PNG")
    Image.new("RGB", (2, 2), (40, 1, 2)).save(tmp_path / "a.png")
    images = [
        Image.new("RGBA", (2, 2), (10, 1, 2, 0)),
        Image.new("L", (2, 2), 20),
        buffer.getvalue(),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    found = bench.score(images, ["a"] * 5, ["channel", "channel[index=2]"], device="cpu")
    assert list(found.columns) == ["channel", "channel[index=2]"]
    assert found["channel"].tolist() == [10, 20, 30, 40, 40]
    assert found["channel[index=2]"].tolist() == [2, 20, 2, 2, 2]
    assert found["channel"].dtype == np.float64


def test_tensors_are_images() -> None:
    floats = torch.full((2, 3, 2, 2), 30 / 255)
    floats[1] = 1
    assert bench.score(floats, ["a"] * 2, ["channel"], device="cpu")["channel"].tolist() == [
        30,
        255,
    ]
    whole = torch.full((1, 2, 3), 7, dtype=torch.uint8)
    assert bench.score([whole], ["a"], ["channel"], device="cpu")["channel"].tolist() == [7]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 2, 2), 1.5), r"image 0: a tensor with values from 1\.5 to 1\.5, not in"),
        (torch.full((3, 2, 2), float("nan")), "image 0: a tensor with values from nan to nan"),
        (torch.zeros(2, 2, 3), r"image 0: a tensor of shape \(2, 2, 3\) instead of \[3, height"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "image 0: a tensor of torch.int64: give uint8"),
        (np.zeros((2, 2, 3)), "image 0: neither a PIL image nor a tensor but ndarray"),
    ],
)
def test_other_arrays_are_refused(image: object, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        bench.score([image], ["a"], ["channel"], device="cpu")


def test_more_images_than_fit_into_a_chunk_stay_in_order() -> None:
    images = [Image.new("RGB", (1, 1), (i, 0, 0)) for i in range(200)]
    found = bench.score(images, [str(i) for i in range(200)], ["channel"], device="cpu")
    assert found["channel"].tolist() == [*range(200)]
    assert bench.score([], [], ["channel"], device="cpu")["channel"].tolist() == []


class Loaded:
    """Scores by the prompt's number, and by the image's red."""

    def score(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        reds = [image.getpixel((0, 0))[0] for image in images]
        return np.array([1000 * float(prompt) for prompt in prompts]) + reds


def test_columns_of_a_table_are_taken_by_position_whatever_their_labels() -> None:
    images = [Image.new("RGB", (1, 1), (i, 0, 0)) for i in range(4)]
    table = pd.DataFrame({"image": images, "prompt": [*"0123"]}).iloc[[3, 0, 2]]
    expected = [3003, 0, 2002]
    for given in (table["image"], list(table["image"]), iter(table["image"])):
        assert bench.score(given, table["prompt"], {"own": Loaded()})["own"].tolist() == expected


def test_a_real_scorer_gives_what_it_gives_by_itself_and_warns_of_cut_prompts(
    tmp_path: Path,
) -> None:
    scorer = cases.make("hpsv2", tmp_path).scorer
    images, prompts = [*material.pictures().values()], [*material.PROMPTS]
    with pytest.warns(UserWarning, match="hps reads only the beginning of 1 of 8") as warned:
        found = bench.score(images, prompts, {"hps": scorer}, device="cpu")
    assert warned[0].filename == __file__
    np.testing.assert_array_equal(found["hps"], scorer.load("cpu").score(images, prompts))


def test_a_loaded_scorer_is_not_loaded_again() -> None:
    image = Image.new("RGB", (1, 1), (7, 0, 0))
    found = bench.score([image] * 2, ["1", "3"], {"own": Loaded(), "red": toy.Channel()}, "cpu")
    assert found["own"].tolist() == [1007, 3007]
    assert found["red"].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("images", "prompts", "scorers", "message"),
    [
        ([b""], ["a", "b"], ["channel"], "1 images but 2 prompts"),
        (["gone.png"], ["a"], ["channel"], r"image 0: gone\.png: .*No such file"),
        ([b"", b"no"], ["a", "b"], ["channel"], "image 0: cannot identify image file"),
        ("a.png", ["a"], ["channel"], "lists, even of one"),
        (["a.png"], "a", ["channel"], "lists, even of one"),
        ([b""], ["a"], "channel", r"scorers is a list, even of one: \['channel'\]"),
        ([b""], ["a"], [], "scorers names nothing"),
        ([b""], ["a"], ["chanel"], "unknown scorer 'chanel'. Did you mean 'channel'"),
        ([b""], ["a"], [Loaded()], r'scorers holds .*Loaded.* given with .*: \{"name": scorer\}'),
        ([b""], ["a"], [3], "scorers holds 3, which is neither"),
        ([b""], ["a"], {"own": Loaded}, r"scorers\['own'\] is neither a scorer's spec"),
        ([b"", b""], ["a", None], ["channel"], "prompt 1 is None, no text"),
        ([b"", b""], ["a", np.nan], ["channel"], "prompt 1 is nan, no text"),
    ],
)
def test_mistakes_are_named(
    images: list[bytes], prompts: list[str], scorers: object, message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        bench.score(images, prompts, scorers, device="cpu")


def test_importing_bench_stays_light() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'PIL'}"
    command = f"import sys, bench; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
