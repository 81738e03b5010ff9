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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from bench.api import hookspecs, scorer_loads
from bench.api import kinds as protocols
from bench.api.contracts import asking, label_scorers, refused
from bench.api.kinds import BASES, Kind, Plugin, noun
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.wording import cut, failure, shown
from bench.registry import source_code as code
from bench.registry.plugin_classes import adapter, hints, name_of, options, problem
from bench.registry.spec_language import REQUIRED, RawValue, Spec, parse, text_of, value_text

GROUP = "bench"
DISABLED_VARIABLE = "BENCH_DISABLED_PLUGINS"
OWN_PACKAGE = "diffusion-preference-bench"
_LONGEST_FINGERPRINT = 10_000


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
        doc: object = self.cls.__doc__
        return doc.strip().split("\n")[0] if isinstance(doc, str) else ""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """What could not be loaded, and why: a plugin, or all that an entry point names."""

    entry_point: str
    package: str
    package_version: str
    reason: str
    kind: Kind | None = None
    name: str = ""
    """The plugin's; "" where the whole entry point or a hook is broken."""

    def __str__(self) -> str:
        """One line for messages."""
        what = f", {noun(self.kind)} {self.name!r}" if self.kind and self.name else ""
        return (
            f"{self.package} {self.package_version} ({self.entry_point}{what}): {self.reason} "
            f"(mend or remove it, or switch it off: {DISABLED_VARIABLE}={self.package})"
        )


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
        """Of two plugins of one kind with one name, neither can be had."""
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in BASES}
        by_name: dict[tuple[Kind, str], list[Entry]] = {}
        for entry in entries:
            same = by_name.setdefault((entry.kind, entry.cls.name), [])
            same += [] if entry in same else [entry]
        clashes = [_clash(same) for same in by_name.values() if len(same) > 1]
        for (kind, name), same in by_name.items():
            if len(same) == 1:
                self._entries[kind][name] = same[0]
        self.broken = (*broken, *clashes)

    @classmethod
    def discover(cls, disabled: Iterable[str] = ()) -> Registry:
        """Load the entry points of the group `bench`.

        Args:
            disabled: entry-point or package names to leave out, beside those in the
                environment variable BENCH_DISABLED_PLUGINS (comma separated).
        """
        off = {*disabled, *os.environ.get(DISABLED_VARIABLE, "").replace(",", " ").split()}
        points = [
            point
            for point in sorted(entry_points(group=GROUP), key=lambda p: (_package(p)[0], p.name))
            if point.name not in off and _package(point)[0] not in off
        ]
        # A scorer that is loaded now could be asked later, unseen.
        with scorer_loads.only("while plugins are imported", ()):
            return _collect(points)

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
            self._refuse_broken(b for b in self.broken if b.kind == kind and b.name == name)
            error = UnknownNameError(noun(kind), name, self._entries[kind])
            unnamed = [b for b in self.broken if not b.name]
            if unnamed:
                reasons = "; ".join(map(str, unnamed))
                raise BenchError(f"{error} Plugins that could not be loaded: {reasons}")
            raise error
        return entry

    def find(self, name: str) -> list[Entry]:
        """Every plugin of that name, of whatever kind."""
        entries = [e for e in self.entries() if e.cls.name == name]
        if not entries:
            self._refuse_broken(
                b for b in self.broken if name in (b.name, b.entry_point, b.package)
            )
            raise UnknownNameError("plugin", name, {e.cls.name for e in self.entries()})
        return entries

    def _refuse_broken(self, broken: Iterable[Broken]) -> None:
        for one in broken:
            raise BenchError(f"plugin could not be loaded: {one}")

    def called(self, plugin: Plugin | type[Plugin]) -> str:
        """A plugin for people, with whom to ask: "loss 'hinge' of zoo 1.0 (zoo.losses)"."""
        cls = plugin if isinstance(plugin, type) else type(plugin)
        entry = next((e for e in self.entries() if e.cls is cls), None)
        if entry is None:
            return f"plugin {name_of(cls)!r} of {cls.__module__}"
        return f"{noun(entry.kind)} {entry.cls.name!r} of {_origin(entry)}"

    def build(self, kind: Kind, spec: str | Spec | Mapping[str, object]) -> Any:
        """An instance with typed, checked options; options that name plugins are built too."""
        if not isinstance(spec, Spec):
            spec = parse(spec)
        entry = self.get(kind, spec.name)
        fields = {f.name: f for f in options(entry.cls)}
        spec = _name_required(spec, entry, list(fields.values()))
        for key in spec.options:
            if key not in fields:
                raise UnknownNameError(f"option of {noun(kind)} {spec.name!r}", key, fields)
        types = hints(entry.cls)
        values = {
            name: self._value(entry, field, types[name], spec) for name, field in fields.items()
        }
        with asking(self.called(entry.cls), "building it"):
            plugin = entry.cls(**values)
            named = type(plugin) is entry.cls and plugin.name == entry.cls.name
        if not named:
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
                raise BenchError(
                    f"{spec.name}[{field.name}={cut(str(raw))}]: expected a plugin's name"
                )
            return self.build(field.metadata["kind"], raw)
        if not given:
            return raw
        return _typed(f"{spec.name}[{field.name}={cut(value_text(raw))}]", hint, field, raw)

    def options(self, entry: Entry) -> list[OptionInfo]:
        """The options of a plugin, in the order that its class declares them."""
        types = hints(entry.cls)
        rows = []
        for field in options(entry.cls):
            kind = field.metadata.get("kind")
            missing = field.default is dataclasses.MISSING
            rows.append(
                OptionInfo(
                    name=field.name,
                    type=noun(kind) if kind else _type_name(types[field.name]),
                    default="required" if missing else value_text(field.default),
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
        paths = {
            f.name for f in options(type(plugin)) if not f.metadata.get("affects_results", True)
        }
        # An instance may hold more than its fields.
        held = (*(f.name for f in dataclasses.fields(plugin)), *getattr(plugin, "__dict__", ()))
        for name in dict.fromkeys(held):
            for reading in self._scorers_in(getattr(plugin, name), pool):
                # A text that is kept out of keys is a path or the like.
                if name not in paths or reading.how != "named":
                    option = f"{name}.{reading.option}".rstrip(".")
                    yield dataclasses.replace(reading, option=option)
        if isinstance(plugin, protocols.Aggregation):
            for text in label_scorers(plugin, pool):
                try:
                    needed = self.get("scorers", parse(text).name).cls
                except UnknownNameError as error:
                    raise BenchError(
                        f"aggregation {plugin.name!r} needs the rewards of an {error}"
                    ) from error
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
        """What the plugin is, as JSON data: its name, version, options, weights and package.

        Raises:
            BenchError: its fingerprint cannot be had, or is no text.
        """
        entry = self._entry_of(type(plugin))
        options_ = {}
        for field in options(type(plugin)):
            if not field.metadata.get("affects_results", True):
                continue
            value = getattr(plugin, field.name)
            options_[field.name] = self.describe(value) if isinstance(value, Plugin) else value
        described: dict[str, Any] = {
            "name": plugin.name,
            "version": plugin.version,
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options_.items()},
            "fingerprint": self._fingerprint(plugin),
        }
        if entry.package != OWN_PACKAGE:
            described["package"] = f"{entry.package} {entry.package_version}"
        return described

    def _fingerprint(self, plugin: Plugin) -> str:
        who = self.called(plugin)
        with asking(who, "`fingerprint`"):
            text = plugin.fingerprint()
        if not isinstance(text, str):
            raise refused(who, f"a {type(text).__name__} as `fingerprint`", "text")
        if len(text) > _LONGEST_FINGERPRINT:
            raise refused(
                who,
                f"{len(text):,} characters as `fingerprint`",
                f"at most {_LONGEST_FINGERPRINT:,} (a hash of what it gives would do)",
            )
        return text

    def code(self, cls: type[Plugin]) -> str:
        """What changes when the code of a plugin class does: see `bench.registry.source_code`."""
        entry = self._entry_of(cls)
        return code.of(cls, entry.package, entry.package_version)

    def _entry_of(self, cls: type[Plugin]) -> Entry:
        return self.get(next(k for k, base in BASES.items() if issubclass(cls, base)), cls.name)

    def key_data(self, plugin: Plugin) -> dict[str, Any]:
        """Everything that can change the plugin's results, as JSON data, for artefact keys."""
        return {
            "plugin": self.describe(plugin),
            "code": [self.code(cls) for cls in classes_affecting_results(plugin)],
        }


@cache
def default_registry() -> Registry:
    """The registry of everything installed, discovered once a process."""
    return Registry.discover()


def build(kind: Kind, spec: str) -> Any:
    """The plugin that a spec names, as recipes and the command line write it.

        bench.build("scorers", "pickscore[dtype=fp16]").load("cuda").score(images, prompts)

    Raises:
        BenchError: nothing has that name (close ones are suggested), or an option is wrong.
    """
    return default_registry().build(kind, spec)


def classes_affecting_results(plugin: Plugin) -> Iterator[type[Plugin]]:
    """The plugin's class and those of the plugins that its options hold."""
    yield type(plugin)
    for field in options(type(plugin)):
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin) and field.metadata.get("affects_results", True):
            yield from classes_affecting_results(value)


def spec_text(plugin: Plugin) -> str:
    """The shortest spec that builds the plugin: its name and the options that differ."""
    return text_of(_spec_of(plugin))


def _spec_of(plugin: Plugin) -> Spec:
    given: dict[str, RawValue] = {}
    for field in options(type(plugin)):
        if not field.metadata.get("affects_identity", True):
            continue
        value = getattr(plugin, field.name)
        if isinstance(value, Plugin):
            value = _spec_of(value)
            same = text_of(value) == field.default
        else:
            same = value == field.default
        if not same:
            given[field.name] = value
    return Spec(plugin.name, given)


def _collect(points: Sequence[EntryPoint]) -> Registry:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    broken: list[Broken] = []
    origins: dict[str, EntryPoint] = {}
    for point in points:
        plugin_name = f"{_package(point)[0]}:{point.name}"
        try:
            manager.register(point.load(), name=plugin_name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Whatever a plugin raises while it is imported is its own affair.
            if manager.has_plugin(plugin_name):
                manager.unregister(name=plugin_name)
            broken.append(_broken(point, failure(error)))
            continue
        origins[plugin_name] = point
    broken += [_broken(origins[name], reason) for name, reason in _unknown_hooks(manager)]
    entries: list[Entry] = []
    for kind in BASES:
        for impl in getattr(manager.hook, f"bench_{kind}").get_hookimpls():
            good, wrong = _classes(kind, impl.function, origins[impl.plugin_name])
            entries += good
            broken += wrong
    return Registry(entries, broken)


def _classes(
    kind: Kind, hook: Callable[[], object], point: EntryPoint
) -> tuple[list[Entry], list[Broken]]:
    """What a hook gives: classes that are plugins of its kind, and what is wrong with others."""
    package, version = _package(point)
    try:
        result = hook()
        if isinstance(result, str | type) or not isinstance(result, Iterable):
            reason = f"hook bench_{kind} gave {shown(result)}, not a list of classes"
            return [], [_broken(point, reason)]
        classes = list(result)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return [], [_broken(point, f"hook bench_{kind} failed: {failure(error)}")]
    entries, broken = [], []
    for cls in classes:
        reason = problem(cls, BASES[kind], BASES)
        if reason:
            broken.append(_broken(point, f"hook bench_{kind}: {reason}", kind, name_of(cls)))
        else:
            entries.append(Entry(kind=kind, cls=cls, package=package, package_version=version))
    return entries, broken


def _unknown_hooks(manager: pluggy.PluginManager) -> Iterator[tuple[str, str]]:
    """(Plugin, what is wrong) of hooks that do not exist; the plugin's other hooks stay."""
    known = [f"bench_{kind}" for kind in BASES]
    for hook, caller in vars(manager.hook).items():
        close = difflib.get_close_matches(hook, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        if not hook.startswith("_") and not caller.has_spec():
            for impl in caller.get_hookimpls():
                if not impl.optionalhook:
                    yield impl.plugin_name, f"unknown hook {hook!r}; {hint}"


def _clash(same: Sequence[Entry]) -> Broken:
    """Of plugins with one name none is taken: which one it was would hang on chance."""
    first = same[0]
    packages = tuple(dict.fromkeys(entry.package for entry in same))
    origins = " and ".join(f"{entry.cls.__qualname__} of {_origin(entry)}" for entry in same)
    return Broken(
        entry_point=first.cls.__module__,
        package=" or ".join(packages),
        package_version=first.package_version if len(packages) == 1 else "",
        reason=f"several plugins share the name {first.cls.name!r}: {origins}",
        kind=first.kind,
        name=first.cls.name,
    )


def _broken(point: EntryPoint, reason: str, kind: Kind | None = None, name: str = "") -> Broken:
    package, version = _package(point)
    return Broken(
        entry_point=point.name,
        package=package,
        package_version=version,
        reason=reason,
        kind=kind,
        name=name,
    )


def _package(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "")


def _origin(entry: Entry) -> str:
    return f"{entry.package} {entry.package_version} ({entry.cls.__module__})"


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
    number = bool({int, float} & {hint, *typing.get_args(hint)})
    if isinstance(raw, str):
        if raw.lower() == "none" and type(None) in typing.get_args(hint):
            return None
        if typing.get_origin(hint) is tuple:
            raw = [part for part in raw.split("+") if part]
        elif number and ("_" in raw or not raw.isascii()):
            # int() reads 1_000 and digits of every alphabet; no recipe does.
            raise BenchError(f"{shown}: not a plain number (type: {_type_name(hint)})")
    try:
        value: object = adapter(hint, field).validate_python(raw)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"]
        problem = problem[:1].lower() + problem[1:]
        raise BenchError(f"{shown}: {problem} (type: {_type_name(hint)})") from error
    if number and isinstance(raw, bool):
        raise BenchError(f"{shown}: a number is expected (type: {_type_name(hint)})")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BenchError(f"{shown}: does not fit in 64 bits (type: {_type_name(hint)})")
    return value


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
