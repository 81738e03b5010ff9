"""`bench store`: what lies in a store of artefacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.frame import STORE
from bench.lib.errors import BenchError, DamagedArtefactError

store_app = typer.Typer(no_args_is_help=True, help="The artefacts that runs have left.")


@store_app.callback()
def _group() -> None:
    """Of several commands, so that `verify` is named."""


@store_app.command()
def verify(
    store: Annotated[Path, typer.Option(help="The store.")] = STORE,
    remove_damaged: Annotated[
        bool, typer.Option("--remove-damaged", help="So that the next run makes it again.")
    ] = False,
) -> None:
    """Read every byte of every artefact; exit code 1 if damage is found and left there.

    Runs read a file once after it was written, and take it to be right while its size, inode and
    time of change stay the same. This finds what such a look misses, such as a failing disk.
    """
    from bench.cli import output
    from bench.lib.io_errors import clear_io_errors
    from bench.lib.progress import Progress
    from bench.store.store import Store

    opened = Store(store)
    if not (opened.root / "artefacts").is_dir():
        raise BenchError(f"--store {store}: there is no store")
    progress = Progress(output.console())
    artefacts = opened.artefacts()
    left = removed = size = 0
    with clear_io_errors(opened.root), progress.task("verify", len(artefacts)) as task:
        for artefact in artefacts:
            stage, key = artefact.path.parent.name, artefact.path.name
            try:
                size += opened.verify(artefact)
                for extra in artefact.foreign():
                    progress.say(f"not of the artefact, and never read: {extra}")
            except DamagedArtefactError as error:
                progress.say(f"damaged: {error}")
                if remove_damaged:
                    # A run that makes it again meanwhile is not disturbed.
                    with opened.lock(key, lambda: progress.say("  a run is at it, waiting")):
                        removed += opened.discard_if_damaged(stage, key)
                else:
                    left += 1
            task.advance(1)
    progress.say(
        f"{len(artefacts):,} artefacts, {size / 1e9:.2f} GB read, {left + removed} damaged"
    )
    if removed:
        progress.say("what was damaged is removed; the next run makes it again")
    if left:
        raise BenchError(
            f"{left} of {len(artefacts):,} artefacts in {store} are damaged; with --remove-damaged "
            f"they are removed, and the next run makes them again"
        )
