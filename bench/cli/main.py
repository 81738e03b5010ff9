"""The command line: thin, and quick to start."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from bench.cli import output
from bench.cli.audit import audit_app
from bench.cli.compare import compare
from bench.cli.data import data_app
from bench.cli.env import env_app
from bench.cli.images import images
from bench.cli.leaderboard import leaderboard_app
from bench.cli.plugins import plugins
from bench.cli.power import power
from bench.cli.report import report
from bench.cli.run import run
from bench.cli.score import score
from bench.cli.show import export, show
from bench.cli.store import store_app
from bench.lib import interrupts
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.wording import shown
from bench.running.launch import join_launch

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compare the ways to align text-to-image diffusion models with human preferences.",
)
app.command()(run)
app.command()(power)
app.command()(plugins)
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(data_app, name="data")
app.command()(report)
app.command()(score)
app.command()(compare)
app.command()(show)
app.command()(export)
app.command()(images)
app.add_typer(env_app, name="env")
app.add_typer(store_app, name="store")
app.add_typer(audit_app, name="audit")

MISUSED = 2
"""The exit code after a command line that cannot be parsed, as shells have it."""
UsageError: Any = typer.BadParameter.__base__
"""Typer's own name for it depends on its version."""


def main() -> None:
    """Run the command line; mistakes of the user end in one line and an exit code that is not 0."""
    output.accept_any_text()
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
        if interrupts.requested() or end.code == interrupts.CODE:
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
        output.complain(message)
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
