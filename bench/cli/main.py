"""The command line: thin, and quick to start."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench.cli import console as terminal
from bench.cli.data import data_app
from bench.cli.env import env_app
from bench.cli.score import score
from bench.cli.store import store_app
from bench.lib import devices, interrupts
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.wording import cut, printable, quoted, shown
from bench.run.launch import join_launch, launch

if TYPE_CHECKING:
    from rich.console import Console

    from bench.run.walk import Status
    from bench.stages.records import Plan
    from bench.store.store import Store

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
app.add_typer(store_app, name="store")

LEADERBOARDS = Path("leaderboards")
MISUSED = 2
"""The exit code after a command line that cannot be parsed, as shells have it."""
UsageError: Any = typer.BadParameter.__base__
"""Typer's own name for it depends on its version."""


def main() -> None:
    """Run the command line; mistakes of the user end in one line and an exit code that is not 0."""
    terminal.accept_any_text()
    join_launch()
    try:
        world = World.from_environment()
        with interrupts.watched(alone=world.size == 1):
            _run(world)
    except BenchError as error:
        _fail(str(error))


def _run(world: World) -> None:
    try:
        _refuse_empty(sys.argv[1:])
        _add_plugin_commands()
        _run_command()
    except KeyboardInterrupt:
        interrupts.end(alone=world.size == 1)
    except SystemExit as end:
        # Typer makes one of a KeyboardInterrupt.
        if interrupts.asked() or end.code == interrupts.CODE:
            interrupts.end(alone=world.size == 1)
        raise


def _run_command() -> NoReturn:
    """What typer makes of the arguments; what it cannot parse is one sentence too."""
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        _misused(error)
    except OSError as error:
        # Where nobody foresaw it.
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    # Without `standalone_mode` typer returns the code that a command or Ctrl-C exits with.
    sys.exit(code or 0)


def _fail(message: str, code: int = 1) -> NoReturn:
    # What one process of a run finds wrong, all do; one says it.
    try:
        speaks = World.from_environment().is_main
    except BenchError:
        # The environment itself is what is wrong.
        speaks = True
    if speaks:
        terminal.complain(message)
    sys.exit(code)


def _misused(error: Any) -> NoReturn:
    """What the parser of the command line found wrong, or a group's help where nothing is asked."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        sys.exit(MISUSED)
    path = context.command_path if context else "bench"
    _fail(f"{error.format_message().rstrip('.')}; see `{path} --help`", MISUSED)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty text is no name, no file and no folder, though `Path` takes it for this one.

    Raises:
        BenchError: names the option.
    """
    for before, word in zip(["bench", *arguments], arguments, strict=False):
        if word == "" or re.fullmatch(r"--[\w-]+=", word):
            name = word.rstrip("=") or before
            raise BenchError(f"{name}: an empty value; give one, or leave the option out")


def _add_plugin_commands() -> None:
    """Plugins' command groups; looked up only when the command is not one of ours."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    own = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    groups = {group.name for group in app.registered_groups}
    if words and words[0] in own | groups:
        return
    from bench.api.contracts import asking, refused
    from bench.registry.registry import default_registry

    registry = default_registry()
    for entry in registry.entries("commands"):
        name = entry.cls.name
        try:
            who = registry.called(entry.cls)
            with asking(who, "`app`"):
                group = registry.build("commands", name).app()
            if not isinstance(group, typer.Typer):
                raise refused(
                    registry.called(entry.cls), f"{shown(group)} as `app`", "a typer.Typer"
                )
        except BenchError:
            # In nobody's way but of who asks for it.
            if words[:1] == [name]:
                raise
            continue
        app.add_typer(group, name=name, help=entry.summary)


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
    fresh: Annotated[
        list[str] | None,
        typer.Option(
            "--fresh",
            metavar="STAGE|METHOD",
            help="Make this anew, cached or not, and all that follows from it: a stage such as "
            "train, or a method of the plan. May be given several times.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
) -> None:
    """Train, sample, score and compare methods; what is finished is never done again."""
    world = World.from_environment()
    if num_processes > 1 and world.size == 1 and not dry_run:
        sys.exit(launch(num_processes, sys.argv[1:]))
    from bench.leaderboard.run_folder import RunFolder, default_place, outside
    from bench.lib.io_errors import clear_io_errors
    from bench.recipe import recipe as recipes
    from bench.registry.registry import default_registry
    from bench.run import planning
    from bench.run.fresh import chosen as chosen_anew
    from bench.run.walk import status
    from bench.store.store import Store

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
    with clear_io_errors(store, folder.path):
        if world.size > 1:
            device = devices.named(device, world)
            world.connect(device)
        found = world.broadcast(status(plan, artefacts) if world.is_main else None)
        assert found is not None
        found = found.without(chosen_anew(plan, fresh or ()))
        _print_plan(console, plan, artefacts, found, max(num_processes, world.size))
        missing = planning.unavailable_reasons(plan, found.finished)
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
    from bench.leaderboard import tables
    from bench.lib.progress import Progress, quiet_libraries
    from bench.outputs import writing
    from bench.run.walk import Runner, RunOutcome

    outcome = RunOutcome(ran=())
    if len(found.finished) < len(plan.stages):
        device = devices.named(device, world)
        quiet_libraries()
        console.print(f"Running on {device}.", highlight=False)
        outcome = Runner(plan, store, device, Progress(console), world).run(
            found.finished, found.anew
        )
    if not world.is_main:
        return bool(outcome.failures)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    built = writing.write(plan, store, out, outcome, say)
    console.print(tables.console_table(built))
    for what, name in (
        ("tables", "README.md, leaderboard.csv, leaderboard.json, by_group.csv"),
        ("result files", "results/, prompts/"),
        ("per-image scores", "scores.parquet"),
        ("checkpoints", "checkpoints/<method>-seed<seed>/, with model cards"),
        ("contact sheet", "contact_sheet.png"),
        ("recipe", "recipe.yaml"),
    ):
        if what == "checkpoints" and not (out / "checkpoints").is_dir():
            continue
        console.print(f"  {what:<17} {out}/{name}", highlight=False, soft_wrap=True, markup=False)
    for reason in dict.fromkeys(outcome.failures.values()):
        terminal.complain(reason)
    return bool(outcome.failures)


def _print_plan(console: Console, plan: Plan, store: Store, found: Status, processes: int) -> None:
    from bench.run.estimates import estimate, facts_table

    console.print(
        f"Plan of recipe {plan.recipe.name!r}: {_count(len(plan.cells), 'cell')}, "
        f"{_count(len(plan.stages), 'stage')}, {len(found.finished)} of them cached.",
        highlight=False,
        markup=False,
    )
    console.print(facts_table(plan, processes), highlight=False)
    for reason in found.damaged.values():
        said = f"damaged artefact: {reason}; it will be made again"
        console.print(said, markup=False, soft_wrap=True)
    console.print(estimate(plan, store, found.finished, processes=processes).table())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@app.command()
def plugins(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show this plugin's options.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List every plugin, or show one with its options."""
    from bench.cli import plugin_tables as listing
    from bench.lib.stdout_guard import reserve_stdout
    from bench.registry.registry import default_registry

    stdout = reserve_stdout(context, as_json)
    registry = default_registry()
    if stdout:
        stdout.emit(json.dumps(listing.as_data(registry, name), indent=1))
    else:
        listing.show(terminal.console(), registry, name)


@leaderboard_app.command("build")
def leaderboard_build(
    board: Annotated[Path | None, typer.Argument(help="A board; all by default.")] = None,
) -> None:
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
def leaderboard_check(
    board: Annotated[Path | None, typer.Argument(help="A board; all by default.")] = None,
) -> None:
    """Fail unless the tables are, byte for byte, what the result files give."""
    from bench.leaderboard import tables

    for folder in _boards(board):
        tables.check(folder)
        typer.echo(f"up to date: {printable(str(folder))}")


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
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?[0-9]{1,25}", part) for part in parts):
        raise BenchError(f"{flag} {cut(text)}: expected whole numbers such as 0,1,2")
    return [int(part) for part in parts]


def _setting(text: str) -> tuple[str, object]:
    from bench.lib import plain_yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BenchError(f"--set {cut(text)}: expected key=value, e.g. training.steps=50")
    try:
        return key.strip(), plain_yaml.load(value)
    except plain_yaml.YamlError as error:
        raise BenchError(f"--set {cut(text)}: {quoted(value)} is not a YAML value") from error
