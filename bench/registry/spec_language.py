"""The little language of plugin specs, read and written: `name[option=value,other=name[...]]`.

`name:value` is short for a plugin with one required option: `pretrained:owner/model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bench.lib.errors import BenchError
from bench.lib.wording import control_character, quoted

REQUIRED = ":"
"""In a spec's options: the plugin's required option, whatever its name."""

_DEEPEST = 10
"""Brackets inside brackets; methods need three."""
_LONGEST = 10_000
"""Characters of a spec; paths have at most 4,096."""

RawValue: TypeAlias = "str | int | float | bool | list[str] | Spec | None"


@dataclass(frozen=True)
class Spec:
    """A plugin's name and the options given to it, not yet typed."""

    name: str
    options: Mapping[str, RawValue]


def split_list(text: str) -> list[str]:
    """Split at commas that stand outside brackets: "a,b[x=1,y=2]" gives two parts.

    Raises:
        BenchError: brackets do not pair up or are nested too deeply.
    """
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "[":
            depth += 1
            if depth > _DEEPEST:
                raise BenchError(f"{quoted(text)}: more than {_DEEPEST} brackets in each other")
        elif char == "]":
            depth -= 1
            if depth < 0:
                raise BenchError(f"{quoted(text)}: a ']' without its '[' at character {i + 1}")
        elif char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth:
        raise BenchError(f"{quoted(text)}: a '[' without its ']'")
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def parse(value: str | Mapping[str, object]) -> Spec:
    """Read a spec from text, or from the recipe's mapping form `{name: {option: value}}`."""
    if isinstance(value, Mapping):
        return _parse_mapping(value)
    check_text(value)
    text = value.strip()
    if "[" not in text:
        name, colon, given = text.partition(":")
        if not name or "]" in text or "=" in name or (colon and not given):
            raise BenchError(f"{quoted(value)} is not of the form name[option=value,...]")
        return Spec(name, {REQUIRED: given} if colon else {})
    name, _, rest = text.partition("[")
    if not name or not rest.endswith("]"):
        raise BenchError(f"{quoted(value)} is not of the form name[option=value,...]")
    options: dict[str, RawValue] = {}
    for item in split_list(rest[:-1]):
        key, equals, raw = (part.strip() for part in item.partition("="))
        if not equals or not key:
            raise BenchError(f"{quoted(value)}: {quoted(item)} is not of the form option=value")
        if key in options:
            raise BenchError(f"{quoted(value)}: option {quoted(key)} is given twice")
        options[key] = parse(raw) if raw.endswith("]") and "[" in raw else raw
    return Spec(name.strip(), options)


def text_of(spec: Spec) -> str:
    """The text that `parse` reads the spec from; the value of `name:value` stays short."""
    if REQUIRED in spec.options:
        return f"{spec.name}:{value_text(spec.options[REQUIRED])}"
    options = ",".join(f"{name}={value_text(value)}" for name, value in spec.options.items())
    return f"{spec.name}[{options}]" if options else spec.name


def value_text(value: object) -> str:
    """An option's value as specs have it."""
    if isinstance(value, Spec):
        return text_of(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def canonical(given: object) -> str:
    """The text of a spec as a recipe gives it: a text already, or the mapping form."""
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return text_of(parse(given))
    raise BenchError(f"{quoted(given)} is not a plugin's name")


def canonical_list(given: object) -> list[str]:
    """The texts of the specs in a list or in a comma-separated text, each once."""
    items = split_list(given) if isinstance(given, str) else given
    if not isinstance(items, list | tuple):
        raise BenchError(f"expected a list, not {quoted(given)}")
    return list(dict.fromkeys(map(canonical, items)))


def check_text(text: str) -> None:
    """Refuse what is no name, option or path: control characters, and pages of text.

    Raises:
        BenchError: names the character.
    """
    if len(text) > _LONGEST:
        raise BenchError(f"{quoted(text)}: {len(text):,} characters; a name has fewer")
    if code := control_character(text):
        raise BenchError(f"{quoted(text)}: holds {code}, which no name, option or path may hold")


def _parse_mapping(value: Mapping[str, object], depth: int = 1) -> Spec:
    if depth > _DEEPEST:
        raise BenchError(f"{quoted(dict(value))}: more than {_DEEPEST} plugins in each other")
    if len(value) != 1:
        raise BenchError(f"{quoted(dict(value))}: a plugin is one key with its options below")
    ((name, options),) = value.items()
    if not isinstance(options, Mapping):
        raise BenchError(f"{quoted(name)}: its options must be a mapping, not {quoted(options)}")
    return Spec(
        str(name),
        {
            str(k): _parse_mapping(v, depth + 1) if isinstance(v, Mapping) else v
            for k, v in options.items()
        },
    )
