"""`bench leaderboard`: tables from committed result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.lib.errors import BenchError
from bench.lib.wording import printable

leaderboard_app = typer.Typer(no_args_is_help=True, help="Tables from committed result files.")

LEADERBOARDS = Path("leaderboards")
Board = Annotated[Path | None, typer.Argument(help="A board; all by default.")]


@leaderboard_app.command("build")
def build(board: Board = None) -> None:
    """Regenerate the tables of a board from its result files."""
    from bench.leaderboard import tables

    for folder in _boards(board):
        try:
            tables.write(folder)
        except OSError as error:
            raise BenchError(
                f"{error.filename or folder}: cannot be written ({error.strerror}); the result "
                f"files are as they were, so mend that and build again"
            ) from error
        typer.echo(f"built {printable(str(folder))}")


@leaderboard_app.command("check")
def check(board: Board = None) -> None:
    """Fail unless the tables are, byte for byte, what the result files give."""
    from bench.leaderboard import tables

    for folder in _boards(board):
        tables.check(folder)
        typer.echo(f"up to date: {printable(str(folder))}")


def _boards(board: Path | None) -> list[Path]:
    if board is not None:
        return [board]
    boards = sorted(path.parent for path in LEADERBOARDS.glob("*/results"))
    if not boards:
        raise BenchError(f"no board (a folder with results/) under {LEADERBOARDS}/")
    return boards
