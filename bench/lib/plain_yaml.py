"""YAML as recipes use it: the core schema of YAML 1.2 without aliases, tags or tricks.

YAML 1.1, which PyYAML reads, takes `no` for false, `010` for 8, `1:30` for 90, `1_000` for 1000,
`2024-01-01` for a date, and `1e-5` for a text. Here only true and false are booleans, numbers are
numbers, and everything else is the text that it looks like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from bench.lib.wording import one_line, quoted

MOST_BYTES = 1 << 18
"""Of a file of YAML; recipes have a few thousand."""
_DEEPEST = 32
_DIGITS = 25
_TAG = "tag:yaml.org,2002:"
_PLAIN = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
)


class YamlError(ValueError):
    """A text is not YAML of this kind; the message says what, and in which line."""


def load(text: str) -> Any:
    """The data in a text: mappings with keys of text, lists, texts, numbers, booleans, None.

    Raises:
        YamlError: it is not YAML, or holds more than this.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(f"{where}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(one_line(error)) from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error


def dump(data: Any) -> str:
    """Block YAML that `load` reads back, its keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    yaml_constructors: ClassVar[dict[Any, Any]] = {}
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _error("anchors and aliases (&, *) are not read; write the value out", event)
        if (tag := getattr(event, "tag", None)) is not None:
            raise _error(f"the tag {quoted(tag)} is not read; write a plain value", event)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _error("nested too deeply", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        values: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _error(f"the key {quoted(key)} is not a text", key_node)
            if key in values:
                raise _error(f"the key {quoted(key)} is there twice; remove one", key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def list_(self, node: yaml.SequenceNode) -> list[Any]:
        return [self.construct_object(item, deep=True) for item in node.value]

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = str(node.value)
        if len(text) > _DIGITS:
            raise _error(f"a number of {len(text):,} characters", node)
        if node.tag == _TAG + "int":
            return int(text)
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(number) and "inf" not in text.lower():
            raise _error(f"{quoted(text)} is too large a number", node)
        return number

    def truth(self, node: yaml.ScalarNode) -> bool:
        return str(node.value).lower() == "true"


class _Dumper(yaml.SafeDumper):
    # Texts are quoted where the loader, or one of YAML 1.1, would take them for something else.
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    for _name, _pattern, _first in _PLAIN:
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), list(_first))
for _name, _construct in (
    ("map", _Loader.mapping),
    ("seq", _Loader.list_),
    ("str", _Loader.construct_scalar),
    ("int", _Loader.number),
    ("float", _Loader.number),
    ("bool", _Loader.truth),
    ("null", _Loader.construct_yaml_null),
):
    _Loader.add_constructor(_TAG + _name, _construct)


def _error(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
