"""From a recipe to a plan, and from a plan to artefacts. Called, it is the public `bench.run`."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This room has the name of the call, and whichever is imported first, both are meant."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `bench.notebook.calls.run`."""
        return import_module("bench.notebook.calls").run(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
