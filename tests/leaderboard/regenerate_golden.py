"""Write `golden/` anew after an intended change of the tables; then read the diff."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.leaderboard import tables
from tests.leaderboard import small_board

if __name__ == "__main__":
    golden = Path(__file__).parent / "golden"
    golden.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        board = small_board.save(Path(folder), small_board.cells())
        tables.write(board)
        for path in board.iterdir():
            if path.is_file():
                (golden / path.name).write_bytes(path.read_bytes())
