"""Result files: what is committed of a run, and all that tables are made of.

A board is a folder: `results/` holds one JSON a cell, `prompts/` one JSON a prompt set. Files
are deterministic (sorted keys, floats by repr) and carry a checksum of their record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from bench.errors import BenchError
from bench.protocols import Prompt
from bench.reading import json_value, read_text
from bench.store import write_atomic

SCHEMA = 1
"""Version of the file format; raise it when old files can no longer be read as they are."""

# Read by pydantic, which is imported only where files are loaded.
_STRICT: dict[str, object] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """The prompts of one prompt set, with the groups that break-downs are made by."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    name: str
    texts: tuple[str, ...]
    groups: tuple[Mapping[str, str], ...]
    """One mapping a prompt, e.g. {"category": "Animals"}."""

    def __post_init__(self) -> None:
        """Raise `BenchError` unless every prompt has its groups."""
        _require(bool(self.texts), "texts", "is empty")
        _require(len(self.groups) == len(self.texts), "groups", "needs one entry a prompt")

    @classmethod
    def of(cls, name: str, prompts: Sequence[Prompt]) -> PromptTable:
        """The table of a loaded prompt set."""
        texts = tuple(prompt.text for prompt in prompts)
        return cls(name=name, texts=texts, groups=tuple(dict(p.groups) for p in prompts))

    @property
    def sha256(self) -> str:
        """Hash of texts and groups in order; the name does not count."""
        return _sha256({"texts": self.texts, "groups": self.groups})


@dataclass(frozen=True, kw_only=True)
class PromptSetScores:
    """What every scorer said about one cell's images of one prompt set."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    prompt_set: str
    prompts_sha256: str
    """`PromptTable.sha256` of the prompts."""
    prompts: int
    image_seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    """scorer -> prompts * image seeds scores: all seeds of prompt 0, then of prompt 1, ..."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where sizes disagree or an image is unscored."""
        seeds = self.image_seeds
        _require(self.prompts > 0, "prompts", "must be positive")
        _require(0 < len(seeds) == len(set(seeds)), "image_seeds", "must be distinct, one or more")
        expected = self.prompts * len(seeds)
        for scorer, values in self.scores.items():
            field = f"scores.{scorer} ({self.prompt_set})"
            _require(len(values) == expected, field, f"has {len(values)}, not {expected} scores")
            unscored = sum(not math.isfinite(value) for value in values)
            _require(not unscored, field, f"has {unscored} scores that are not finite")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What training was allowed and shown; all zero for the untouched backbone."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    steps: int
    """Optimiser steps."""
    pairs_seen: int
    """Pairs shown, repeats counted."""
    pairs_kept: int
    """Pairs that the labels kept for training."""
    pairs_dropped: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a cell took; seconds of one device (wall clock times processes)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    label_seconds: float
    """Scoring and labelling the preference pairs."""
    train_seconds: float
    """Training, with encoding of the pairs and inversion."""
    sample_seconds: float
    score_seconds: float
    train_nfe: int
    """Denoiser evaluations of training, one latent each, inversion and references included."""
    sample_nfe: int
    """Denoiser evaluations of all its images, with those that its own inference takes."""
    peak_memory_mb: float
    """Peak memory of training in MB."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One finished cell: method x backbone x preference set x train seed."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    method: str
    """Canonical spec, e.g. "smpo[beta=500]"."""
    label: str = ""
    """A name to show beside the spec, or ''."""
    seed: int
    backbone: str
    backbone_fingerprint: str
    """Hash of the start weights; a cell is compared only with a base of the same ones."""
    pairs: str
    """Name of the preference set."""
    recipe: str
    untrained: bool
    """True: the untouched backbone, the base that others are compared with."""
    in_loop: tuple[str, ...]
    """Scorers whose rewards labelled the training pairs, or that the method reads otherwise."""
    held_out: tuple[str, ...]
    """Scorers declared held out: no method may read them."""
    budget: Budget
    sampling: Mapping[str, Any]
    """Whatever changes images (sampler, steps, guidance, size); must equal the base's."""
    configuration: Mapping[str, Any]
    """Resolved options, for the record."""
    cost: Cost
    provenance: Mapping[str, Any]
    """Versions and device, for the record."""
    evaluations: tuple[PromptSetScores, ...]

    def __post_init__(self) -> None:
        """Raise `BenchError` where the record contradicts itself."""
        both = sorted(set(self.in_loop) & set(self.held_out))
        _require(not both, "in_loop", f"names the held-out {', '.join(both)}")
        _require(not (self.untrained and self.in_loop), "in_loop", "must be empty if untrained")
        names = [evaluation.prompt_set for evaluation in self.evaluations]
        _require(0 < len(names) == len(set(names)), "evaluations", "needs distinct prompt sets")
        images = {len(evaluation.image_seeds) for evaluation in self.evaluations}
        _require(len(images) == 1, "evaluations", "need equally many image seeds")


@dataclass(frozen=True, kw_only=True)
class CellFailure:
    """A cell that did not finish: the board shows a gap and says why."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT
    method: str
    label: str = ""
    seed: int
    backbone: str
    pairs: str
    recipe: str
    untrained: bool
    reason: str


Cell: TypeAlias = CellResult | CellFailure
_Record = TypeVar("_Record", CellResult, CellFailure, PromptTable)


def result_path(board: Path, cell: Cell) -> Path:
    """Where the cell's file lies; a failure and a later result share the place."""
    identity = (cell.method, cell.backbone, cell.pairs, cell.seed)
    readable = "--".join(safe_name(part) for part in (cell.method, cell.backbone, cell.pairs))
    return board / "results" / f"{readable}--seed{cell.seed}-{_sha256(identity)[:8]}.json"


def prompts_path(board: Path, table: PromptTable) -> Path:
    """Where the prompt table's file lies."""
    return board / "prompts" / f"{safe_name(table.name)}-{table.sha256[:12]}.json"


def save_cell(board: Path, cell: Cell) -> Path:
    """Write the cell's result file, replacing an older one whole."""
    kind = "result" if isinstance(cell, CellResult) else "failure"
    return _save(result_path(board, cell), kind, cell)


def save_prompts(board: Path, table: PromptTable) -> Path:
    """Write the prompt table's file."""
    return _save(prompts_path(board, table), "prompts", table)


def load_cell(path: Path) -> Cell:
    """Read and check one result file.

    Raises:
        BenchError: The file is no valid result file; the message names file and field.
    """
    if _document(path)["kind"] == "failure":
        return _load(path, "failure", CellFailure)
    return _load(path, "result", CellResult)


def load_cells(board: Path) -> dict[Path, Cell]:
    """Read all result files of a board, in the order of their cells.

    Raises:
        BenchError: There are none, one is not valid, or two describe the same cell.
    """
    cells = {path: load_cell(path) for path in sorted((board / "results").glob("*.json"))}
    if not cells:
        msg = f"{board / 'results'}: holds no result files (*.json)"
        raise BenchError(msg)
    seen: dict[Path, Path] = {}
    for path, cell in cells.items():
        other = seen.setdefault(result_path(board, cell), path)
        if other != path:
            msg = f"{other} and {path} describe the same cell; remove one"
            raise BenchError(msg)
    return {seen[place]: cells[seen[place]] for place in sorted(seen)}


def load_prompts(board: Path) -> dict[str, PromptTable]:
    """Read all prompt tables of a board, by hash of their prompts."""
    paths = sorted((board / "prompts").glob("*.json"))
    tables = [_load(path, "prompts", PromptTable) for path in paths]
    return {table.sha256: table for table in tables}


def write_text(path: Path, text: str) -> None:
    """Replace a file whole, so that a reader or a crash never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode("utf-8"))


def to_json(value: Any) -> str:
    """Deterministic JSON: sorted keys, a line for each entry, lists of scalars on one line."""
    return _indented(_plain(value), "") + "\n"


def _require(holds: bool, field: str, problem: str) -> None:
    if not holds:
        msg = f"{field} {problem}"
        raise BenchError(msg)


def safe_name(name: str) -> str:
    """The name as part of a file name: other characters become "-", at most 60 are kept."""
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", name).strip("-.")[:60]


def _plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, sequences as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _indented(value: Any, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(k)}: {_indented(value[k], inner)}" for k in sorted(value)]
        return "{\n" + ",\n".join(inner + line for line in lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list, str)) for item in value):
        lines = [_indented(item, inner) for item in value]
        return "[\n" + ",\n".join(inner + line for line in lines) + f"\n{margin}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode("utf-8")).hexdigest()


def _save(path: Path, kind: str, record: Any) -> Path:
    document = {"schema": SCHEMA, "kind": kind, "record": record, "sha256": _sha256(record)}
    write_text(path, to_json(document))
    return path


def _document(path: Path) -> dict[str, Any]:
    """The outer layer of a file, checked."""
    try:
        document = json_value(read_text(path))
    except ValueError as exc:
        msg = f"{path}: cannot be read as JSON ({exc})"
        raise BenchError(msg) from exc
    keys = {"schema", "kind", "record", "sha256"}
    if not isinstance(document, dict) or set(document) != keys:
        msg = f"{path}: is no result file; it must hold exactly {', '.join(sorted(keys))}"
        raise BenchError(msg)
    if document["schema"] != SCHEMA:
        msg = f"{path}: schema is {document['schema']!r}, this version reads {SCHEMA}"
        raise BenchError(msg)
    return document


def _load(path: Path, kind: str, record: type[_Record]) -> _Record:
    from pydantic import TypeAdapter, ValidationError

    document = _document(path)
    if document["kind"] != kind:
        msg = f"{path}: kind is {document['kind']!r}, not {kind!r}"
        raise BenchError(msg)
    try:
        loaded = TypeAdapter(record).validate_json(_canonical(document["record"]))
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        msg = f"{path}: record.{field}: {first['msg']}"
        raise BenchError(msg) from exc
    except BenchError as exc:
        msg = f"{path}: {exc}"
        raise BenchError(msg) from exc
    if document["sha256"] != _sha256(document["record"]):
        msg = f"{path}: sha256 does not match the record; the file was changed after it was written"
        raise BenchError(msg)
    return loaded
