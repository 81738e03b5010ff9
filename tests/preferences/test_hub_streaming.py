"""Pairs streamed from a Hub by `datasets` itself; only the Hub is on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.preferences.local_hub import COMMIT, local_hub
from tests.toy import jpeg

pytest.importorskip("datasets")

REPO = "me/pairs"
CARD = """---
dataset_info:
  splits:
  - name: train
    num_bytes: 1
    num_examples: 40
  - name: test
    num_bytes: 1
    num_examples: 4
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
"""

# A process of its own: the clients read their environment when they are imported.
CLIENT = """
import json, sys
from bench.registry.registry import default_registry

for spec in json.loads(sys.stdin.read()):
    answer = {}
    try:
        pairs = default_registry().build("preference_sets", spec)
        answer["fingerprint"], answer["count"] = pairs.fingerprint(), pairs.count()
        answer["source"] = pairs.source
        read = list(pairs.read([1, 25] if pairs.count() > 25 else None))
        answer["pairs"] = [[p.row, p.caption, p.human, len(p.images[0].data)] for p in read]
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(answer))
"""


def _shards() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for split, rows in (("train", 20), ("test", 2)):
        for shard in range(2):
            frame = pd.DataFrame(
                {
                    "caption": [f"{split} {shard} {i}" for i in range(rows)],
                    "jpg_0": [jpeg(rng, 8) for _ in range(rows)],
                    "jpg_1": [jpeg(rng, 8) for _ in range(rows)],
                    "label_0": [float(i % 2) for i in range(rows)],
                }
            )
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            files[f"data/{split}-{shard:05d}-of-00002-0abc.parquet"] = buffer.getvalue()
    return files


def _ask(specs: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(specs),
        env=own | environment | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_pairs_are_streamed_from_a_pinned_commit(tmp_path: Path) -> None:
    shards = _shards()
    columns = "prompt=caption,image_0=jpg_0,image_1=jpg_1,label=label_0"
    sets = {REPO: shards | {"README.md": CARD.encode()}, "me/uncounted": shards}
    with local_hub(sets) as endpoint:
        train, test, pinned, unnamed, misspelt, gone, wrong, uncounted = _ask(
            [
                f"pickapic[path={REPO},split=train]",
                f"table[path={REPO},split=test,{columns}]",
                f"pickapic[path={REPO},split=test,revision={COMMIT}]",
                f"pickapic:{REPO}",
                f"pickapic[path={REPO},split=tain]",
                "pickapic:me/gone",
                f"pickapic[path={REPO},split=train,revision=v9]",
                "pickapic[path=me/uncounted,split=train]",
            ],
            {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)},
        )
    frame = pd.read_parquet(io.BytesIO(shards["data/train-00001-of-00002-0abc.parquet"]))
    assert train["fingerprint"] == f"{REPO}@{COMMIT}/train"
    assert (train["count"], train["source"]) == (40, f"{REPO}@main, split train")
    assert train["pairs"][1] == [25, "train 1 5", 1.0, len(frame["jpg_0"][5])]
    assert [row for row, *_ in train["pairs"]] == [1, 25]
    captions = ["test 0 0", "test 0 1", "test 1 0", "test 1 1"]
    assert [pair[:2] for pair in test["pairs"]] == [[i, text] for i, text in enumerate(captions)]
    assert pinned["pairs"] == test["pairs"]
    assert unnamed["pairs"] == train["pairs"]
    assert "there is no split 'tain'; there is test, train" in misspelt["error"]
    assert "BenchError: me/gone@main: the Hub has no such dataset" in gone["error"]
    assert "BenchError: me/pairs@v9: the Hub has no such revision" in wrong["error"]
    assert "its card does not say how many rows there are; download it" in uncounted["error"]


def test_a_hub_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    branch, commit = _ask(
        [f"pickapic:{REPO}", f"pickapic[path={REPO},revision={COMMIT}]"],
        {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert (
        "BenchError: cannot get me/pairs@main: the Hub is switched off (HF_HUB_OFFLINE)"
        in branch["error"]
    )
    assert "BenchError: cannot get me/pairs@" in commit["error"]
    assert "\n" not in commit["error"]
