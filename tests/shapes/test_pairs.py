"""The pairs' file: the schema, the labels, and the same bytes again."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bench_plugins.preference_sets import PickAPic
from bench_plugins.shapes import draw, grammar, pairs, population
from bench_plugins.shapes.pairs import PairsConfig
from bench_plugins.shapes.prompts import PromptsConfig
from PIL import Image

from tests.tiny import save_tiny_pipeline

CONFIG = PairsConfig(captions=PromptsConfig(per_style=2, pairs=5, dev=1), steps=2, batch=2)
COLUMNS = [
    "are_different",
    "best_image_uid",
    "caption",
    "created_at",
    "has_label",
    "image_0_uid",
    "image_1_uid",
    "image_0_url",
    "image_1_url",
    "jpg_0",
    "jpg_1",
    "label_0",
    "label_1",
    "model_0",
    "model_1",
    "ranking_id",
    "user_id",
    "num_example_per_prompt",
]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    save_tiny_pipeline(folder / "pipeline")
    pairs.build_pairs(CONFIG, folder / "work", folder, lambda _: None)
    return folder


def test_the_file_has_the_schema(assets: Path) -> None:
    table = pq.read_table(assets / pairs.PAIRS_FILE)
    assert table.column_names == COLUMNS
    assert str(table.schema.field("label_0").type) == "double"
    assert str(table.schema.field("jpg_0").type) == "binary"
    assert str(table.schema.field("created_at").type) == "timestamp[ns]"
    assert len(list(PickAPic(path=str(assets / pairs.PAIRS_FILE)).read())) == 5


def test_labels_agree_with_the_best_image(assets: Path) -> None:
    for row in pq.read_table(assets / pairs.PAIRS_FILE).to_pylist():
        assert row["label_0"] + row["label_1"] == 1.0
        best = {1.0: row["image_0_uid"], 0.0: row["image_1_uid"], 0.5: "tie"}[row["label_0"]]
        assert row["best_image_uid"] == best
        assert 0 <= row["user_id"] < population.PEOPLE


def test_the_same_seed_gives_the_same_bytes(assets: Path, tmp_path: Path) -> None:
    (tmp_path / "pipeline").symlink_to(assets / "pipeline")
    pairs.build_pairs(CONFIG, tmp_path / "work", tmp_path, lambda _: None)
    again = (tmp_path / pairs.PAIRS_FILE).read_bytes()
    assert again == (assets / pairs.PAIRS_FILE).read_bytes()


def test_sampling_continues_and_a_finished_file_is_kept(assets: Path, tmp_path: Path) -> None:
    told: list[str] = []
    pairs.build_pairs(CONFIG, assets / "work", assets, told.append)
    assert told == ["pairs: there already"]
    # Other labels from the same samples: nothing is sampled again.
    (tmp_path / "pipeline").symlink_to(assets / "pipeline")
    told.clear()
    other = replace(CONFIG, jpeg_quality=50)
    pairs.build_pairs(other, assets / "work", tmp_path, told.append)
    assert not any("sampled" in line for line in told)


def test_people_judge_the_picture_that_the_file_holds() -> None:
    rng = random.Random(0)
    scene = grammar.fill(grammar.sample_scene(rng), rng)
    good = draw.render(scene, rng)
    bad = draw.degrade(good, rng, "dull")
    labels = [
        pairs.label_pair(grammar.caption(scene), (good, bad), i, CONFIG).label for i in range(40)
    ]
    assert np.mean(labels) > 0.6
    shown = pairs.label_pair(grammar.caption(scene), (good, bad), 0, CONFIG).jpegs[0]
    picture = np.asarray(Image.open(io.BytesIO(shown)), dtype=np.int16)
    assert picture.shape == good.shape
    assert np.abs(picture - good).mean() < 4
