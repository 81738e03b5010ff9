"""`bench show`, `bench export`: the tables of a run or board again, on screen or for a paper."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.cli.frame import RUNS, Overwrite
from bench.lib.errors import BenchError
from bench.registry.spec_language import split_list

if TYPE_CHECKING:
    from bench.leaderboard.opening import Opened
    from bench.leaderboard.standings import Section, Tables

ROOTS = (RUNS, Path("leaderboards"))
"""Where runs and boards that are named without a path are looked for."""


def named(folder: Path) -> Path:
    """The run or board that is meant: a path, or a name below `ROOTS`; else what was given."""
    from bench.leaderboard.opening import find_folder

    return find_folder(str(folder), ROOTS) or folder


Folder = Annotated[
    str,
    typer.Argument(metavar="RUN|BOARD", help="A run's or board's folder, or its name."),
]
OnlyMethods = Annotated[
    str | None, typer.Option("--method", help="Only these methods, comma-separated, and the base.")
]
OnlyPrompts = Annotated[
    str | None, typer.Option("--prompt-set", help="As if this prompt set had been the only one.")
]
OnlyScorers = Annotated[
    str | None,
    typer.Option("--scorer", help="As if these scorers, comma-separated, had been the only ones."),
]


def show(
    folder: Folder,
    method: OnlyMethods = None,
    prompt_set: OnlyPrompts = None,
    scorer: OnlyScorers = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Win rates by prompt set and group of prompts.")
    ] = False,
    head_to_head: Annotated[
        bool, typer.Option("--head-to-head", help="How often each method wins over each other.")
    ] = False,
) -> None:
    """Print the tables of a run or board again; nothing is run."""
    opened = _opened(folder, prompt_set, scorer)
    tables = _of(opened.tables, method)
    console = output.console()

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    line(f"{opened.folder}{_narrowed(folder, method, prompt_set, scorer)}")
    if not (groups or head_to_head):
        from bench.leaderboard.console import console_table

        console.print(console_table(tables))
        return
    for section in tables.sections:
        if len(tables.sections) > 1:
            line(section.heading)
        if groups:
            from bench.leaderboard.views import by_group

            chosen = split_list(scorer) if scorer else [None]
            for name in chosen:
                console.print(by_group(section, name))
        if head_to_head:
            _print_matrix(section, line, console.print)


def export(
    folder: Folder,
    latex: Annotated[bool, typer.Option("--latex", help="The tables for a paper.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A line a method and scorer.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All figures, for machines.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a board's README.md.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Instead of the tables, the score of every image.")
    ] = False,
    method: OnlyMethods = None,
    prompt_set: OnlyPrompts = None,
    scorer: OnlyScorers = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; else standard output. With --scores: .csv or .parquet."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's or board's tables for a paper, a spreadsheet or a program."""
    asked = [
        name
        for name, given in (
            ("latex", latex),
            ("csv", csv),
            ("json", json),
            ("markdown", markdown),
            ("scores", scores and not csv),
        )
        if given
    ]
    if len(asked) != 1:
        raise BenchError(
            "say as what to export: one of --latex, --csv, --json, --markdown or --scores"
            + (f"; --{' and --'.join(asked)} are two" if len(asked) > 1 else "")
        )
    opened = _opened(folder, prompt_set, scorer)
    if out is not None and out.resolve().parent in _records(opened.folder):
        raise BenchError(f"--out {out}: only records may lie there; name a file elsewhere")
    if scores:
        _export_scores(opened, method, out, overwrite)
        return
    text = _renderers()[asked[0]](_of(opened.tables, method))
    if out is None:
        sys.stdout.write(text)
    else:
        _save(out, text.encode("utf-8"), overwrite)


def _records(folder: Path) -> list[Path]:
    """Folders of which every file is read as a result or a table of prompts."""
    return [(folder / name).resolve() for name in ("results", "prompts")]


def _narrowed(folder: str, method: str | None, prompt_set: str | None, scorer: str | None) -> str:
    """What is left out, for a heading; '' if nothing is."""
    options = {"--method": method, "--prompt-set": prompt_set, "--scorer": scorer}
    given = [f"{name} {value}" for name, value in options.items() if value is not None]
    return f" ({' '.join(given)}; all of it: bench show {folder})" if given else ""


def _opened(folder: str, prompt_set: str | None, scorer: str | None) -> Opened:
    from bench.leaderboard.opening import open_folder

    opened = open_folder(folder, ROOTS)
    return opened.only(prompt_set=prompt_set, scorers=names("--scorer", scorer))


def names(option: str, text: str | None) -> list[str]:
    """The comma-separated names that an option gives; none where it is not given.

    Raises:
        BenchError: it is given and names nothing.
    """
    found = split_list(text or "")
    if text is not None and not found:
        raise BenchError(f"{option} {text}: names nothing; give a name, or leave the option out")
    return found


def _of(tables: Tables, method: str | None) -> Tables:
    from bench.leaderboard.opening import of_methods

    wanted = names("--method", method)
    return of_methods(tables, wanted) if wanted else tables


def _print_matrix(
    section: Section, line: Callable[[str], None], show: Callable[[object], None]
) -> None:
    from bench.leaderboard.standings import names_of_rows
    from bench.leaderboard.views import matrix

    shown = names_of_rows(row for row in section.rows if row.seeds)
    rates = {
        (shown[pair.method, pair.variant], shown[pair.other, pair.other_variant]): pair.rate
        for pair in section.head_to_head
        if {(pair.method, pair.variant), (pair.other, pair.other_variant)} <= shown.keys()
    }
    if not rates:
        because = section.unranked_because or "no two have a train seed in common"
        line(f"No two methods are compared here: {because}.")
        return
    show(matrix(rates, list(shown.values())))
    tested = any(pair.adjusted_p is not None for pair in section.head_to_head)
    level = "95%, for all pairs of the board at once" if tested else "95% of these checkpoints"
    line(
        f"- The row wins over the column in so many percent [{level}], over "
        f"{', '.join(section.ranked_by)}, held out for every method."
    )


def _renderers() -> dict[str, Callable[[Tables], str]]:
    from bench.leaderboard.data_files import render_csv, render_json
    from bench.leaderboard.latex import render_latex
    from bench.leaderboard.markdown import render_markdown

    return {
        "latex": render_latex,
        "csv": render_csv,
        "json": render_json,
        "markdown": render_markdown,
    }


def _export_scores(opened: Opened, method: str | None, out: Path | None, overwrite: bool) -> None:
    from bench.outputs.score_table import csv_text, parquet, score_table

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise BenchError(f"--out {out}: expected the name of a .csv or .parquet file")
    wanted = names("--method", method)
    opened = opened.of(wanted) if wanted else opened
    frame = score_table(opened.cells, opened.prompts)
    if out is None:
        sys.stdout.write(csv_text(frame))
    elif out.suffix == ".csv":
        _save(out, csv_text(frame).encode("utf-8"), overwrite)
    else:
        _save(out, parquet(frame), overwrite)


def _save(out: Path, data: bytes, overwrite: bool) -> None:
    """Write a file that is not there yet, or that holds just this."""
    from bench.lib.files import write_atomic

    try:
        if out.exists() and not overwrite and (out.is_dir() or out.read_bytes() != data):
            raise BenchError(
                f"--out {out} is there and holds something else; choose another name, or give "
                f"--overwrite to replace it"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, data)
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({error.strerror})") from error
    typer.echo(f"wrote {out}", err=True)
