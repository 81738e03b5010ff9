"""No command writes over what it reads, or over what it has not made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_plugins.shapes.build import check_own

from bench import BenchError
from bench.lib.images import png
from tests import toy
from tests.commands import Bench, in_folder


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Runs a command in a folder with pairs, prompts and images."""
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    toy.write_pairs(tmp_path / "pairs.parquet", count=4)
    (tmp_path / "sets").mkdir()
    toy.write_pairs(tmp_path / "sets" / "a.parquet", count=4)
    (tmp_path / "prompts.txt").write_text("a fox\na hen\n")
    (tmp_path / "images").mkdir()
    for i in range(2):
        picture = toy.Image.new("RGB", (16, 16), (80 * i, 0, 0))
        (tmp_path / "images" / f"{i:05d}.png").write_bytes(png(picture))
    (tmp_path / "list.csv").write_text(
        "image,prompt\nimages/00000.png,a fox\nimages/00001.png,a hen\n"
    )
    (tmp_path / "mine.csv").write_text("image,prompt\nimages/00000.png,my notes\n")
    (tmp_path / "mine.json").write_text("[1, 2]")
    (tmp_path / "mine.parquet").write_bytes((tmp_path / "pairs.parquet").read_bytes())
    (tmp_path / "hard.parquet").hardlink_to(tmp_path / "pairs.parquet")
    (tmp_path / "linked").symlink_to(tmp_path / "sets")
    return in_folder(tmp_path, monkeypatch, capsys)


GENERATE = (
    "data", "generate", "--backbone=shapes", "--prompts=prompts.txt", "--scorers=channel",
)  # fmt: skip
SCORE = ("score", "images", "--prompts=prompts.txt", "--scorers=channel", "--device=cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "check", "pairs.parquet", "--out=pairs.parquet"), "is what is to be read"),
        (("data", "check", "pairs.parquet", "--out=images/00000.png"), "was not written by `bench"),
        (("data", "check", "pairs.parquet", "--out=images"), "expected the name of a .png"),
        (("data", "convert", "pairs.parquet", "pairs.parquet", "--overwrite"), "is to be read"),
        (("data", "convert", "pairs.parquet", "hard.parquet", "--overwrite"), "is to be read"),
        (("data", "convert", "sets", "sets/b.parquet"), "lies in sets, which is to be read"),
        (("data", "convert", "sets", "linked/b.parquet"), "lies in sets, which is to be read"),
        (("data", "convert", "sets", "sets/a.parquet", "--overwrite"), "which is to be read"),
        (("data", "convert", "pairs.parquet", "mine.parquet"), "is there; choose another name"),
        ((*GENERATE, "--out=mine.parquet", "--dry-run", "--overwrite"), ""),
        ((*GENERATE[:3], "--prompts=pairs.parquet", "--scorers=channel", "--out=pairs.parquet"),
         "is what is to be read"),
        ((*SCORE, "--out=list.csv"), "holds something else than scores of these images"),
        ((*SCORE, "--out=mine.csv"), "holds something else than scores of these images"),
        ((*SCORE, "--out=mine.json"), "holds something else than scores of these images"),
        ((*SCORE, "--out=mine.parquet"), "holds something else than scores of these images"),
        (("score", "list.csv", "--scorers=channel", "--out=list.csv", "--overwrite"),
         "is what is to be read"),
    ],
)  # fmt: skip
def test_nothing_that_is_there_is_lost(
    bench: Bench, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, _, err = bench(*arguments)
    assert code == (1 if message else 0)
    assert message in err
    assert len(err.splitlines()) <= 1
    assert {p: p.read_bytes() for p in before} == before


def test_tables_and_pictures_of_ones_own_are_replaced(bench: Bench, tmp_path: Path) -> None:
    for name in ("s.csv", "s.json", "s.parquet"):
        for scorers in ("channel", "channel,channel[index=1]"):
            code, _, err = bench(
                *SCORE[:3], f"--scorers={scorers}", "--device=cpu", f"--out={name}"
            )
            assert (code, err) == (0, "")
    assert bench(*SCORE, "--out=mine.csv", "--overwrite")[0] == 0
    for _ in range(2):
        assert bench("data", "check", "pairs.parquet", "--out=p.png")[0] == 0
        assert bench("data", "check", "pairs.parquet")[0] == 0


def test_prompts_that_are_formulas_are_no_formulas_in_tables(bench: Bench, tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "prompts.txt").write_text("=cmd|' /C calc'!A0\n@SUM(A1)\n")
    for _ in range(2):
        assert bench(*SCORE, "--out=s.csv")[0] == 0
    found = pd.read_csv(tmp_path / "s.csv")
    assert list(found["prompt"]) == ["'=cmd|' /C calc'!A0", "'@SUM(A1)"]
    assert found["channel"].dtype == float


def _world(folder: Path) -> None:
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"config": {}, "stages": {}}))
    (folder / "prompts").mkdir()


def test_the_shapes_world_is_built_in_a_place_of_its_own(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    check_own(work, out)
    _world(out)
    work.mkdir()
    (work / "pretrain").mkdir()
    check_own(work, out)
    mine = tmp_path / "mine"
    (mine / "prompts").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(out)
    for target in (mine, tmp_path / "file", tmp_path / "link", work, work / "out", tmp_path):
        with pytest.raises(BenchError, match=r"name a new|name two folders|is no folder"):
            check_own(work, target)
    with pytest.raises(BenchError, match=r"--work .*which no build has left"):
        check_own(out, tmp_path / "other")
