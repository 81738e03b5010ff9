from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bench.leaderboard import tables
from bench.leaderboard.console import console_table
from bench.leaderboard.results import (
    CellResult,
    PromptSetScores,
    save_record,
)
from bench.lib.errors import BenchError
from bench.lib.escaping import from_csv_cell, printable
from bench.recipe.prompt_table import PromptTable
from tests.leaderboard import small_board

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return small_board.save(tmp_path / "board", small_board.cells())


def rows(board: Path) -> dict[str, Any]:
    return {row.method: row for row in tables.build(board).sections[0].rows}


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def rebuilt(cell: CellResult, **changes: Any) -> CellResult:
    evaluations = tuple(dataclasses.replace(part, **changes) for part in cell.evaluations)
    return dataclasses.replace(cell, evaluations=evaluations)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_the_small_board_is_the_golden_one(board: Path, name: str) -> None:
    """Regenerate with `python -m tests.leaderboard.regenerate_golden` and read the diff."""
    tables.write(board)
    assert (board / name).read_bytes() == (GOLDEN / name).read_bytes()


def test_the_golden_files_are_all_that_is_rendered(board: Path) -> None:
    assert tables.render(tables.build(board)).keys() == {path.name for path in GOLDEN.iterdir()}


def test_no_float_has_more_digits_than_platforms_agree_on(board: Path) -> None:
    floats: list[str] = []
    text = tables.render_json(tables.build(board))
    json.loads(text, parse_float=floats.append)
    assert len(floats) > 100
    assert all(float(f"{float(found):.6g}") == float(found) for found in floats)


def test_the_order_of_cells_and_of_their_parts_does_not_matter(board: Path, tmp_path: Path) -> None:
    shuffled = [
        dataclasses.replace(
            cell,
            evaluations=tuple(
                dataclasses.replace(part, scores=dict(reversed(part.scores.items())))
                for part in reversed(cell.evaluations)
            ),
        )
        if isinstance(cell, CellResult)
        else cell
        for cell in reversed(small_board.cells())
    ]
    other = small_board.save(tmp_path / "other", shuffled)
    for render in (tables.render_markdown, tables.render_csv, tables.render_groups_csv):
        assert render(tables.build(other)) == render(tables.build(board))


def test_check_passes_after_write_and_names_what_differs(board: Path) -> None:
    with pytest.raises(BenchError, match=r"README\.md, leaderboard\.csv, leaderboard\.json, by_g"):
        tables.check(board)
    tables.write(board)
    tables.check(board)
    (board / "leaderboard.csv").write_text("")
    with pytest.raises(BenchError, match=r": leaderboard\.csv not as the result files give"):
        tables.check(board)


def test_win_rates_are_the_paired_wins_every_prompt_set_alike(board: Path) -> None:
    base, dpo = small_board.cell("base"), small_board.cell("dpo", lift=0.3)
    rates = []
    for mine, its in zip(dpo.evaluations, base.evaluations, strict=True):
        ours, theirs = np.array(mine.scores["gold"]), np.array(its.scores["gold"])
        rates.append(np.mean((ours > theirs) + 0.5 * (ours == theirs)))
    # 40 prompts of one set and 20 of the other weigh the same.
    assert rows(board)["dpo"].scores["gold"].win_rate == pytest.approx(np.mean(rates))


def test_in_loop_scorers_stay_out_of_the_held_out_mean(board: Path) -> None:
    found = rows(board)
    smpo, dpo = found["smpo[beta=500]"], found["dpo"]
    assert smpo.held_out_scorers == ("gold",)
    assert smpo.held_out == smpo.scores["gold"]
    assert dpo.held_out_scorers == ("colour", "gold", "shape")
    mean = np.mean([rate.win_rate for rate in dpo.scores.values()])
    assert dpo.held_out.win_rate == pytest.approx(mean)


def test_a_method_trained_on_every_scorer_has_no_held_out_mean(tmp_path: Path) -> None:
    trained = small_board.cell("x", in_loop=("colour", "shape"), scorers=("colour", "shape"))
    board = small_board.save(tmp_path, [small_board.cell("base"), trained])
    row = tables.build(board).sections[0].rows[-1]
    assert (row.method, row.held_out, row.standing) == ("x", None, None)
    text = tables.render_markdown(tables.build(board))
    assert "Own held-out scorers: none." in text
    assert "No scorer is held out for every method, so no two of them can be compared" in text


def test_ranked_rows_come_first_then_the_unranked_and_gaps_last(board: Path) -> None:
    assert list(rows(board)) == ["smpo[beta=500]", "base", "dpo", "sft", "ipo|x"]
    ranks = {method: row.rank_set for method, row in rows(board).items()}
    assert ranks == {
        "smpo[beta=500]": (1, 1),
        "base": (2, 2),
        "dpo": None,
        "sft": None,
        "ipo|x": None,
    }


def test_train_seeds_are_pooled_and_listed(board: Path) -> None:
    found = lines(tables.render_csv(tables.build(board)))
    gold = [r for r in found if r["method"] == "smpo[beta=500]" and r["scorer"] == "gold"]
    pooled = [r for r in gold if r["over_seeds"] == "True"]
    single = [r for r in gold if r["over_seeds"] == "False"]
    assert [r["train_seeds"] for r in pooled] == ["0 1"]
    assert sorted(r["train_seeds"] for r in single) == ["0", "1"]
    mean = np.mean([float(r["win_rate"]) for r in single])
    assert float(pooled[0]["win_rate"]) == pytest.approx(mean, abs=1e-5)


def test_a_failed_seed_is_told_and_the_others_count(tmp_path: Path) -> None:
    failure = small_board.failure("dpo", "loss is not finite\nat step 3", seed=1)
    cells = [small_board.cell("base"), small_board.cell("dpo", lift=0.3), failure]
    row = rows(small_board.save(tmp_path, cells))["dpo"]
    assert row.seeds == (0,)
    assert row.failures == ("train seed 1: loss is not finite at step 3",)


def test_a_missing_scorer_is_a_gap_with_a_note(board: Path) -> None:
    text = tables.render_markdown(tables.build(board))
    assert "shape" not in rows(board)["sft"].scores
    assert "– `sft`: shape did not score every image" in text


def test_groups_split_the_prompts_of_their_set(board: Path) -> None:
    found = [
        row
        for row in lines(tables.render_groups_csv(tables.build(board)))
        if (row["method"], row["scorer"], row["prompt_set"]) == ("dpo", "gold", "parti")
    ]
    whole = next(row for row in found if not row["dimension"])
    parts = [row for row in found if row["dimension"] == "category"]
    assert [row["group"] for row in parts] == ["Animals", "Objects"]
    for count in ("prompts", "wins", "ties", "losses"):
        assert sum(int(row[count]) for row in parts) == int(whole[count])


def test_json_holds_every_pooled_row(board: Path) -> None:
    found = json.loads(tables.render_json(tables.build(board)))["sections"][0]
    assert [row["method"] for row in found["rows"]] == list(rows(board))
    assert found["distinct_prompts"] == 58


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"steps": 1}}, r"sampling\.steps \(1 against 20\)"),
        (
            {"backbone": {"name": "tiny", "fingerprint": 64 * "e"}},
            r"backbone\.fingerprint \(eeeeeeee against abc\)",
        ),
        (
            {
                "scorers": {
                    **small_board.EVALUATION.scorers,
                    "gold": {**small_board.EVALUATION.scorers["gold"], "version": "2"},
                }
            },
            r"scorers\.gold\.version \(2 against 1\)",
        ),
        (
            {
                "scorers": {
                    **small_board.EVALUATION.scorers,
                    "gold": {**small_board.EVALUATION.scorers["gold"], "package": "x 9"},
                }
            },
            r"scorers\.gold\.package \(x 9 against none\)",
        ),
    ],
)
def test_a_cell_that_was_evaluated_otherwise_needs_a_base_of_its_own(
    board: Path, changes: Any, message: str
) -> None:
    evaluation = dataclasses.replace(small_board.EVALUATION, **changes)
    path = save_record(board, small_board.cell("dpo", evaluation=evaluation))
    with pytest.raises(BenchError, match=message) as caught:
        tables.build(board)
    assert str(path) in str(caught.value)
    assert "base--seed0" in str(caught.value)
    save_record(board, small_board.cell("base", evaluation=evaluation))
    assert len(tables.build(board).sections) == 2


def test_seeds_with_different_budgets_are_not_pooled(board: Path) -> None:
    longer = small_board.cell("dpo", seed=1)
    longer = dataclasses.replace(longer, budget=dataclasses.replace(longer.budget, steps=11))
    save_record(board, longer)
    with pytest.raises(BenchError, match="differ in budget"):
        tables.build(board)


def test_a_missing_or_failed_base_is_an_error(tmp_path: Path) -> None:
    small_board.save(tmp_path, [small_board.cell("dpo")])
    with pytest.raises(BenchError, match="no result of the untouched backbone 'tiny'"):
        tables.build(tmp_path)
    failure = small_board.failure("base", "loss is not finite\nat step 3")
    save_record(tmp_path, failure)
    with pytest.raises(BenchError, match="loss is not finite at step 3"):
        tables.build(tmp_path)


def test_missing_prompts_are_an_error(board: Path) -> None:
    next((board / "prompts").glob("parti*")).unlink()
    with pytest.raises(BenchError, match="holds the 40 prompts of 'parti'"):
        tables.build(board)


def test_backbones_and_preference_sets_are_sections(tmp_path: Path) -> None:
    def of(name: str) -> dict[str, Any]:
        described = {**small_board.EVALUATION.backbone, "fingerprint": name}
        evaluation = dataclasses.replace(small_board.EVALUATION, backbone=described)
        return {"backbone": name, "evaluation": evaluation}

    photos = dataclasses.replace(small_board.TRAINING, pairs={"name": "photos"})
    cells = [
        *(small_board.cell(method, **of("big")) for method in ("base", "dpo")),
        *(small_board.cell(method) for method in ("base", "dpo")),
        small_board.cell("dpo", pairs="photos", training=photos),
        small_board.cell("base", **of("alone")),
    ]
    found = tables.build(small_board.save(tmp_path, cells)).sections
    assert [section.heading for section in found] == [
        "alone, nothing trained",
        "big, pairs of shapes",
        "tiny, pairs of photos",
        "tiny, pairs of shapes",
    ]
    # The base does not depend on the preference set: one result serves all.
    assert [row.method for row in found[2].rows if row.base] == ["base"]


def test_duplicate_prompts_are_one_unit(board: Path) -> None:
    assert rows(board)["dpo"].scores["gold"].prompts == 60
    assert rows(board)["dpo"].scores["gold"].distinct_prompts == 58


@pytest.mark.parametrize("width", [30, 45, 60, 80])
def test_a_narrow_terminal_cuts_no_figure_short(board: Path, width: int) -> None:
    built = tables.build(board)
    wide = Console(width=200, file=io.StringIO(), record=True)
    narrow = Console(width=width, file=io.StringIO(), record=True)
    for console in (wide, narrow):
        console.print(console_table(built).renderables[0])
    text = narrow.export_text()
    assert max(map(len, text.splitlines())) <= width
    figures = re.findall(r"[\d.]+%\*?|\[\d+, \d+\]|[\d,]{3,}", wide.export_text())
    assert len(figures) > 20
    for figure in figures:
        assert figure in text


@pytest.mark.parametrize("width", [100, 120])
def test_the_console_table_fits(board: Path, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(console_table(tables.build(board)))
    text = console.export_text()
    assert "smpo[beta=500]" in text
    assert "69.7%*" in text
    assert "train seed 0:" in text
    assert max(map(len, text.splitlines())) <= width


def test_one_scorer_for_one_prompt_set_only_is_a_gap(tmp_path: Path) -> None:
    def cut(part: PromptSetScores) -> PromptSetScores:
        scores = {
            s: v for s, v in part.scores.items() if s != "shape" or part.prompt_set != "parti"
        }
        return dataclasses.replace(part, scores=scores)

    dpo = small_board.cell("dpo")
    dpo = dataclasses.replace(dpo, evaluations=tuple(map(cut, dpo.evaluations)))
    row = rows(small_board.save(tmp_path, [small_board.cell("base"), dpo]))["dpo"]
    assert set(row.scores) == {"colour", "gold"}


HOSTILE = ["=cmd|' /C calc'!A0", "[red]x[/red]", "a\n## b", "<b>`x`</b>", "a|b\x1b[31m", "back\\"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    """As method, label, recipe, backbone, pairs, scorer, prompt set, group and failure."""
    table = PromptTable(
        name=name, texts=("x", "y"), groups=({"kind": name}, {name or "kind": "other"})
    )
    evaluation = dataclasses.replace(
        small_board.EVALUATION,
        prompts={name: table.sha256},
        scorers={name: {"name": name}, "gold": {"name": "gold"}},
    )
    part = small_board.scores(table, 0.0, 0, ("colour", "gold"))
    scores = {name: part.scores["colour"], "gold": part.scores["gold"]}
    made: dict[str, Any] = {
        "recipe": name,
        "backbone": name,
        "evaluation": evaluation,
        "evaluations": (dataclasses.replace(part, scores=scores),),
    }
    cells = [
        small_board.cell("base", **made),
        small_board.cell(name, label=name, pairs=name, **made),
        small_board.failure("sft", name, pairs=name, recipe=name, backbone=name),
    ]
    cells[2] = dataclasses.replace(cells[2], evaluation=evaluation)
    save_record(tmp_path, table)
    for cell in cells:
        save_record(tmp_path, cell)
    built = tables.build(tmp_path)
    files = tables.render(built)
    for row in csv.DictReader(io.StringIO(files["leaderboard.csv"])):
        assert not any(str(value).startswith(("=", "+", "@")) for value in row.values())
    assert {from_csv_cell(row["method"]) for row in lines(files["leaderboard.csv"])} == {
        "base",
        "sft",
        name,
    }
    html = MarkdownIt("commonmark", {"html": True}).enable("table").parse(files["README.md"])
    assert not [token for token in html if token.type == "html_block"]
    inline = [child for token in html for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "text_special", "code_inline"}
    assert [token.tag for token in html if token.type == "heading_open"] == ["h1", "h2", "h2"]
    for table in re.findall(r"(?:^\|.*\n)+", files["README.md"], re.MULTILINE):
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(console_table(built))
    shown = console.export_text(styles=False)
    assert "\x1b" not in shown
    assert printable(name).replace(" ", "") in shown.replace(" ", "").replace("\n", "")


def test_the_terminal_says_what_the_written_table_says(board: Path) -> None:
    """Every note of the Markdown stands under the terminal's table too."""
    built = tables.build(board)
    console = Console(width=2000, file=io.StringIO(), record=True)
    console.print(console_table(built))
    shown = console.export_text()
    section = tables.render_markdown(built).split("## How to read this")[0]
    notes = [line for line in section.splitlines() if line.startswith("- ")]
    assert len(notes) >= 7
    for note in notes:
        plain = note.replace("`", "").replace("\\", "")
        assert plain in shown.replace("\\", ""), note
    assert "*: in-loop" in shown
    assert "ties count one half" in shown


def test_long_paths_do_not_break_in_a_word(tmp_path: Path) -> None:
    untrained: dict[str, Any] = {"training": None, "pairs": ""}
    specs = [f"pretrained:/data/long/runs/{name}/checkpoints/smpo-seed0" for name in ("one", "two")]
    cells = [small_board.cell("base"), *(small_board.cell(s, **untrained) for s in specs)]
    built = tables.build(small_board.save(tmp_path, cells))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(console_table(built))
    shown = console.export_text()
    for line in ("pretrained:…/one/", "pretrained:…/two/", "checkpoints/smpo-seed0"):
        assert f" {line} " in shown
    text = tables.render_markdown(built)
    for spec in specs:
        short = spec.replace("/data/long/runs", "…")
        assert f"| `{short}` |" in text
        assert f"- `{short}` is `{spec}`." in text
        assert f",{spec}," in tables.render_csv(built)
