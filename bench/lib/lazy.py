"""Public names that are read from their modules when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose names are dear to import.

    Args:
        package: the module's name.
        places: public name -> "module", or "module:name" where it is called otherwise there.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inner = places[name].partition(":")
        value = getattr(import_module(module), inner or name)
        setattr(sys.modules[package], name, value)
        return value

    return find
