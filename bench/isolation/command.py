"""`bench env`: the environments of scorers that cannot live beside our packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import BenchError, UnknownNameError

if TYPE_CHECKING:
    from bench.isolation.environments import EnvironmentSpec
    from bench.registry import Registry

env_app = typer.Typer(
    no_args_is_help=True, help="Environments of scorers that cannot live beside our packages."
)

Names = Annotated[list[str], typer.Argument(help="Environments, or scorers that have one.")]


def declared(registry: Registry) -> dict[EnvironmentSpec, list[str]]:
    """Every environment that an installed scorer declares, and the scorers that share it.

    Raises:
        BenchError: two scorers declare different environments under one name.
    """
    from bench.isolation.scorer import IsolatedScorer

    found: dict[str, EnvironmentSpec] = {}
    scorers: dict[EnvironmentSpec, list[str]] = {}
    for entry in registry.entries("scorers"):
        if issubclass(entry.cls, IsolatedScorer):
            spec = entry.cls.environment
            if found.setdefault(spec.name, spec) != spec:
                raise BenchError(
                    f"scorer {entry.cls.name!r} ({entry.package}) declares another environment "
                    f"{spec.name!r} than {scorers[found[spec.name]][0]!r}; one must be renamed"
                )
            scorers.setdefault(spec, []).append(entry.cls.name)
    return scorers


def named(registry: Registry, name: str) -> EnvironmentSpec:
    """The environment of that name, or of the scorer of that name."""
    known = declared(registry)
    for spec, scorers in known.items():
        if name == spec.name or name in scorers:
            return spec
    raise UnknownNameError("environment", name, {spec.name for spec in known})


@env_app.command()
def create(
    names: Names,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Even if it is there.")] = False,
) -> None:
    """Build environments with uv where it is found, else with venv and pip."""
    from bench.isolation import build
    from bench.registry import default_registry

    specs = [named(default_registry(), name) for name in names]
    for spec in dict.fromkeys(specs):
        build.create(spec, typer.echo, rebuild=rebuild, uv=build.find_uv())


@env_app.command("list")
def list_() -> None:
    """Every environment that a scorer declares, and what is there of it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from bench.isolation import environments
    from bench.registry import default_registry

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("environment", "state", "Python", "scorers"):
        table.add_column(column, overflow="fold")
    known = declared(default_registry())
    for spec, scorers in known.items():
        built = environments.find(spec)
        if built:
            state = "broken" if environments.obstacle(spec) else "ready"
        else:
            state = "outdated" if environments.pointers(spec.name) else "not built"
        python = built.python_version if built else (spec.python or environments.running_python())
        table.add_row(spec.name, state, python, ", ".join(scorers))
    console = Console()
    console.print(table)
    console.print(f"They lie in {environments.root()}", highlight=False, soft_wrap=True)


@env_app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="By default every environment that is built.")
    ] = None,
) -> None:
    """Import in each environment what its scorer needs, and compare versions."""
    from bench.isolation import environments
    from bench.registry import default_registry

    registry = default_registry()
    if names:
        specs = list(dict.fromkeys(named(registry, name) for name in names))
    else:
        specs = [spec for spec in declared(registry) if environments.pointers(spec.name)]
    if not specs:
        typer.echo("no environment is built; `bench env list` shows what there is")
    broken = 0
    for spec in specs:
        problems = environments.check(spec)
        broken += bool(problems)
        for problem in problems or ["in order"]:
            typer.echo(f"{spec.name}: {problem}")
    if broken:
        raise typer.Exit(1)


@env_app.command()
def remove(names: Names) -> None:
    """Delete environments, also builds of older definitions."""
    from bench.isolation import environments
    from bench.registry import default_registry

    registry = default_registry()
    for name in names:
        # What a package that is gone has left can be removed too.
        target = name if environments.folders(name) else named(registry, name).name
        removed = environments.remove(target)
        for folder in removed:
            typer.echo(f"removed {folder}")
        if not removed:
            typer.echo(f"{target} is not built")
