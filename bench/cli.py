"""The command line: thin, and quick to start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import terminal
from bench.distributed import World
from bench.errors import BenchError
from bench.evaluation.score_command import score
from bench.isolation.command import env_app
from bench.preferences.command import data_app

if TYPE_CHECKING:
    from rich.console import Console

    from bench.runner import Status
    from bench.stages import Plan
    from bench.store import Store

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare the ways to align text-to-image diffusion models with human preferences.",
)
leaderboard_app = typer.Typer(no_args_is_help=True, help="Tables from committed result files.")
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(data_app, name="data")
app.command()(score)
app.add_typer(env_app, name="env")

LEADERBOARDS = Path("leaderboards")
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line; mistakes of the user end in one line and exit code 1."""
    try:
        _add_plugin_commands()
        app()
    except BenchError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # What typer makes of a KeyboardInterrupt.
        if end.code == INTERRUPTED:
            _interrupted()
        raise


def _fail(message: str) -> None:
    # What one process of a run finds wrong, all do; one says it.
    if World.from_environment().is_main:
        typer.echo(f"error: {message}", err=True)
    sys.exit(1)


def _interrupted() -> None:
    # Of several processes, whoever has started them says it.
    if World.from_environment().size == 1:
        said = "interrupted: what is finished is kept, and the same command goes on from there"
        typer.echo(said, err=True)
    sys.exit(INTERRUPTED)


def _add_plugin_commands() -> None:
    """Plugins' command groups; looked up only when the command is not one of ours."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    own = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    groups = {group.name for group in app.registered_groups}
    if words and words[0] in own | groups:
        return
    from bench.registry import default_registry

    for entry in default_registry().entries("commands"):
        command: Any = entry.cls()
        app.add_typer(command.app(), name=entry.cls.name, help=entry.summary)


Methods = Annotated[
    str | None,
    typer.Option(help="Comma-separated methods, e.g. 'smpo,balanced[reference=frozen]'."),
]


@app.command()
def run(
    methods: Methods = None,
    recipe: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "shapes",
    seeds: Annotated[str | None, typer.Option(help="Train seeds, e.g. '0,1,2'.")] = None,
    scorers: Annotated[str | None, typer.Option(help="Comma-separated scorers.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Comma-separated prompt sets or their files.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Prompts a set, a stratified sample by category.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe key, e.g. --set training.steps=50."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    store: Annotated[Path, typer.Option(help="Where artefacts are kept and found again.")] = Path(
        "bench-runs/store"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Tables and pictures (default: bench-runs/<recipe>).")
    ] = None,
    num_processes: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, one a GPU, that share the work.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Train, sample, score and compare methods; what is finished is never done again."""
    world = World.from_environment()
    if num_processes > 1 and world.size == 1 and not dry_run:
        from bench.launch import launch

        sys.exit(launch(num_processes, sys.argv[1:]))
    from bench import plan as planning
    from bench import recipe as recipes
    from bench.registry import default_registry
    from bench.run_folder import RunFolder, default_place, outside
    from bench.runner import clear_io_errors, status
    from bench.store import Store

    registry = default_registry()
    overrides: dict[str, object] = {
        key: value
        for key, value in (
            ("methods", methods),
            ("scorers", scorers),
            ("prompts", prompts),
            ("seeds", _integers("--seeds", seeds)),
            ("limit", limit),
        )
        if value is not None
    }
    overrides |= dict(_setting(text) for text in settings or [])
    console = terminal.console(quiet=not world.is_main)
    chosen = recipes.load(registry, recipe, overrides)
    plan = planning.make(chosen, registry, download=not dry_run)
    artefacts = Store(store)
    folder = RunFolder(out or default_place(chosen.name, Path("bench-runs")))
    outside(folder.path, store)
    if not dry_run:
        folder.check()
    with clear_io_errors():
        if world.size > 1:
            device = terminal.device(device, world)
            world.connect(device)
        found = world.from_main(status(plan, artefacts) if world.is_main else None)
        assert found is not None
        _print_plan(console, plan, artefacts, found, max(num_processes, world.size))
        missing = planning.obstacles(plan, found.finished)
        if dry_run:
            for reason in missing:
                console.print(f"not ready: {reason}", markup=False, soft_wrap=True)
            try:
                folder.check()
            except BenchError as error:
                console.print(f"not ready: {error}", markup=False, soft_wrap=True)
            return
        if missing:
            raise BenchError("; ".join(missing))
        if world.is_main:
            folder.claim()
        failed = _execute(console, plan, artefacts, found, folder.path, device, world)
    if failed:
        sys.exit(1)


def _execute(
    console: Console,
    plan: Plan,
    store: Store,
    found: Status,
    out: Path,
    device: str,
    world: World,
) -> bool:
    """Run what is missing and write the outputs; True if something failed."""
    from bench import outputs
    from bench.leaderboard import tables
    from bench.progress import Progress, quiet_libraries
    from bench.runner import Runner, RunOutcome

    outcome = RunOutcome(ran=())
    if len(found.finished) < len(plan.stages):
        device = terminal.device(device, world)
        quiet_libraries()
        console.print(f"Running on {device}.", highlight=False)
        outcome = Runner(plan, store, device, Progress(console), world).run(found.finished)
    if not world.is_main:
        return bool(outcome.failures)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    built = outputs.write(plan, store, out, outcome, device, say)
    console.print(tables.console_table(built))
    for what, name in (
        ("tables", "README.md, leaderboard.csv, leaderboard.json, by_group.csv"),
        ("result files", "results/, prompts/"),
        ("per-image scores", "scores.parquet"),
        ("checkpoints", "checkpoints/<method>-seed<seed>/, with model cards"),
        ("contact sheet", "contact_sheet.png"),
        ("recipe", "recipe.yaml"),
    ):
        console.print(f"  {what:<17} {out}/{name}", highlight=False, soft_wrap=True, markup=False)
    for reason in dict.fromkeys(outcome.failures.values()):
        typer.echo(f"error: {reason}", err=True)
    return bool(outcome.failures)


def _print_plan(console: Console, plan: Plan, store: Store, found: Status, processes: int) -> None:
    from bench.estimates import estimate, facts_table

    console.print(
        f"Plan of recipe {plan.recipe.name!r}: {_count(len(plan.cells), 'cell')}, "
        f"{_count(len(plan.stages), 'stage')}, {len(found.finished)} of them cached.",
        highlight=False,
        markup=False,
    )
    console.print(facts_table(plan, processes), highlight=False)
    for reason in found.damaged.values():
        console.print(f"damaged artefact: {reason}; it will be made again", soft_wrap=True)
    console.print(estimate(plan, store, found.finished, processes=processes).table())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@app.command()
def plugins(
    name: Annotated[str | None, typer.Argument(help="Show this plugin's options.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List every plugin, or show one with its options."""
    from bench import listing
    from bench.registry import default_registry

    registry = default_registry()
    if as_json:
        typer.echo(json.dumps(listing.as_data(registry, name), indent=1))
    else:
        listing.show(terminal.console(), registry, name)


@leaderboard_app.command("build")
def leaderboard_build(
    board: Annotated[Path | None, typer.Argument(help="A board; all by default.")] = None,
) -> None:
    """Regenerate the tables of a board from its result files."""
    from bench.leaderboard import tables

    for folder in _boards(board):
        tables.write(folder)
        typer.echo(f"built {folder}")


@leaderboard_app.command("check")
def leaderboard_check(
    board: Annotated[Path | None, typer.Argument(help="A board; all by default.")] = None,
) -> None:
    """Fail unless the tables are, byte for byte, what the result files give."""
    from bench.leaderboard import tables

    for folder in _boards(board):
        tables.check(folder)
        typer.echo(f"up to date: {folder}")


def _boards(board: Path | None) -> list[Path]:
    if board is not None:
        return [board]
    found = sorted(path.parent for path in LEADERBOARDS.glob("*/results"))
    if not found:
        raise BenchError(f"no board (a folder with results/) under {LEADERBOARDS}/")
    return found


def _integers(flag: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BenchError(f"{flag} {text}: expected whole numbers such as 0,1,2") from error


def _setting(text: str) -> tuple[str, object]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise BenchError(f"--set {text}: expected key=value, e.g. training.steps=50")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BenchError(f"--set {text}: {value!r} is not a YAML value") from error
