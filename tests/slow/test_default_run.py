"""The default command as the README gives it, with three train seeds: a quarter of an hour."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REAL_PROMPTS = "BENCH_REAL_PROMPTS"
"""A folder with PartiPrompts.tsv and hpdv2/*.json in their official form."""


def _run(cwd: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "bench", "run", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("default")
    _run(folder, "--methods", "smpo,balanced", "--seeds", "0,1,2", "--device", "cpu")
    return folder


def _seed_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "bench-runs" / "shapes" / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["smpo", "balanced"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_methods_beat_the_base_on_gold_with_every_seed(
    folder: Path, method: str, seed: int
) -> None:
    (row,) = [
        r
        for r in _seed_rows(folder)
        if r["method"] == method
        and r["scorer"] == "gold"
        and (r["pooled"], r["train_seeds"]) == ("False", str(seed))
    ]
    assert float(row["low"]) > 0.5, row


def test_at_least_256_prompts_of_two_sets(folder: Path) -> None:
    tables = sorted((folder / "bench-runs" / "shapes" / "prompts").glob("*.json"))
    counts = [len(json.loads(path.read_text())["record"]["texts"]) for path in tables]
    assert len(counts) == 2
    assert sum(counts) >= 256


def test_the_repeated_command_makes_nothing_and_prints_the_same_table(folder: Path) -> None:
    arguments = ("--methods", "balanced,smpo", "--seeds", "0,1,2", "--device", "cpu")
    board = folder / "bench-runs" / "shapes" / "README.md"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("artefact.json")}
    text = board.read_text()
    _run(folder, *arguments)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("artefact.json")} == before
    assert board.read_text() == text


@pytest.mark.skipif(REAL_PROMPTS not in os.environ, reason=f"{REAL_PROMPTS} names no folder")
def test_the_real_prompt_files_go_through_end_to_end(tmp_path: Path) -> None:
    real = Path(os.environ[REAL_PROMPTS])
    paths = f"{real / 'PartiPrompts.tsv'},{real / 'hpdv2'}"
    _run(tmp_path, "--methods", "base", "--prompts", paths, "--set", "sampling.steps=2")
    folder = tmp_path / "bench-runs" / "shapes" / "prompts"
    tables = [json.loads(path.read_text())["record"] for path in sorted(folder.glob("*.json"))]
    counts = {table["name"]: len(table["texts"]) for table in tables}
    assert counts == {"PartiPrompts.tsv": 1632, "hpdv2": 3200}
