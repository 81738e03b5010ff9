"""JSON that is the same for the same data: canonical for digests, indented for files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, sequences as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def compact(value: Any) -> str:
    """One line of ASCII with sorted keys: what digests are taken of."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(value: Any) -> str:
    """The digest of data: sha256 of its compact form, in hex."""
    return hashlib.sha256(compact(value).encode("utf-8")).hexdigest()


def to_json(value: Any) -> str:
    """Deterministic JSON: sorted keys, a line for each entry, lists of scalars on one line."""
    return _indented(plain(value), "") + "\n"


def _indented(value: Any, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(k)}: {_indented(value[k], inner)}" for k in sorted(value)]
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list, str)) for item in value):
        lines = [_indented(item, inner) for item in value]
        return "[\n" + ",\n".join(inner + line for line in lines) + f"\n{margin}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def parse(text: str) -> Any:
    """Read JSON that says one thing only.

    Raises:
        ValueError: not JSON, a key twice in one object, NaN or an infinite number, or nested too
            deeply.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_constant=_not_a_number,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _not_a_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value
