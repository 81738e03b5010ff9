"""`bench report`: a page that shows what a run or a board says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import output
from bench.cli.frame import STORE, StoreFolder
from bench.cli.show import named


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|BOARD", help="A run's or board's folder, or its name.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A file (.html) or a folder; else that of the run or board.")
    ] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Pictures within the page, to send it around.")
    ] = False,
    store: StoreFolder = STORE,
    no_images: Annotated[bool, typer.Option("--no-images", help="Scores only.")] = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Charts also as SVG and PDF, with their data as CSV.")
    ] = False,
) -> None:
    """A page of a run or board that opens from disk: answer, ranks, charts, gallery."""
    from bench.lib.io_errors import clear_io_errors
    from bench.report import writing

    writing.require()
    folder = named(folder)
    page = writing.place(folder, out)
    # A board's own page is the one that is checked: the same wherever it is made.
    own = out is None and writing.is_board(folder)
    choice = writing.Choice(within=single_file, images=not no_images and not own, figures=figures)
    with clear_io_errors(folder, page.parent):
        made = writing.of_folder(folder, store, choice, page=page.name)
        kept = writing.write(made, page)
    console = output.console()
    for path in kept:
        console.print(f"kept {path}: what lay there had been changed", markup=False)
    if own and not no_images:
        console.print("A board's own page is without pictures; --out makes one with them.")
    for sentence in made.said:
        console.print(sentence, markup=False)
    size = sum(map(len, made.files.values()))
    several = f" and {len(made.files) - 1:,} files beside it" if len(made.files) > 1 else ""
    console.print(f"{page}{several}, {size / 1e6:.1f} MB", markup=False)
