"""The boards in `leaderboards/` are what their result files give."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.leaderboard import board as boards
from bench.leaderboard import published, tables

LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"
BOARDS = sorted(path.parent for path in LEADERBOARDS.glob("*/results"))


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.name)
def test_committed_tables_are_regenerated_byte_for_byte(board: Path) -> None:
    boards.check(board)


def test_committed_boards_hold_their_results_to_a_protocol() -> None:
    assert all((board / "board.yaml").is_file() for board in BOARDS)


def test_what_papers_report_is_rendered_as_it_is_written() -> None:
    published.check(LEADERBOARDS / "published")


def test_the_shapes_board_has_every_method_with_three_seeds() -> None:
    (section,) = tables.build(next(b for b in BOARDS if b.name == "shapes")).sections
    seeds = {row.method: row.seeds for row in section.rows if not row.base}
    assert seeds == dict.fromkeys(("sft", "dpo", "smpo", "balanced"), (0, 1, 2))
