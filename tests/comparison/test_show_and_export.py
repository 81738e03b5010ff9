"""`bench show`, `bench export` and `bench images`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bench.leaderboard import tables
from bench.leaderboard.comparing import build
from bench.leaderboard.opening import open_folder
from bench.leaderboard.results import CellResult, load_cells
from bench.outputs.score_table import csv_text, score_table
from tests.commands import Bench
from tests.leaderboard import small_board
from tests.leaderboard.small_board import cell, save


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return save(tmp_path / "leaderboards" / "small", small_board.cells())


def test_a_board_is_shown_by_name_as_it_was_printed(bench: Bench, board: Path) -> None:
    code, out, err = bench("show", "small")
    assert (code, err) == (0, "")
    assert "Diffusion-DPO" in out
    assert build(board).sections[0].answer.split(":")[0] in " ".join(out.split())


def test_rows_are_left_out_but_figures_stay(bench: Bench, board: Path) -> None:
    whole = bench("show", "small")[1]
    code, out, _ = bench("show", "small", "--method", "smpo")
    assert code == 0
    assert not any(line.lstrip().startswith("Diffusion-DPO") for line in out.splitlines())
    assert "(--method smpo; all of it: bench show small)" in out
    line = next(line for line in whole.splitlines() if line.lstrip().startswith("smpo"))
    assert next(word for word in line.split() if "%" in word) in out


def test_a_prompt_set_alone_is_as_if_it_were_the_only_one(bench: Bench, board: Path) -> None:
    part = open_folder(str(board)).only(prompt_set="styles", scorers=["gold"])
    (section,) = part.tables.sections
    assert section.prompt_sets == {"styles": 20}
    assert section.scorers == section.ranked_by == ("gold",)
    code, out, _ = bench("show", "small", "--prompt-set=styles", "--scorer=gold")
    assert code == 0
    assert "n = 20 prompts" in out


def test_groups_and_pairs(bench: Bench, board: Path) -> None:
    out = bench("show", "small", "--groups", "--scorer=gold")[1]
    assert "parti by category: gold" in out
    assert "Under 50 prompts" in out
    out = bench("show", "small", "--head-to-head")[1]
    assert "wins of ... over" in out
    assert "held out for every method" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "smal"), "Did you mean 'small'"),
        (("show", "small", "--method=sftt"), "Did you mean 'sft'"),
        (("show", "small", "--scorer=golf"), "Did you mean 'gold'"),
        (("show", "small", "--prompt-set=part"), "Did you mean 'parti'"),
        (("export", "small"), "--latex"),
        (("export", "small", "--latex", "--json"), "are two"),
        (("export", "small", "--csv", "--scores", "--out=x.txt"), ".parquet"),
        (("images", "small", "--row=99"), "0 to 39"),
        (("images", "small", "--prompt=a picure of 3 birds"), "a picture of 3 birds"),
        (("images", "small", "--sort=bset"), "Did you mean 'best'"),
        (("images", "small", "--sort=disputed", "--scorer=gold"), "two scorers"),
        (("images", "small", "--limit=1", "--export=wins"), "run the same `bench run`"),
    ],
)
def test_mistakes_are_one_sentence(
    bench: Bench, board: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, _, err = bench(*arguments)
    assert code == 1
    assert says in err
    assert err.count("\n") == 1


def test_exports_are_the_boards_own_files(bench: Bench, board: Path) -> None:
    built = build(board)
    for option, text in (
        ("--csv", tables.render_csv(built)),
        ("--json", tables.render_json(built)),
        ("--markdown", tables.render_markdown(built)),
    ):
        assert bench("export", "small", option)[1] == text
    code, out, err = bench("export", "small", "--latex", "--out=table.tex")
    assert (code, out) == (0, "")
    assert Path("table.tex").read_text().count(r"\begin{table}") == 1
    Path("table.tex").write_text("mine")
    code, _, err = bench("export", "small", "--latex", "--out=table.tex")
    assert code == 1
    assert "--overwrite" in err


def test_every_score_is_exported_once(bench: Bench, board: Path) -> None:
    assert bench("export", "small", "--scores", "--out=scores.parquet")[0] == 0
    frame = pd.read_parquet("scores.parquet")
    cells = [c for c in load_cells(board).values() if isinstance(c, CellResult)]
    scores = [s for c in cells for part in c.evaluations for of in part.scores.values() for s in of]
    assert sorted(frame["score"]) == sorted(scores)
    own = ["cell", "prompt_set", "prompt_row", "image_seed", "scorer"]
    assert not frame.duplicated(own).any()
    printed = [*csv.DictReader(io.StringIO(bench("export", "small", "--scores")[1]))]
    assert len(printed) == len(frame)
    assert {row["group.category"] for row in printed} == {"Animals", "Objects", ""}


def test_texts_that_look_like_formulas_stay_texts(tmp_path: Path) -> None:
    opened = open_folder(str(save(tmp_path, [cell("base"), cell("dpo", label="=1+1")])))
    assert ",'=1+1," in csv_text(score_table(opened.cells, opened.prompts))


def test_the_best_images_lead_by_most(bench: Bench, board: Path) -> None:
    out = bench("images", "small", "--method=dpo", "--scorer=gold", "--sort=best", "--limit=3")[1]
    cells = [c for c in load_cells(board).values() if isinstance(c, CellResult)]
    base = next(c for c in cells if c.base)
    dpo = next(c for c in cells if c.method == "dpo")
    leads = [
        ours - theirs
        for part, other in zip(dpo.evaluations, base.evaluations, strict=True)
        for ours, theirs in zip(part.scores["gold"], other.scores["gold"], strict=True)
    ]
    line = next(line for line in out.splitlines() if line.strip().startswith("gold"))
    mine, theirs = (float(word.strip("()")) for word in line.split() if word[-1] not in "ed")
    assert mine - theirs == pytest.approx(max(leads), abs=1e-3)
    assert "120 images, the first 3 are shown" in out


def test_images_of_a_run_are_exported_beside_the_bases(bench: Bench, toy_run: Path) -> None:
    sft = ("images", "toy", "--method=sft", "--limit=2", "--export=w")
    code, _, err = bench(*sft, "--sort=best")
    assert code == 0, err
    listed = [*csv.DictReader((toy_run / "w" / "images.csv").open(encoding="utf-8", newline=""))]
    assert {row["method"] for row in listed} == {"base", "sft"}
    for row in listed:
        with Image.open(toy_run / "w" / row["file"]) as image:
            assert image.size == (16, 16)
    assert (toy_run / "w" / "contact_sheet.png").is_file()
    # The same again replaces it; what somebody put there is kept.
    assert bench("images", "toy", "--limit=2", "--export=w")[0] == 0
    (toy_run / "w" / "notes.txt").write_text("mine")
    code, _, err = bench("images", "toy", "--limit=2", "--export=w")
    assert code == 1
    assert "notes.txt" in err


def test_prompts_are_found_by_a_part_of_their_text(bench: Bench, board: Path) -> None:
    out = bench("images", "small", "--prompt=NUMBER 3", "--method=base")[1]
    assert "styles 3 · base, image seed 0" in out
    assert "style number 3" in out
    assert "2 images." in out


def test_json_is_for_machines_alone(bench: Bench, two: Path) -> None:
    code, out, _ = bench(
        "compare", "a", "b", "--prompts=prompts.tsv", "--scorers=channel", "--json", "--device=cpu"
    )
    assert code == 0
    assert json.loads(out)["base"] == "a"
