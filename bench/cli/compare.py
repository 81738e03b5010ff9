"""`bench compare`: images, rows of runs and boards, and checkpoints, over the same prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.cli.frame import (
    RUNS,
    STORE,
    AsJson,
    Device,
    Frame,
    Processes,
    StoreFolder,
    joined,
)
from bench.cli.run import setting
from bench.cli.show import ROOTS, names

if TYPE_CHECKING:
    from bench.comparison.comparing import Compared

_SHOWN = 8
"""Subjects of which every pair is printed; of more, `pairs.csv` has them."""


def compare(
    context: typer.Context,
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]",
            help="Folders of images, runs or boards (RUN, RUN:method, RUN:method\\[seed]), "
            "checkpoints (a folder, pretrained:OWNER/NAME).",
        ),
    ],
    prompts: Annotated[
        str | None, typer.Option(help="The prompt set or file that all are compared over.")
    ] = None,
    scorers: Annotated[
        str | None,
        typer.Option(help="Comma-separated scorers; rows of runs have theirs already."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Against which the others win or lose; else A.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="By which the images of checkpoints are sampled.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of that recipe, e.g. --set sampling.steps=20."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Prompts, a stratified sample by category.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Tables and pictures; else bench-runs/compare/<names>."),
    ] = None,
    device: Device = "auto",
    store: StoreFolder = STORE,
    num_processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Compare what is there already, image by image; nothing is trained, or scored twice."""
    world = joined(num_processes)
    from bench.comparison import comparing, writing
    from bench.leaderboard.run_folder import outside
    from bench.lib.stdout_guard import reserve_stdout
    from bench.registry.registry import default_registry

    stdout = reserve_stdout(context, as_json)
    folder = out or writing.default_place(subjects, RUNS / "compare")
    outside(folder, store)
    writing.check(folder)
    request = comparing.Request(
        subjects=tuple(subjects),
        scorers=tuple(names("--scorers", scorers)),
        prompts=prompts,
        base=base,
        recipe=recipe,
        settings=dict(setting(text) for text in settings or []),
        limit=limit,
    )
    frame = Frame(folder=store, asked_device=device, world=world, stderr=as_json)
    with frame.open(folder):
        compared = comparing.run(request, default_registry(), frame, ROOTS)
        if world.is_main:
            writing.write(compared, folder, frame.store)
    if world.is_main:
        if stdout:
            stdout.emit(json.dumps(_as_data(compared, folder), indent=1))
        else:
            _report(frame, compared, folder)
    for reason in compared.failures:
        output.complain(reason)
    if compared.failures:
        sys.exit(1)


def _report(frame: Frame, compared: Compared, folder: Path) -> None:
    from bench.comparison import writing

    frame.console.print(writing.against_base(compared))
    if 2 < len(compared.subjects) <= _SHOWN:
        frame.console.print(writing.head_to_head(compared))
    for note in writing.notes(compared):
        frame.say(f"- {note}")
    for what, name in (
        ("tables", "README.md, leaderboard.csv, .json, .tex, pairs.csv"),
        ("contact sheet", "contact_sheet.png"),
        ("as a board", f"bench show {folder}"),
    ):
        frame.say(f"  {what:<14} {name if what == 'as a board' else folder / name}")


def _as_data(compared: Compared, folder: Path) -> dict[str, object]:
    from bench.comparison.comparing import ESTIMAND

    return {
        "base": compared.base,
        "subjects": [subject.name for subject in compared.subjects],
        "scorers": list(compared.scorers),
        "pairs": [
            {
                "subject": pair.name,
                "other": pair.other,
                "win_rate": pair.rate.win_rate,
                "low": pair.rate.low,
                "high": pair.rate.high,
            }
            for pair in compared.pairs
        ],
        "notes": [ESTIMAND, *compared.notes],
        "failures": list(compared.failures),
        "out": str(folder),
    }
