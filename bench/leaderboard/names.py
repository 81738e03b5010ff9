"""Short names for tables: of every long path in a spec its last parts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

_PATH = re.compile(r"[^\[\],=:|+]*/[^\[\],=:|+]*")
_Key = TypeVar("_Key", bound=Hashable)
_KEPT = 2
"""Parts of a path that are kept, as of a Hub id."""
LINE = 22
"""Characters of a name in one line of a terminal's table."""


def shortened(specs: Iterable[str]) -> dict[str, str]:
    """Each spec with its long paths cut to their last parts: "pretrained:…/runs/dpo-seed0".

    Where two would be called the same, more parts are kept.
    """
    distinct = list(dict.fromkeys(specs))
    longest = max((spec.count("/") for spec in distinct), default=0) + 1
    names: dict[str, str] = {}
    for kept in range(_KEPT, longest + 1):
        shorter = {spec: _cut(spec, kept) for spec in distinct if spec not in names}
        often = Counter((*shorter.values(), *names.values()))
        names |= {spec: name for spec, name in shorter.items() if often[name] == 1}
    return {spec: names.get(spec, spec) for spec in distinct}


def called(methods: Iterable[tuple[_Key, str, str]]) -> dict[_Key, str]:
    """What each method is called where one name must do: its label, if that is its alone.

    Args:
        methods: what tells a method from the others, its label or '', its short name.
    """
    known = {key: (label, short) for key, label, short in methods}
    often = Counter(label for label, _ in known.values())
    others = {short: key for key, (_, short) in known.items()}
    return {
        key: label if label and often[label] == 1 and others.get(label, key) == key else short
        for key, (label, short) in known.items()
    }


def _cut(spec: str, kept: int) -> str:
    def last(match: re.Match[str]) -> str:
        path = match.group()
        short = "/".join(("…", *path.split("/")[-kept:]))
        return short if len(short) < len(path) else path

    return _PATH.sub(last, spec)


def wrapped(name: str, width: int = LINE) -> list[str]:
    """A name in lines that break behind its own marks and never within a word if it can be."""
    lines = [""]
    for piece in re.findall(r"[^\s,/\[=:]*[\s,/\[=:]+|[^\s,/\[=:]+", name):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
