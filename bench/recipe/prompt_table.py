"""The prompts that a recipe's prompt sets give: what stages sample for and boards show."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from bench.api.kinds import Prompt
from bench.lib.canonical_json import STRICT, sha256
from bench.lib.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """The prompts of one prompt set, with the groups that break-downs are made by."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    name: str
    texts: tuple[str, ...]
    groups: tuple[Mapping[str, str], ...]
    """One mapping a prompt, e.g. {"category": "Animals"}."""

    def __post_init__(self) -> None:
        """Raise `BenchError` unless every prompt has its groups."""
        if not self.texts:
            raise BenchError("texts is empty")
        if len(self.groups) != len(self.texts):
            raise BenchError("groups needs one entry a prompt")

    @classmethod
    def of(cls, name: str, prompts: Sequence[Prompt]) -> PromptTable:
        """The table of a loaded prompt set."""
        texts = tuple(prompt.text for prompt in prompts)
        return cls(name=name, texts=texts, groups=tuple(dict(p.groups) for p in prompts))

    @cached_property
    def sha256(self) -> str:
        """Hash of texts and groups in order; the name does not count."""
        return sha256({"texts": self.texts, "groups": self.groups})


def stratified(table: PromptTable, limit: int) -> PromptTable:
    """At most `limit` prompts, each group (first group key) in its share, drawn by a fixed seed.

    Largest remainders decide who gets the last places; file order is kept.
    """
    total = len(table.texts)
    if limit >= total:
        return table
    strata: dict[str, list[int]] = {}
    for i, groups in enumerate(table.groups):
        strata.setdefault(next(iter(groups.values()), ""), []).append(i)
    exact = {name: limit * len(rows) / total for name, rows in strata.items()}
    taken = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(strata, key=lambda n: (taken[n] - exact[n], n))
    for name in by_remainder[: limit - sum(taken.values())]:
        taken[name] += 1
    rng = random.Random(f"{table.sha256} {limit}")
    chosen = sorted(i for name, rows in strata.items() for i in rng.sample(rows, taken[name]))
    return replace(
        table,
        texts=tuple(table.texts[i] for i in chosen),
        groups=tuple(table.groups[i] for i in chosen),
    )


def merged(tables: Sequence[PromptTable]) -> PromptTable:
    """The distinct prompts of several sets as one."""
    groups = {text: table.groups[i] for table in tables for i, text in enumerate(table.texts)}
    return PromptTable(
        name="+".join(table.name for table in tables),
        texts=tuple(groups),
        groups=tuple(groups.values()),
    )
