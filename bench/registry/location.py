"""Plugins by name or by the path that they read, and the one that every run needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bench.api import contracts
from bench.api.kinds import Backbone, Kind, PreferenceSet, PromptSet, noun
from bench.lib.errors import BenchError
from bench.lib.reading import exists, refuse_special
from bench.lib.wording import listed, quoted
from bench.registry.registry import DISABLED_VARIABLE, OWN_PACKAGE, Registry
from bench.registry.spec_language import Spec


def baseline(registry: Registry) -> str:
    """The name of the method that is the untouched backbone.

    Raises:
        BenchError: there is none, or more than one.
    """
    marked = [e for e in registry.entries("methods") if getattr(e.cls, "baseline", False) is True]
    # Another package's never takes the place of the project's own.
    own = [entry for entry in marked if entry.package == OWN_PACKAGE] or marked
    if len(own) > 1:
        raise BenchError(
            f"{' and '.join(f'{e.cls.name} of {e.package}' for e in own)} both say that they "
            f"are the untouched backbone; switch one off with {DISABLED_VARIABLE}=<package>"
        )
    if not own:
        raise BenchError("no method is marked as the untouched backbone (`baseline = True`)")
    return own[0].cls.name


def named_or_path(registry: Registry, kind: Kind, text: str) -> Any:
    """A plugin by its spec; an existing path goes to the plugin that reads such files."""
    known = {e.cls.name for e in registry.entries(kind)}
    named = re.split(r"[\[:]", text, maxsplit=1)[0] in known
    if named or not (exists(Path(text)) or "/" in text or Path(text).suffix):
        return registry.build(kind, text)
    return reader(registry, kind, Path(text))


def reader(registry: Registry, kind: Kind, path: Path) -> Any:
    """The plugin that reads a file or folder, made with that path.

    Raises:
        BenchError: there is no such file, or no plugin reads it.
    """
    if not exists(path):
        raise BenchError(
            f"{noun(kind)} {quoted(str(path))}: there is no such file or folder"
            f"{_hub_hint(registry, kind, str(path))}"
        )
    refuse_special(path)
    entries = sorted(registry.entries(kind), key=lambda e: e.package != OWN_PACKAGE)
    failures: list[BenchError] = []
    for entry in entries:
        if not issubclass(entry.cls, Backbone | PromptSet | PreferenceSet):
            continue
        try:
            with contracts.asking(registry.called(entry.cls), "`reads`"):
                reads = bool(entry.cls.reads(path))
        except BenchError as error:
            # It may have failed at a file that is another plugin's.
            failures.append(error)
            continue
        if reads:
            return registry.build(kind, Spec(entry.cls.name, {"path": str(path)}))
    near = (e.cls.refusal(path) for e in entries if issubclass(e.cls, Backbone))
    reason = next(filter(None, near), "no plugin reads such files")
    why = "".join(f"; {error}" for error in failures)
    raise BenchError(f"{noun(kind)} {quoted(str(path))}: {reason}{why}")


def _hub_hint(registry: Registry, kind: Kind, text: str) -> str:
    """How a Hub id is given, where the text could be one."""
    hub = [e for e in registry.entries(kind) if "revision" in e.cls.__dataclass_fields__]
    if not hub or text.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return ""
    names = listed(f"{e.cls.name}[path={text}]" for e in hub)
    return f"; a Hub id is given with the {noun(kind)} that reads it: {names}"
