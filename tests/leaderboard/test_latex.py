"""Tables for a paper."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from bench.leaderboard.comparing import build
from bench.leaderboard.latex import PREAMBLE, escaped, render_latex
from bench.leaderboard.standings import Tables
from tests.leaderboard import small_board
from tests.leaderboard.small_board import cell, failure, save


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return build(save(tmp_path_factory.mktemp("board"), small_board.cells()))


def _rows(text: str) -> list[list[str]]:
    """The cells of the table's lines, its heading among them."""
    body = text.partition(r"\begin{tabular}")[2].partition(r"\end{tabular}")[0]
    lines = [line.strip().removesuffix(r" \\") for line in body.splitlines() if " & " in line]
    return [re.split(r" & ", line) for line in lines]


def _balanced(text: str) -> bool:
    """Whether every group that is opened is closed, escaped braces aside."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace(r"\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def test_every_line_has_as_many_cells_as_there_are_columns(tables: Tables) -> None:
    text = render_latex(tables)
    assert text.startswith(PREAMBLE)
    columns = re.search(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), text)
    assert columns is not None
    rows = _rows(text)
    assert len(rows) == 1 + len(tables.sections[0].rows)
    assert {len(row) for row in rows} == {len(columns[1])}
    assert _balanced(text)


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    odd = r"a_b%50&c#{x}$1^2~\end{table}"
    board = save(tmp_path, [cell("base"), cell("dpo", label=odd), failure("ipo|x")])
    text = render_latex(build(board))
    assert escaped(odd) in text
    assert r"a\_b\%50\&c\#\{x\}\$1\textasciicircum{}2\textasciitilde{}\textbackslash{}end" in text
    assert text.count(r"\end{table}") == 1
    assert _balanced(text)


def test_the_best_is_bold_only_where_it_is_separated_from_all(tmp_path: Path) -> None:
    far = save(tmp_path / "far", [cell("base"), cell("dpo", lift=2.0), cell("sft", lift=-1.0)])
    dpo = next(row for row in _rows(render_latex(build(far))) if "dpo" in row[0])
    assert r"\textbf{" in dpo[1]
    near = save(tmp_path / "near", [cell("base"), cell("dpo", lift=0.3), cell("smpo", lift=0.3)])
    assert r"\textbf{" not in render_latex(build(near))


def test_the_caption_says_what_is_estimated_and_from_how_much(tables: Tables) -> None:
    text = render_latex(tables)
    caption = text.partition(r"\caption{")[2].partition("\n")[0]
    assert "$n = 60$ prompts" in caption
    assert "parti (40), styles (20)" in caption
    assert "the method (over train seeds, prompts and noise), 2 train seeds" in caption
    assert "this checkpoint" in caption
    assert "$^*$" in caption


def test_in_loop_scorers_are_starred(tables: Tables) -> None:
    header, *rows = _rows(render_latex(tables))
    smpo = next(row for row in rows if "smpo" in row[0])
    starred = {name for name, value in zip(header, smpo, strict=True) if "$^*$" in value}
    assert starred == {"colour", "shape"}


def test_several_sections_are_several_tables_with_labels_of_their_own(tmp_path: Path) -> None:
    longer = dataclasses.replace(cell("dpo"), training=small_board.steps(20))
    text = render_latex(build(save(tmp_path, [cell("base"), cell("dpo"), longer])))
    labels = re.findall(r"\\label\{(.+?)\}", text)
    assert len(labels) == len(set(labels)) == 2
