"""10,000 pairs through `bench run`: exact counts, and the same bytes after kills at every stage."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from bench.recipe import recipe as recipes
from bench.registry.registry import default_registry
from bench.running import planning
from bench.stages.stage import Stage
from bench.store.store import Store
from tests import toy
from tests.tiny import save_tiny_sd1

pytestmark = pytest.mark.slow

PAIRS, BROKEN, TIES = 10_000, 100, 1_200
SIZES = ((24, 24), (24, 36), (40, 24))
"""Width and height of the three shapes of images."""
STAGES = ("inspect", "encode", "rewards", "train", "sample", "score")


def _is_broken(row: int) -> bool:
    """1 of 100; none of them is a tie."""
    return row % 100 == 37


def _label(row: int) -> float:
    """12 ties in 100, the rest in turns."""
    return 0.5 if row % 25 in (3, 11, 19) else float(row % 2)


def _pictures() -> list[bytes]:
    """JPEGs of one colour under noise, 60 of each shape."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(180):
        width, height = SIZES[number % 3]
        pixels = rng.integers(0, 256, 3) + rng.normal(0, 12, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def write_pairs(path: Path) -> None:
    """`PAIRS` pairs in Pick-a-Pic's schema, in row groups of 500."""
    pictures = _pictures()
    # Text, a file that ends early, nothing at all.
    harmed = (b"no picture", pictures[0][:200], None)
    table = pa.table(
        {
            "caption": [f"picture {row % 997}" for row in range(PAIRS)],
            "jpg_0": [pictures[row % 180] for row in range(PAIRS)],
            "jpg_1": [
                harmed[row // 100 % 3] if _is_broken(row) else pictures[(7 * row + 3) % 180]
                for row in range(PAIRS)
            ],
            "label_0": [_label(row) for row in range(PAIRS)],
            "label_1": [1 - _label(row) for row in range(PAIRS)],
        }
    )
    pq.write_table(table, path, row_group_size=500)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ten-thousand")
    write_pairs(folder / "pairs.parquet")
    save_tiny_sd1(folder / "pipeline")
    data = {
        "name": "ten-thousand",
        "backbone": f"sd15[path={folder / 'pipeline'}]",
        "pairs": str(folder / "pairs.parquet"),
        "prompts": [str(toy.write_prompts(folder / "prompts.tsv", count=192))],
        "scorers": ["shapes_aesthetic"],
        "label_scorers": ["shapes_aesthetic"],
        "methods": ["dpo", "dpo[labels=average]"],
        "training": {"steps": 40, "batch_size": 16, "checkpoint_every": 4},
        "sampling": {"steps": 3, "guidance": 2.0, "batch_size": 8},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def _start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    places = ["--store", str(folder / "store"), "--out", str(folder / "board")]
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "--recipe", str(recipe), "--device", "cpu", *places],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=(folder / "told.txt").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(recipe: Path, folder: Path) -> str:
    code = _start(recipe, folder).wait()
    told = (folder / "told.txt").read_text()
    assert code == 0, told
    return told


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "printed.txt").write_text(_finish(recipe, folder))
    return folder


def _stages(recipe: Path) -> Iterator[Stage]:
    registry = default_registry()
    yield from planning.make(recipes.load(registry, str(recipe)), registry).stages


def test_every_count_is_exact(recipe: Path, whole: Path) -> None:
    store = Store(whole / "store")
    by_name = {stage.name: store.find(stage.name, stage.key) for stage in _stages(recipe)}
    inspected, rewards = by_name["inspect"], by_name["rewards"]
    assert inspected is not None
    assert rewards is not None
    usable = PAIRS - BROKEN
    expected = {"pairs": PAIRS, "broken": BROKEN, "ties": TIES, "usable": usable}
    assert {name: inspected.info[name] for name in expected} == expected
    skipped = pd.read_csv(inspected.path / "skipped.csv")
    assert skipped["row"].tolist() == [row for row in range(PAIRS) if _is_broken(row)]
    reasons = skipped["reason"].str.slice(0, 30).value_counts().to_dict()
    assert reasons["image_1: cannot identify image"[:30]] == 34
    assert reasons["jpg_1: there is no image"] == 33
    table = pd.read_parquet(inspected.path / "pairs.parquet")
    assert table["row"].tolist() == [row for row in range(PAIRS) if not _is_broken(row)]
    assert table["human"].tolist() == [_label(row) for row in table["row"]]
    scored = pd.read_parquet(rewards.path / "rewards.parquet")
    assert scored["row"].tolist() == table["row"].tolist()
    budgets = {}
    for path in (whole / "board" / "results").glob("*.json"):
        record = json.loads(path.read_text())["record"]
        budgets[record["method"]] = record.get("budget")
    human, average = budgets["dpo"], budgets["dpo[labels=average]"]
    assert (human["pairs_kept"], human["pairs_dropped"]) == (usable - TIES, TIES)
    assert average["pairs_kept"] + average["pairs_dropped"] == usable
    assert human["pairs_seen"] == average["pairs_seen"] == 40 * 16
    told = (whole / "printed.txt").read_text()
    assert "100 of 10000 pairs skipped, 100 broken: row 37 (image_1: cannot identify" in told


def test_images_of_one_pair_get_their_own_rewards(recipe: Path, whole: Path) -> None:
    """Every image stands in many pairs; its reward is the same in all of them."""
    store = Store(whole / "store")
    stage = next(stage for stage in _stages(recipe) if stage.name == "rewards")
    rewards = pd.read_parquet(store.path(stage.name, stage.key) / "rewards.parquet")
    picture_0 = rewards["row"] % 180
    picture_1 = (7 * rewards["row"] + 3) % 180
    assert rewards.groupby(picture_0)["reward_0"].nunique().max() == 1
    assert rewards.groupby(picture_1)["reward_1"].nunique().max() == 1
    first = rewards.groupby(picture_0)["reward_0"].first()
    second = rewards.groupby(picture_1)["reward_1"].first()
    both = first.index.intersection(second.index)
    np.testing.assert_allclose(first[both], second[both], rtol=1e-5)
    assert first.nunique() > 150


def _kill_when(process: subprocess.Popen[str], begun: Callable[[], bool]) -> bool:
    """SIGKILL the process once `begun`; False if it had ended by then."""
    while not begun():
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _has_work(partials: list[Path]) -> bool:
    """Whether a stage has saved something that the next start goes on from."""
    return any(
        file.is_file() and not file.name.startswith(".")
        for partial in partials
        for part in ("work", "out")
        for file in (partial / part).rglob("*")
    )


def test_killed_in_every_stage_it_ends_with_the_same_bytes(
    recipe: Path, whole: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    keys = {name: [stage.key for stage in _stages(recipe) if stage.name == name] for name in STAGES}
    for name in STAGES:
        partials = [root / "partial" / key for key in keys[name]]
        for _ in range(5):
            if _kill_when(_start(recipe, tmp_path), lambda paths=partials: _has_work(paths)):
                break
            # It was too quick: let it do this stage again, and those that come after.
            for later in STAGES[STAGES.index(name) :]:
                shutil.rmtree(root / "artefacts" / later, ignore_errors=True)
        else:
            pytest.fail(f"{name} could not be killed halfway")
        unfinished = [path for path in partials if path.exists()]
        assert len(unfinished) == 1
        assert _has_work(unfinished)
    _finish(recipe, tmp_path)
    assert toy.artefacts(Store(root)) == toy.artefacts(Store(whole / "store"))
    assert not list((root / "partial").iterdir())
