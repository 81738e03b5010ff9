"""JSON that is the same for the same data: canonical for digests, indented for files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

STRICT: dict[str, object] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""`__pydantic_config__` of a record that is read back; what it holds is read as strictly."""


_SCALARS = frozenset({str, int, float, bool, type(None)})


_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, sequences as lists."""
    # Most of a result are its scores, by the hundred thousand.
    if isinstance(value, (float, str)):
        return value
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        # Of boards nearly everything is long lists of numbers.
        scalars = _SCALARS.issuperset(map(type, value))
        return list(value) if scalars else [plain(item) for item in value]
    return value


def compact(value: Any) -> str:
    """One line of ASCII with sorted keys: what digests are taken of."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(value: Any) -> str:
    """The digest of data: sha256 of its compact form, in hex."""
    return digest(compact(value))


def digest(text: str) -> str:
    """sha256 of a text that `compact` gave, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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
    return _encoded(value)
