"""What an audit is: who is compared, what is shown, and the key that only its maker has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.lib.canonical_json import STRICT, compact, sha256, to_json
from bench.lib.errors import BenchError
from bench.lib.reading import json_value, read_text
from bench.lib.wording import quoted

SCHEMA = 1
"""Version of the key's format."""
KIND = "audit-key"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One of the methods that are compared."""

    method: str
    """Its whole spec."""
    variant: str
    """Digest of what the spec does not say."""
    shown: str
    """What tables call it."""
    base: bool
    cells: Mapping[str, str]
    """train seed -> identity of the cell; the base has its one cell under every seed's name."""


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Prompts that were drawn at one rate."""

    name: str
    prompts: int
    """Distinct prompts in it."""
    sampled: int
    """How many of them are shown."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods that people compare."""

    first: int
    """Number of the method whose rate is estimated."""
    second: int
    strata: tuple[Stratum, ...]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question: two pictures of one prompt."""

    item: str
    """Its name on the page and among votes."""
    pair: int
    """Number of the pair."""
    prompt_set: str
    row: int
    """Of the prompt in its set, from 0."""
    image_seed: int
    train_seed: int
    first_left: bool
    """Whether the pair's first method is shown on the left."""
    stratum: int
    """Number of the pair's stratum."""
    chance: float
    """Of being shown, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class AuditKey:
    """All that the page hides."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    audit: str
    """What its items' names begin with: the start of `items_sha256`."""
    items_sha256: str
    """Digest of what the page asks: question, prompts, and the sha256 of every picture."""
    protocol: str
    """Digest of what the compared cells share."""
    prompts: Mapping[str, str]
    """prompt set -> `PromptTable.sha256` of its prompts."""
    seed: int
    """Of the draw of prompts, sides and order."""
    question: str
    image_seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    pairs: tuple[Pair, ...]
    items: tuple[Item, ...]
    """In the order of the page."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where the record contradicts itself."""
        digits = re.fullmatch("[0-9a-f]+", self.audit)
        if not digits or not self.items_sha256.startswith(self.audit):
            # It becomes the name of a file.
            raise BenchError(f"audit is {quoted(self.audit)}, not the start of items_sha256")
        twice = [name for name, count in Counter(i.item for i in self.items).items() if count > 1]
        if twice or not self.items:
            raise BenchError(f"items {f'has {twice[0]!r} twice' if twice else 'is empty'}")
        for pair in self.pairs:
            if not {pair.first, pair.second} <= set(range(len(self.methods))):
                raise BenchError("pairs names a method that is not there")
        for item in self.items:
            known = 0 <= item.pair < len(self.pairs) and (
                0 <= item.stratum < len(self.pairs[item.pair].strata)
            )
            if not known or not 0 < item.chance <= 1:
                raise BenchError(f"items ({item.item}) names a pair or stratum that is not there")


def key_text(key: AuditKey) -> str:
    """The key's file."""
    return to_json({"schema": SCHEMA, "kind": KIND, "record": key, "sha256": sha256(key)})


def load_key(path: Path) -> AuditKey:
    """Read and check the key of an audit.

    Raises:
        BenchError: it is none, or was changed after it was written; names the field.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        document = json_value(read_text(path), finite=True)
    except ValueError as error:
        raise BenchError(f"{path}: cannot be read as JSON ({error})") from error
    keys = {"schema", "kind", "record", "sha256"}
    if not isinstance(document, dict) or set(document) != keys or document["kind"] != KIND:
        raise BenchError(f"{path}: is no key of an audit; `bench audit export` writes it")
    if document["schema"] != SCHEMA:
        raise BenchError(f"{path}: schema is {document['schema']!r}, this version reads {SCHEMA}")
    try:
        key = TypeAdapter(AuditKey).validate_json(compact(document["record"]))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BenchError(f"{path}: record.{field}: {first['msg']}") from error
    except RecursionError as error:
        raise BenchError(f"{path}: record is nested too deeply") from error
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from error
    if document["sha256"] != sha256(document["record"]):
        raise BenchError(
            f"{path}: sha256 does not match the record; the key was changed after it was written"
        )
    return key
