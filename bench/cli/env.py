"""`bench env`: the environments of scorers that cannot live beside our packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.lib.errors import BenchError, UnknownNameError

if TYPE_CHECKING:
    from bench.registry.registry import Registry
    from bench.scoring.isolation.environments import EnvironmentSpec
    from bench.scoring.isolation.scorer import IsolatedScorer

env_app = typer.Typer(
    no_args_is_help=True, help="Environments of scorers that cannot live beside our packages."
)

Names = Annotated[list[str], typer.Argument(help="Environments, or scorers that have one.")]


def declared(registry: Registry) -> dict[EnvironmentSpec, list[type[IsolatedScorer]]]:
    """Every environment that an installed scorer declares, and the scorers that share it."""
    from bench.scoring.isolation.scorer import IsolatedScorer

    scorers: dict[EnvironmentSpec, list[type[IsolatedScorer]]] = {}
    for entry in registry.entries("scorers"):
        if issubclass(entry.cls, IsolatedScorer):
            scorers.setdefault(entry.cls.environment, []).append(entry.cls)
    return scorers


def named(
    known: Mapping[EnvironmentSpec, Sequence[type[IsolatedScorer]]], name: str
) -> EnvironmentSpec:
    """The environment of the scorer of that name, or of that name.

    Raises:
        BenchError: there is none, or scorers declare different ones under that name.
    """
    for spec, scorers in known.items():
        if name in [scorer.name for scorer in scorers]:
            return spec
    specs = [spec for spec in known if spec.name == name]
    if not specs:
        raise UnknownNameError("environment", name, {spec.name for spec in known})
    if len(specs) > 1:
        one, other, *_ = (known[spec][0].name for spec in specs)
        raise BenchError(
            f"scorers {one!r} and {other!r} declare different environments of the name {name!r}; "
            f"name the scorer whose environment is meant"
        )
    return specs[0]


def adapters(scorers: Sequence[type[IsolatedScorer]]) -> list[Path]:
    """What these scorers run in their environment."""
    return sorted({scorer.adapter for scorer in scorers})


@env_app.command()
def create(
    names: Names,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Even if it is there.")] = False,
) -> None:
    """Build environments, with uv."""
    from bench.registry.registry import default_registry
    from bench.scoring.isolation import build

    known = declared(default_registry())
    for spec in dict.fromkeys(named(known, name) for name in names):
        build.create(spec, adapters(known[spec]), typer.echo, rebuild=rebuild)


@env_app.command("list")
def list_() -> None:
    """Every environment that a scorer declares, and what is there of it."""
    from rich import box
    from rich.table import Table

    from bench.cli import output
    from bench.registry.registry import default_registry
    from bench.scoring.isolation import environments

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("environment", "state", "Python", "scorers"):
        table.add_column(column, overflow="fold")
    for spec, scorers in declared(default_registry()).items():
        built = environments.find(spec)
        if built:
            state = "ready" if built.python.exists() else "broken"
        else:
            state = "outdated" if environments.is_built(spec.name) else "not built"
        python = built.python_version if built else (spec.python or environments.running_python())
        table.add_row(spec.name, state, python, ", ".join(scorer.name for scorer in scorers))
    console = output.console()
    console.print(table)
    console.print(
        f"They lie in {environments.root()}", highlight=False, markup=False, soft_wrap=True
    )


@env_app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="By default every environment that is built.")
    ] = None,
) -> None:
    """Import in each environment what its scorer needs, and compare versions."""
    from bench.registry.registry import default_registry
    from bench.scoring.isolation import build, environments

    known = declared(default_registry())
    if names:
        specs = list(dict.fromkeys(named(known, name) for name in names))
    else:
        specs = [spec for spec in known if environments.is_built(spec.name)]
    if not specs:
        typer.echo("no environment is built; `bench env list` shows what there is")
    broken = 0
    for spec in specs:
        problems = build.check(spec, adapters(known[spec]))
        broken += bool(problems)
        for problem in problems or ["in order"]:
            typer.echo(f"{spec.name}: {problem}")
    if broken:
        raise typer.Exit(1)


@env_app.command()
def remove(names: Names) -> None:
    """Delete environments, also builds of older definitions."""
    from bench.registry.registry import default_registry
    from bench.scoring.isolation import environments

    known = declared(default_registry())
    for name in names:
        # What a package that is gone has left can be removed too.
        target = name if environments.builds(name) else named(known, name).name
        if not environments.remove(target, typer.echo):
            typer.echo(f"{target} is not built")
