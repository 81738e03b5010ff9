"""`bench shapes build`: everything in `assets/`, from seeds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Rebuild the embedded shapes world.")


@app.callback()
def shapes() -> None:
    """Rebuild the embedded shapes world."""


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="Where the files are put.")],
    work: Annotated[
        Path, typer.Option(help="Unfinished work; the same command goes on from it.")
    ] = Path("bench-runs/shapes-build"),
) -> None:
    """Draw, pretrain, sample pairs, fit scorers: about two hours on two CPU cores."""
    from bench_plugins.shapes.build import build_world

    start = time.monotonic()

    def report(text: str) -> None:
        typer.echo(f"[{(time.monotonic() - start) / 60:6.1f} min] {text}")

    build_world(work, out, report)
    typer.echo(f"built {out}")
