"""A board's tables: made of its result files alone, written, and checked byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.leaderboard.comparing import build
from bench.leaderboard.data_files import (
    render_csv,
    render_groups_csv,
    render_head_to_head_csv,
    render_json,
)
from bench.leaderboard.latex import render_latex
from bench.leaderboard.markdown import PLAINLY, WRITTEN_BY, About, render_markdown
from bench.leaderboard.results import write_text
from bench.leaderboard.run_folder import MARK, RunFolder
from bench.leaderboard.standings import Tables
from bench.lib.errors import BenchError


def write(board: Path) -> Tables:
    """Regenerate all tables of a board from its result files; returns what they show.

    Raises:
        BenchError: as `build`, or a README.md is there that is none of a board.
    """
    tables = build(board)
    write_files(board, render(tables))
    return tables


def write_files(board: Path, files: Mapping[str, str]) -> None:
    """Put what `render` gave into a board's folder.

    Raises:
        BenchError: a README.md is there that is none of a board.
    """
    if (board / MARK).exists():
        with RunFolder(board).held() as folder:
            folder.replace({name: text.encode("utf-8") for name, text in files.items()})
        return
    readme = board / "README.md"
    if readme.exists() and WRITTEN_BY not in readme.read_text("utf-8", errors="replace"):
        raise BenchError(f"{readme} was not written by `bench leaderboard build`; move it away")
    for name, text in files.items():
        write_text(board / name, text)


def check(board: Path) -> None:
    """Raise `BenchError` if a committed table is not what the result files give, to the byte."""
    check_files(board, render(build(board)))


def check_files(board: Path, files: Mapping[str, str]) -> None:
    """Raise `BenchError` if a board's folder does not hold these files, to the byte."""
    stale = [
        name
        for name, text in files.items()
        if not (board / name).is_file() or (board / name).read_bytes() != text.encode("utf-8")
    ]
    if stale:
        raise BenchError(
            f"{board}: {', '.join(stale)} not as the result files give; "
            f"run `bench leaderboard build {board}`"
        )


def render(tables: Tables, about: About = PLAINLY) -> dict[str, str]:
    """The text of every file of a board that follows from its results."""
    return {
        "README.md": render_markdown(tables, about),
        "leaderboard.csv": render_csv(tables),
        "leaderboard.json": render_json(tables),
        "by_group.csv": render_groups_csv(tables),
        "head_to_head.csv": render_head_to_head_csv(tables),
        "leaderboard.tex": render_latex(tables),
    }
