"""What a class must be to be a plugin: checked once, where it is found."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any

from bench.api.kinds import Plugin
from bench.lib.wording import failure, shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PLAIN = (bool, int, float, str)


def options(cls: type[Plugin]) -> list[dataclasses.Field[Any]]:
    """The fields of a plugin class that are options, in the order that it declares them."""
    return [f for f in dataclasses.fields(cls) if f.init]


def hints(cls: type[Plugin]) -> Mapping[str, object]:
    """The types of a plugin class's fields."""
    hashable: Any = cls
    return _hints(hashable)


@cache
def _hints(cls: type) -> Mapping[str, object]:
    return typing.get_type_hints(cls)


def adapter(hint: object, field: dataclasses.Field[Any]) -> Any:
    """What pydantic makes of an option's type and bounds; numbers are finite."""
    import pydantic

    bounded = Annotated[hint, pydantic.Field(**field.metadata.get("bounds", {}))]  # type: ignore[valid-type]
    return pydantic.TypeAdapter(bounded, config=pydantic.ConfigDict(allow_inf_nan=False))


def name_of(cls: object) -> str:
    """The plugin's name, if what it has for one could be a name; else its class's."""
    name = getattr(cls, "name", None)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else getattr(cls, "__name__", "")


def problem(cls: object, base: type[Plugin], kinds: Collection[str]) -> str:
    """Why a class cannot be a plugin of the kind, with what to change; "" where it can.

    Args:
        cls: what a hook gave.
        base: the class that all plugins of the kind derive from.
        kinds: the names of all kinds.
    """
    if not isinstance(cls, type):
        return f"{shown(cls)} is not a class: return the class itself, not {_kind_of(cls)}"
    if not issubclass(cls, base):
        return f"class {cls.__name__} is not derived from {base.__name__}"
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return (
            f"class {cls.__name__} has no valid `name`: write name: ClassVar[str] = "
            f'"...", of letters, digits, "_", "." and "-"'
        )
    return _declaration(cls, base) or next(
        filter(None, (_option(cls, base, field, kinds) for field in options(cls))), ""
    )


def _declaration(cls: type[Plugin], base: type[Plugin]) -> str:
    forgotten = [n for n, value in vars(cls).items() if isinstance(value, dataclasses.Field)]
    if forgotten:
        return (
            f"option {forgotten[0]!r}: class {cls.__name__} is not a dataclass; write "
            f"@dataclass(frozen=True, kw_only=True) above it"
        )
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"class {cls.__name__} can be changed: write @dataclass(frozen=True, kw_only=True)"
    fields = {field.name for field in dataclasses.fields(cls)}
    for field in cls.__dataclass_fields__.values():
        if field.name not in fields and field.metadata:
            return f"option {field.name!r} is marked ClassVar: take the mark away"
    for name in dir(base):
        given, default = getattr(cls, name, None), getattr(base, name, None)
        if isinstance(default, bool) and not isinstance(given, bool) and name not in fields:
            return f"{name!r} must be True or False, not {shown(given)}"
        if name in ("version", "licence") and not isinstance(given, str):
            return f'{name!r} must be text such as "1", not {shown(given)}'
    try:
        hints(cls)
    except Exception as error:
        return (
            f"an annotation cannot be resolved ({failure(error)}): import what it names outside "
            f"of `if TYPE_CHECKING`"
        )
    return ""


def _option(
    cls: type[Plugin],
    base: type[Plugin],
    field: dataclasses.Field[Any],
    kinds: Collection[str],
) -> str:
    where = f"option {field.name!r}"
    if _hides(cls, base, field):
        return f"{where} has the name of something that the class inherits: choose another name"
    if field.default_factory is not dataclasses.MISSING:
        return f"{where}: give a default that cannot be changed (a tuple), not default_factory"
    if "kind" in field.metadata:
        if field.metadata["kind"] not in kinds:
            return f"{where}: {field.metadata['kind']!r} is no kind of plugin: {', '.join(kinds)}"
        if field.default is not dataclasses.MISSING and not isinstance(field.default, str):
            return f'{where}: its default must be a spec such as "human"'
        return ""
    return _type_problem(where, hints(cls)[field.name], field)


def _hides(cls: type[Plugin], base: type[Plugin], field: dataclasses.Field[Any]) -> bool:
    """Whether an option takes the place of a method or a setting; of a property it may."""
    fields = {f.name for f in dataclasses.fields(base)}
    setting = field.name not in fields and hasattr(base, field.name)
    if setting and not isinstance(getattr(base, field.name), property):
        return True
    return any(callable(vars(c).get(field.name)) for c in cls.__mro__[1:])


def _type_problem(where: str, hint: object, field: dataclasses.Field[Any]) -> str:
    plain = hint in _PLAIN and not field.metadata.get("bounds")
    if plain and (field.default is dataclasses.MISSING or type(field.default) is hint):
        return ""
    import pydantic

    try:
        checked = adapter(hint, field)
    except Exception as error:
        return (
            f"{where}: {shown(hint)} cannot be the type of an option "
            f"({type(error).__name__}): take int, float, bool, str, Literal[...], X | None or "
            f"tuple[X, ...]"
        )
    if field.default is dataclasses.MISSING:
        return ""
    try:
        checked.validate_python(field.default)
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        return f"{where}: its default {shown(field.default)} is not allowed: {reason}"
    except Exception as error:
        return f"{where}: its default or bounds cannot be checked ({failure(error)})"
    return ""


def _kind_of(value: object) -> str:
    return "text" if isinstance(value, str) else f"an instance of {type(value).__name__}"
