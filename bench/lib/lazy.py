"""Public names that are read from their modules when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, imports: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose names are dear to import.

    Args:
        package: the module's name.
        imports: module -> what is imported from it, as after `from MODULE import`.
    """
    places: dict[str, tuple[str, str]] = {}
    for module, clauses in imports.items():
        for clause in clauses.split(", "):
            inner, _, public = clause.partition(" as ")
            places[public or inner] = module, inner

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, inner = places[name]
        value = getattr(import_module(module), inner)
        setattr(sys.modules[package], name, value)
        return value

    return find
