"""`bench plugins`: what is installed, with options."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.api.kinds import noun
from bench.cli import output
from bench.cli.frame import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from bench.registry.registry import Entry, Registry


def plugins(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Show this plugin's options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every plugin, or show one with its options."""
    from bench.lib.stdout_guard import reserve_stdout
    from bench.registry.registry import default_registry

    stdout = reserve_stdout(context, as_json)
    registry = default_registry()
    if stdout:
        stdout.emit(json.dumps(as_data(registry, name), indent=1))
    else:
        show(output.console(), registry, name)


def as_data(registry: Registry, name: str | None) -> dict[str, Any]:
    """The listing as JSON data, with options."""
    entries = registry.find(name) if name else registry.entries()
    return {
        "plugins": [
            _row(entry) | {"options": [asdict(option) for option in registry.options(entry)]}
            for entry in entries
        ],
        "broken": [asdict(broken) for broken in registry.broken],
    }


def show(console: Console, registry: Registry, name: str | None) -> None:
    """Print the listing for people."""
    if name is None:
        _show_all(console, registry)
        return
    for entry in registry.find(name):
        _show_one(console, registry, entry)


def _row(entry: Entry) -> dict[str, str]:
    return {
        "kind": noun(entry.kind),
        "name": entry.cls.name,
        "summary": entry.summary,
        "package": entry.package,
        "version": entry.package_version,
    }


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("kind", "name"))
    return table


def _show_all(console: Console, registry: Registry) -> None:
    """A table a package: its name would only repeat itself beside every plugin."""
    from rich.markup import escape

    packages: dict[str, list[Entry]] = {}
    for entry in registry.entries():
        packages.setdefault(f"{entry.package} {entry.package_version}", []).append(entry)
    for package, entries in packages.items():
        console.print(f"\n{package}", style="bold", highlight=False, markup=False)
        table = _table("kind", "name", "what it does")
        for entry in entries:
            row = _row(entry)
            table.add_row(*(escape(row[key]) for key in ("kind", "name", "summary")))
        console.print(table)
    for broken in registry.broken:
        console.print(f"could not be loaded: {broken}", markup=False, soft_wrap=True)


def _show_one(console: Console, registry: Registry, entry: Entry) -> None:
    from rich.markup import escape

    row = _row(entry)
    console.print(
        f"{row['name']}: {row['kind']} from {row['package']} {row['version']}",
        style="bold",
        highlight=False,
        markup=False,
    )
    console.print(inspect.getdoc(entry.cls) or "", markup=False, highlight=False)
    options = registry.options(entry)
    if not options:
        console.print("\nIt has no options.\n")
        return
    table = _table("option", "type", "default", "meaning")
    for option in options:
        table.add_row(*map(escape, (option.name, option.type, option.default, option.doc)))
    console.print(table)
