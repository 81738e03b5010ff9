"""`bench run`: train, sample, score and compare methods."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.cli.frame import RUNS, STORE, Device, DryRun, Frame, Processes, StoreFolder, joined
from bench.lib.errors import BenchError
from bench.lib.wording import cut, quoted

if TYPE_CHECKING:
    from bench.running.plan import Plan
    from bench.running.walk import RunOutcome, Status

DEFAULT_RECIPE = "shapes"
Methods = Annotated[
    str | None,
    typer.Option(help="Comma-separated methods, e.g. 'smpo,balanced[reference=frozen]'."),
]
RecipeName = Annotated[str, typer.Option(help="A preset's name or a YAML file.")]
Seeds = Annotated[str | None, typer.Option(help="Train seeds, e.g. '0,1,2'.")]
Scorers = Annotated[str | None, typer.Option(help="Comma-separated scorers.")]
PromptSets = Annotated[str | None, typer.Option(help="Comma-separated prompt sets or their files.")]
Limit = Annotated[int | None, typer.Option(help="Prompts a set, a stratified sample by category.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any recipe key, e.g. --set training.steps=50."),
]


def run(
    methods: Methods = None,
    recipe: RecipeName = DEFAULT_RECIPE,
    seeds: Seeds = None,
    scorers: Scorers = None,
    prompts: PromptSets = None,
    limit: Limit = None,
    settings: Settings = None,
    device: Device = "auto",
    store: StoreFolder = STORE,
    out: Annotated[
        Path | None, typer.Option(help="Tables and pictures (default: bench-runs/<recipe>).")
    ] = None,
    num_processes: Processes = 1,
    fresh: Annotated[
        list[str] | None,
        typer.Option(
            "--fresh",
            metavar="STAGE|METHOD",
            help="Make this anew, cached or not, and all that follows from it: a stage such as "
            "train, or a method of the plan. May be given several times.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train, sample, score and compare methods; what is finished is never done again."""
    world = joined(num_processes, dry_run=dry_run)
    from bench.leaderboard.run_folder import RunFolder, default_place, outside
    from bench.recipe import recipe as recipes
    from bench.registry.registry import default_registry
    from bench.running import planning
    from bench.running.fresh import chosen as chosen_anew

    registry = default_registry()
    overrides = overridden(methods, scorers, prompts, seeds, limit, settings)
    chosen = recipes.load(registry, recipe, overrides)
    plan = planning.make(chosen, registry, download=not dry_run)
    folder = RunFolder(out or default_place(chosen.name, RUNS))
    outside(folder.path, store)
    if not dry_run:
        folder.check()
    frame = Frame(folder=store, asked_device=device, world=world)
    with frame.open(folder.path):
        here = frame.status(plan.stages).without(chosen_anew(plan, fresh or ()))
        _print_plan(frame, plan, here, max(num_processes, world.size))
        missing = planning.unavailable_reasons(plan.stages, here.finished)
        if dry_run:
            print_power(frame, plan, here, max(num_processes, world.size))
            for reason in missing:
                frame.say(f"not ready: {reason}")
            try:
                folder.check()
            except BenchError as error:
                frame.say(f"not ready: {error}")
            return
        if missing:
            raise BenchError("; ".join(missing))
        if world.is_main:
            folder.claim()
        outcome = frame.make(plan.stages, here)
        if world.is_main:
            _write(frame, plan, folder.path, outcome)
    if outcome.failures:
        sys.exit(1)


def overridden(
    methods: str | None,
    scorers: str | None,
    prompts: str | None,
    seeds: str | None,
    limit: int | None,
    settings: list[str] | None,
) -> dict[str, object]:
    """The recipe keys that options give."""
    given = {
        "methods": methods,
        "scorers": scorers,
        "prompts": prompts,
        "seeds": _integers("--seeds", seeds),
        "limit": limit,
    }
    overrides: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    return overrides | dict(setting(text) for text in settings or [])


def _write(frame: Frame, plan: Plan, out: Path, outcome: RunOutcome) -> None:
    """The outputs, and where they are."""
    from bench.leaderboard.answer import ENOUGH_SEEDS
    from bench.leaderboard.console import console_table
    from bench.outputs import writing
    from bench.report import writing as report

    built = writing.write(plan, frame.store, out, outcome, frame.say)
    frame.console.print(console_table(built))
    if any(section.unranked_because and section.head_to_head for section in built.sections):
        frame.say(f"To rank the methods: {_with_seeds(sys.argv[1:], ENOUGH_SEEDS)}")
    reported = report.add_to_run(out, frame.store.root, frame.say)
    for what, name in (
        ("tables", "README.md, leaderboard.csv, .json, by_group.csv, head_to_head.csv"),
        ("result files", "results/, prompts/"),
        ("per-image scores", "scores.parquet"),
        ("checkpoints", "checkpoints/<method>-seed<seed>/, with model cards"),
        ("contact sheet", "contact_sheet.png"),
        ("recipe", "recipe.yaml"),
        ("report", "report.html, to be opened in a browser"),
    ):
        made = {"checkpoints": (out / "checkpoints").is_dir(), "report": reported}
        if made.get(what, True):
            frame.say(f"  {what:<17} {out}/{name}")
    for reason in dict.fromkeys(outcome.failures.values()):
        output.complain(reason)


def _with_seeds(arguments: Sequence[str], seeds: Iterable[int]) -> str:
    """The command line that was given, with these train seeds."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word == "--seeds":
            next(words, None)
        elif not word.startswith("--seeds="):
            kept.append(word)
    return shlex.join(["bench", *kept, "--seeds", ",".join(map(str, seeds))])


def _print_plan(frame: Frame, plan: Plan, here: Status, processes: int) -> None:
    from bench.running.estimates import facts_table

    frame.say(
        f"Plan of recipe {plan.recipe.name!r}: {_count(len(plan.cells), 'cell')}, "
        f"{_count(len(plan.stages), 'stage')}, {len(here.finished)} of them cached."
    )
    frame.console.print(facts_table(plan, processes), highlight=False)
    frame.print_costs(plan, here, processes)


def print_power(frame: Frame, plan: Plan, here: Status, processes: int) -> None:
    """Which differences the plan can find, in two lines."""
    from bench.running import outlook
    from bench.statistics.power import widest

    for line in outlook.sentences(
        outlook.of_plan(plan, frame.store, here.finished, widest(), processes)
    ):
        frame.say(line)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _integers(flag: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?[0-9]{1,25}", part) for part in parts):
        raise BenchError(f"{flag} {cut(text)}: expected whole numbers such as 0,1,2")
    return [int(part) for part in parts]


def setting(text: str) -> tuple[str, object]:
    """The key and value of a `--set`."""
    from bench.lib import plain_yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BenchError(f"--set {cut(text)}: expected key=value, e.g. training.steps=50")
    try:
        return key.strip(), plain_yaml.load(value)
    except plain_yaml.YamlError as error:
        raise BenchError(f"--set {cut(text)}: {quoted(value)} is not a YAML value") from error
