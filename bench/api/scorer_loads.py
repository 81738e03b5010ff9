"""Which scorers may be loaded while the code of plugins is at work.

What a method declares (an option that holds or names a scorer, `label_scorers`) is seen by the
plan, starred and kept out of its headline. A scorer that is loaded without having been declared
would be read unseen, and so it is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.lib.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class _Rule:
    who: str
    declared: frozenset[str]


_rule: _Rule | None = None
"""None: anything may be loaded. Plain and not a context variable: plugins may start threads."""


@contextmanager
def only(who: str, declared: Iterable[str]) -> Iterator[None]:
    """Until the block ends, no scorer is loaded but those of these plugin names.

    Args:
        who: who is at work, for the message: "dpo, seed 0".
        declared: names of scorers without options: "pickscore".
    """
    global _rule
    before, _rule = _rule, _Rule(who=who, declared=frozenset(declared))
    try:
        yield
    finally:
        _rule = before


def check(scorer: str, *, held_out: bool) -> None:
    """Raise `BenchError` if the scorer of this plugin name may not be loaded now."""
    if _rule is None or (scorer in _rule.declared and not held_out):
        return
    if held_out:
        raise BenchError(
            f"{_rule.who}: the scorer {scorer!r} was to be loaded, but it is held out: it may "
            f"rate finished images, never take part in making them"
        )
    raise BenchError(
        f"{_rule.who}: the scorer {scorer!r} was to be loaded, but is not declared; declare it "
        f"as an option, uses('scorers', {scorer!r}), or in label_scorers, so that it is starred"
    )
