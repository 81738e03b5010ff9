"""Finding plugins: discovery through entry points, look-up by name, building from specs.

Discovery imports the modules that the entry points name, and nothing heavy: a plugin module
imports torch and the like only inside the methods that work.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal

import pluggy

from bench import hookspecs, protocols, reading
from bench.errors import BenchError, UnknownNameError
from bench.protocols import Kind, Plugin
from bench.specs import REQUIRED, Spec, parse

GROUP = "bench"
DISABLED_VARIABLE = "BENCH_DISABLED_PLUGINS"
OWN_PACKAGE = "diffusion-preference-bench"

BASES: Mapping[Kind, type[Plugin]] = {
    "scorers": protocols.Scorer,
    "aggregations": protocols.Aggregation,
    "trajectories": protocols.Trajectory,
    "losses": protocols.Loss,
    "references": protocols.Reference,
    "methods": protocols.Method,
    "backbones": protocols.Backbone,
    "preference_sets": protocols.PreferenceSet,
    "prompt_sets": protocols.PromptSet,
    "recipes": protocols.RecipePreset,
    "commands": protocols.Command,
}
_SINGULAR: Mapping[Kind, str] = {
    "aggregations": "aggregation",
    "trajectories": "trajectory",
    "losses": "loss",
    "preference_sets": "preference set",
    "prompt_sets": "prompt set",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def noun(kind: Kind) -> str:
    """The kind in words, for messages: "prompt set"."""
    return _SINGULAR.get(kind, kind.removesuffix("s"))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A plugin class and where it comes from."""

    kind: Kind
    cls: type[Plugin]
    package: str
    package_version: str

    @property
    def summary(self) -> str:
        """The first line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """An entry point that could not be loaded, and why."""

    entry_point: str
    package: str
    package_version: str
    reason: str

    def __str__(self) -> str:
        """One line for messages."""
        return f"{self.package} {self.package_version} ({self.entry_point}): {self.reason}"


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """An option as `bench plugins NAME` shows it."""

    name: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A scorer that a plugin reads."""

    option: str
    """Through which option: "labels.scorers"."""
    spec: str
    scorer: type[protocols.Scorer]
    how: Literal["held", "named", "needed"] = "held"
    """The option holds the scorer; or its spec; or an aggregation that needs its rewards."""


class Registry:
    """All plugins that could be loaded, by kind and name."""

    def __init__(self, entries: Iterable[Entry], broken: Iterable[Broken] = ()) -> None:
        """Refuse two plugins of one kind with one name."""
        self.broken = tuple(broken)
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in BASES}
        for entry in entries:
            seen = self._entries[entry.kind].setdefault(entry.cls.name, entry)
            if seen is not entry:
                raise BenchError(
                    f"two packages provide the {noun(entry.kind)} {entry.cls.name!r}: "
                    f"{_origin(seen)} and {_origin(entry)}; "
                    f"switch one off with {DISABLED_VARIABLE}=<package>"
                )

    @classmethod
    def discover(cls, disabled: Iterable[str] = ()) -> Registry:
        """Load the entry points of the group `bench`.

        Args:
            disabled: entry-point or package names to leave out, beside those in the
                environment variable BENCH_DISABLED_PLUGINS (comma separated).
        """
        off = {*disabled, *os.environ.get(DISABLED_VARIABLE, "").replace(",", " ").split()}
        found = [
            point
            for point in sorted(entry_points(group=GROUP), key=lambda p: (_package(p)[0], p.name))
            if point.name not in off and _package(point)[0] not in off
        ]
        return _load(found)

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        """All plugins (of one kind), sorted by kind and name."""
        kinds = [kind] if kind else list(BASES)
        return [e for k in kinds for _, e in sorted(self._entries[k].items())]

    def get(self, kind: Kind, name: str) -> Entry:
        """The plugin of that name.

        Raises:
            BenchError: nothing carries the name; says what is close and what failed to load.
        """
        entry = self._entries[kind].get(name)
        if entry is None:
            error = UnknownNameError(noun(kind), name, self._entries[kind])
            if self.broken:
                reasons = "; ".join(map(str, self.broken))
                raise BenchError(f"{error} Plugins that could not be loaded: {reasons}")
            raise error
        return entry

    def find(self, name: str) -> list[Entry]:
        """Every plugin of that name, of whatever kind."""
        found = [e for e in self.entries() if e.cls.name == name]
        if not found:
            reasons = [b for b in self.broken if name in (b.entry_point, b.package)]
            if reasons:
                raise BenchError(f"plugin could not be loaded: {reasons[0]}")
            raise UnknownNameError("plugin", name, {e.cls.name for e in self.entries()})
        return found

    def build(self, kind: Kind, spec: str | Spec | Mapping[str, object]) -> Any:
        """An instance with typed, checked options; options that name plugins are built too."""
        if not isinstance(spec, Spec):
            spec = parse(spec)
        entry = self.get(kind, spec.name)
        fields = {f.name: f for f in _options(entry.cls)}
        spec = _name_required(spec, entry, list(fields.values()))
        for key in spec.options:
            if key not in fields:
                raise UnknownNameError(f"option of {noun(kind)} {spec.name!r}", key, fields)
        hints = typing.get_type_hints(entry.cls)
        values = {
            name: self._value(entry, field, hints[name], spec) for name, field in fields.items()
        }
        plugin = entry.cls(**values)
        if type(plugin) is not entry.cls or plugin.name != entry.cls.name:
            raise BenchError(
                f"{noun(kind)} {spec.name!r} from {_origin(entry)} makes what calls itself "
                f"{plugin.name!r}; a plugin must be of its own class and keep its `name`"
            )
        return plugin

    def _value(
        self, entry: Entry, field: dataclasses.Field[Any], hint: object, spec: Spec
    ) -> object:
        given = field.name in spec.options
        raw = spec.options.get(field.name, field.default)
        if not given and field.default is dataclasses.MISSING:
            raise BenchError(
                f"{noun(entry.kind)} {spec.name!r} needs its option {field.name!r}: "
                f"{spec.name}[{field.name}=...]"
            )
        if "kind" in field.metadata:
            if not isinstance(raw, str | Spec):
                raise BenchError(f"{spec.name}[{field.name}={raw}]: expected a plugin's name")
            return self.build(field.metadata["kind"], raw)
        if not given:
            return raw
        return _typed(f"{spec.name}[{field.name}={_shown(raw)}]", hint, field, raw)

    def options(self, entry: Entry) -> list[OptionInfo]:
        """The options of a plugin, in the order that its class declares them."""
        hints = typing.get_type_hints(entry.cls)
        rows = []
        for field in _options(entry.cls):
            kind = field.metadata.get("kind")
            missing = field.default is dataclasses.MISSING
            rows.append(
                OptionInfo(
                    name=field.name,
                    type=noun(kind) if kind else _type_name(hints[field.name]),
                    default="required" if missing else _shown(field.default),
                    doc=_with_bounds(field),
                )
            )
        return rows

    def scorers_read(self, plugin: Plugin, pool: Sequence[str] = ()) -> Iterator[Reading]:
        """Every scorer that a plugin's options hold or name, however nested.

        A text counts as well, or one of several, if it is the spec of a registered scorer; of
        aggregations also what they need.

        Args:
            plugin: of any kind; a scorer does not read itself, but what its own options hold.
            pool: the recipe's `label_scorers`.
        """
        paths = {f.name for f in _options(type(plugin)) if not f.metadata.get("in_key", True)}
        for name in dict.fromkeys((*(f.name for f in dataclasses.fields(plugin)), *_vars(plugin))):
            for found in self._scorers_in(getattr(plugin, name), pool):
                # A text that is kept out of keys is a path or the like.
                if name not in paths or found.how != "named":
                    option = f"{name}.{found.option}".rstrip(".")
                    yield dataclasses.replace(found, option=option)
        if isinstance(plugin, protocols.Aggregation):
            for text in plugin.needs(pool):
                needed = self.get("scorers", parse(text).name).cls
                yield Reading(option="", spec=text, scorer=needed, how="needed")  # type: ignore[arg-type]

    def _scorers_in(self, value: object, pool: Sequence[str]) -> Iterator[Reading]:
        if isinstance(value, protocols.Scorer):
            yield Reading(option="", spec=spec_text(value), scorer=type(value))
        if isinstance(value, Plugin):
            yield from self.scorers_read(value, pool)
        elif isinstance(value, type) and issubclass(value, protocols.Scorer):
            yield Reading(option="", spec=value.name, scorer=value)
        elif isinstance(value, str):
            if (scorer := self.scorer_class(value)) is not None:
                yield Reading(option="", spec=value, scorer=scorer, how="named")
        elif isinstance(value, Mapping):
            for pair in value.items():
                yield from self._scorers_in(pair, pool)
        elif isinstance(value, tuple | list | set | frozenset):
            for item in value:
                yield from self._scorers_in(item, pool)

    def scorer_class(self, spec: str) -> type[protocols.Scorer] | None:
        """The class of the scorer that a text is the spec of; None: it is none's."""
        entry = self._entries["scorers"].get(re.split(r"[\[:]", spec.strip(), maxsplit=1)[0])
        return None if entry is None else typing.cast(type[protocols.Scorer], entry.cls)

    def describe(self, plugin: Plugin) -> dict[str, Any]:
        """Everything that can change the plugin's results, as JSON data, for artefact keys."""
        kind = next(k for k, base in BASES.items() if isinstance(plugin, base))
        entry = self.get(kind, plugin.name)
        options = {}
        for field in _options(type(plugin)):
            if not field.metadata.get("in_key", True):
                continue
            value = getattr(plugin, field.name)
            options[field.name] = self.describe(value) if isinstance(value, Plugin) else value
        described: dict[str, Any] = {
            "name": plugin.name,
            "version": plugin.version,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
            "fingerprint": plugin.fingerprint(),
        }
        if entry.package != OWN_PACKAGE:
            described["package"] = f"{entry.package} {entry.package_version}"
        return described


@cache
def default_registry() -> Registry:
    """The registry of everything installed, discovered once a process."""
    return Registry.discover()


def spec_text(plugin: Plugin) -> str:
    """The shortest spec that builds the plugin: its name and the options that differ."""
    parts = []
    for field in _options(type(plugin)):
        if not field.metadata.get("in_name", True):
            continue
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin):
            text = spec_text(value)
            same = text == field.default
        else:
            text, same = _shown(value), value == field.default
        if not same:
            parts.append(f"{field.name}={text}")
    return f"{plugin.name}[{','.join(parts)}]" if parts else plugin.name


def _load(points: Sequence[EntryPoint]) -> Registry:
    # A scorer that is loaded now could be asked later, unseen.
    with reading.only("while plugins are imported", ()):
        return _collect(points)


def _collect(points: Sequence[EntryPoint]) -> Registry:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    broken: list[Broken] = []
    origins: dict[str, EntryPoint] = {}
    for point in points:
        plugin_name = f"{_package(point)[0]}:{point.name}"
        try:
            manager.register(point.load(), name=plugin_name)
        except pluggy.PluginValidationError as error:
            raise BenchError(f"plugin {plugin_name}: {_one_line(error)}") from error
        except Exception as error:
            # Whatever a plugin raises while it is imported is its own affair.
            broken.append(_broken(point, error))
            continue
        origins[plugin_name] = point
    _refuse_unknown_hooks(manager)
    entries: list[Entry] = []
    for kind, base in BASES.items():
        for impl in getattr(manager.hook, f"bench_{kind}").get_hookimpls():
            point = origins[impl.plugin_name]
            try:
                classes = list(impl.function())
            except Exception as error:
                broken.append(_broken(point, error))
                continue
            entries += [_entry(kind, base, cls, point) for cls in classes]
    return Registry(entries, broken)


def _entry(kind: Kind, base: type[Plugin], cls: object, point: EntryPoint) -> Entry:
    package, version = _package(point)
    where = f"plugin {package}:{point.name}, hook bench_{kind}"
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise BenchError(f"{where}: {cls!r} is not a dataclass derived from {base.__name__}")
    if not isinstance(getattr(cls, "name", None), str) or not _NAME.fullmatch(cls.name):
        raise BenchError(f"{where}: {cls.__qualname__} has no valid `name`")
    return Entry(kind=kind, cls=cls, package=package, package_version=version)


def _refuse_unknown_hooks(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        known = [f"bench_{kind}" for kind in BASES]
        asked = re.search(r"unknown hook '(\w+)'", str(error))
        close = difflib.get_close_matches(asked[1], known, n=1) if asked else []
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
        name = manager.get_name(error.plugin)
        raise BenchError(f"plugin {name}: {_one_line(error)}{hint}") from error


def _broken(point: EntryPoint, error: Exception) -> Broken:
    package, version = _package(point)
    reason = f"{type(error).__name__}: {_one_line(error)}"
    return Broken(entry_point=point.name, package=package, package_version=version, reason=reason)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _package(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _origin(entry: Entry) -> str:
    return f"{entry.package} {entry.package_version} ({entry.cls.__module__})"


def _vars(plugin: Plugin) -> Iterable[str]:
    """What an instance holds beside its fields, if it has room for it."""
    return getattr(plugin, "__dict__", {})


def _options(cls: type[Plugin]) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.init]


def _name_required(spec: Spec, entry: Entry, fields: Sequence[dataclasses.Field[Any]]) -> Spec:
    """The spec with the value of `name:value` under the name of the required option."""
    if REQUIRED not in spec.options:
        return spec
    required = [f.name for f in fields if f.default is dataclasses.MISSING]
    value = spec.options[REQUIRED]
    if len(required) != 1:
        raise BenchError(
            f"{spec.name}:{value}: {noun(entry.kind)} {spec.name!r} has {len(required)} required "
            f"options, so the short form does not say which one is meant; write "
            f"{spec.name}[option={value}]"
        )
    return Spec(spec.name, {required[0]: value})


def _typed(shown: str, hint: object, field: dataclasses.Field[Any], raw: object) -> object:
    import pydantic

    if isinstance(raw, Spec):
        raise BenchError(f"{shown}: the option does not name a plugin")
    if isinstance(raw, str):
        if raw.lower() == "none" and type(None) in typing.get_args(hint):
            return None
        if typing.get_origin(hint) is tuple:
            raw = [part for part in raw.split("+") if part]
    bounded = Annotated[hint, pydantic.Field(**field.metadata.get("bounds", {}))]  # type: ignore[valid-type]
    try:
        return pydantic.TypeAdapter(bounded).validate_python(raw)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"]
        problem = problem[:1].lower() + problem[1:]
        raise BenchError(f"{shown}: {problem} (type: {_type_name(hint)})") from error


def _type_name(hint: object) -> str:
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(a) for a in args)
    if origin is tuple:
        return f"{_type_name(args[0])}+..."
    if hint is type(None):
        return "none"
    return getattr(hint, "__name__", str(hint))


def _with_bounds(field: dataclasses.Field[Any]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{signs[k]} {v:g}" for k, v in field.metadata.get("bounds", {}).items()]
    doc = str(field.metadata.get("doc", ""))
    return f"{doc} ({', '.join(bounds)})" if bounds else doc


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
