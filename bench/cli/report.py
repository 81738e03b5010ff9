"""`bench report`: a page that shows what a run or a board says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import output
from bench.cli.frame import STORE, StoreFolder


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|BOARD", help="A run's folder, or a board.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A file (.html) or a folder (default: RUN|BOARD).")
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
    page = writing.place(folder, out)
    choice = writing.Choice(within=single_file, images=not no_images, figures=figures)
    with clear_io_errors(folder, page.parent):
        made = writing.of_folder(folder, store, choice, page=page.name)
        kept = writing.write(made, page)
    console = output.console()
    for path in kept:
        console.print(f"kept {path}: what lay there had been changed", markup=False)
    for sentence in made.said:
        console.print(sentence, markup=False)
    size = sum(map(len, made.files.values()))
    several = f" and {len(made.files) - 1:,} files beside it" if len(made.files) > 1 else ""
    console.print(f"{page}{several}, {size / 1e6:.1f} MB", markup=False)
