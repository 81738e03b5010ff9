"""Missing and broken packages: one sentence, and only for those who need them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from bench_plugins.reward_models.imports import importing

from bench import BenchError
from bench.registry.registry import default_registry

NAMES = ["aesthetic", "clip-h14", "clip-l14", "hpsv2", "hpsv2.1", "image_reward", "pickscore"]

PROGRAM = """
import sys
from bench.lib.errors import BenchError
from bench_plugins.reward_models import plugin
from bench_plugins.reward_models.plugin import bench_scorers

for scorer in bench_scorers():
    scorer().fingerprint()
assert not {"torch", "torchvision", "open_clip", "transformers"} & set(sys.modules)
from tests.reward_models.material import save_vocabulary
from pathlib import Path
vocabulary = Path(sys.argv[1]) / "vocab.txt"
save_vocabulary(30522, vocabulary)
for scorer in (
    plugin.PickScore(weights=__file__),
    plugin.ImageReward(weights=__file__, vocabulary=str(vocabulary)),
):
    try:
        scorer.load("cpu")
    except BenchError as error:
        print(error)
"""


def test_all_are_registered_with_a_summary():
    registry = default_registry()
    assert not registry.broken
    for name in NAMES:
        (entry,) = [e for e in registry.find(name) if e.kind == "scorers"]
        assert entry.summary.endswith(".")
        assert len(entry.summary) <= 100


def test_a_broken_torchvision_is_one_sentence_and_plans_go_on(tmp_path):
    broken = tmp_path / "path" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{broken.parent}:{os.getcwd()}"}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, user in zip(lines, ("pickscore", "image_reward"), strict=True):
        assert line.startswith(f"{user} needs ")
        assert "operator torchvision::nms does not exist" in line
        assert "pip install --upgrade torch torchvision" in line


def test_a_package_that_a_package_misses_gives_the_pip_line():
    with (
        pytest.raises(BenchError, match=r"x needs nowhere, .* pip install 'nowhere'"),
        importing("x", open_clip="open_clip_torch>=3.0"),
    ):
        import nowhere  # noqa: F401


def test_a_part_that_a_package_misses_is_not_installed_by_itself():
    with (
        pytest.raises(BenchError, match=r"json, which cannot be imported .*json\.nowhere"),
        importing("x", json="json"),
    ):
        import json.nowhere  # noqa: F401


def test_a_missing_package_gives_the_pip_line():
    with (
        pytest.raises(BenchError, match=r"x needs nowhere, .* pip install 'nowhere-py>=3'"),
        importing("x", nowhere="nowhere-py>=3"),
    ):
        import nowhere  # noqa: F401
