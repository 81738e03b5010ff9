"""The boards in `leaderboards/` are what their result files give."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.leaderboard import tables

BOARDS = sorted(
    path.parent for path in (Path(__file__).parents[2] / "leaderboards").glob("*/results")
)


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.name)
def test_committed_tables_are_regenerated_byte_for_byte(board: Path) -> None:
    tables.check(board)


def test_the_shapes_board_has_every_method_with_three_seeds() -> None:
    (section,) = tables.build(next(b for b in BOARDS if b.name == "shapes")).sections
    seeds = {row.method: row.seeds for row in section.rows if not row.base}
    assert seeds == dict.fromkeys(("sft", "dpo", "smpo", "balanced"), (0, 1, 2))
