"""Result files: what is committed of a run, and all that tables are made of.

A board is a folder: `results/` holds one JSON a cell, `prompts/` one JSON a prompt set. Files
are deterministic (sorted keys, floats by repr) and carry a checksum of their record.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from bench.leaderboard.old_results import upgraded
from bench.leaderboard.protocol import EvaluationProtocol, Protocol, TrainingProtocol
from bench.lib.canonical_json import STRICT, compact, digest, sha256, to_json
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.reading import json_value, read_text
from bench.recipe.prompt_table import PromptTable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 3
"""Version of the file format: what is written. Raise it when a file of it may hold what the
version before would refuse."""
READ = (1, 2, 3)
"""Versions that are read: 2 added protocols (`bench.leaderboard.old_results`), 3 what is known of
the images and of training."""
MOST_POINTS = 200
"""Points of a training's curve that a result holds at most."""


@dataclass(frozen=True, kw_only=True)
class PromptSetScores:
    """What every scorer said about one cell's images of one prompt set."""

    prompt_set: str
    prompts_sha256: str
    """`PromptTable.sha256` of the prompts."""
    prompts: int
    image_seeds: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    """scorer -> prompts * image seeds scores: all seeds of prompt 0, then of prompt 1, ..."""
    samples: tuple[str, ...] = ()
    """Keys of the sampling stages, one an image seed, whose images the store has
    (`bench.stages.sample.image_path`); () where they are not known."""
    facts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """fact of an image ("saturation", ...: `bench.scoring.image_facts`) -> one value an image,
    ordered like scores."""
    diversity: tuple[float, ...] = ()
    """How much the images of a prompt differ (`bench.scoring.image_facts.diversity`), one value a
    prompt; () with one image seed."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where sizes disagree or an image is unscored."""
        seeds = self.image_seeds
        _require(self.prompts > 0, "prompts", "must be positive")
        _require(0 < len(seeds) == len(set(seeds)), "image_seeds", "must be distinct, one or more")
        expected = self.prompts * len(seeds)
        for scorer, values in self.scores.items():
            _numbers(values, expected, f"scores.{scorer} ({self.prompt_set})", "scores")
        for fact, values in self.facts.items():
            _numbers(values, expected, f"facts.{fact} ({self.prompt_set})", "values")
        if self.samples:
            where, keys = f"samples ({self.prompt_set})", set(self.samples)
            _require(len(self.samples) == len(seeds) == len(keys), where, "needs a key a seed")
            # They become parts of paths.
            _require(all(map(_KEY.fullmatch, keys)), where, "has what is no key of a stage")
        if self.diversity:
            where = f"diversity ({self.prompt_set})"
            _require(len(seeds) > 1, where, "needs two image seeds or more")
            _numbers(self.diversity, self.prompts, where, "values")
            _require(min(self.diversity) >= 0, where, "has a negative distance")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What training was allowed and shown; all zero for the untouched backbone."""

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
class _CellIdentity:
    """What a cell is, known before anything has run: method, start, protocol, train seed."""

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT
    method: str
    """Canonical spec, e.g. "smpo[beta=500]"."""
    label: str = ""
    """A name to show beside the spec, or ''."""
    seed: int
    backbone: str
    """Name of the start model."""
    pairs: str
    """Name of the preference set; '' where nothing was trained."""
    recipe: str
    base: bool
    """True: the untouched backbone, which others are compared with."""
    described: Mapping[str, Any]
    """The method with its resolved options."""
    label_scorers: Mapping[str, Mapping[str, Any]]
    """scorer -> the scorer, described; those whose rewards training read."""
    evaluation: EvaluationProtocol
    training: TrainingProtocol | None
    """None: not trained here (the untouched backbone, published checkpoints)."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where the record contradicts itself."""
        _require(not (self.base and self.training), "training", "must be null for the base")
        _require(bool(self.training) or not self.pairs, "pairs", "must be '' without training")

    @cached_property
    def protocol(self) -> Protocol:
        """What all cells share that are ranked with this one."""
        return Protocol(self.evaluation, self.training)

    @cached_property
    def variant(self) -> str:
        """Digest of what the method's spec does not say: two of one spec may differ in it."""
        return sha256((self.described, self.label_scorers))

    @cached_property
    def identity(self) -> str:
        """Digest of all that made the cell; names of sets and recipes do not count."""
        return sha256((self.method, self.variant, self.seed, self.evaluation, self.training))


@dataclass(frozen=True, kw_only=True)
class CellResult(_CellIdentity):
    """One finished cell: method x protocol x train seed."""

    in_loop: tuple[str, ...]
    """Scorers whose rewards labelled the training pairs, or that the method reads otherwise."""
    held_out: tuple[str, ...]
    """Scorers declared held out: no method may read them."""
    budget: Budget
    cost: Cost
    provenance: Mapping[str, Any]
    """Versions and device, for the record."""
    evaluations: tuple[PromptSetScores, ...]
    weight_distance: float | None = None
    """How far training moved the weights: L2 distance to the base's, over the base's L2 norm;
    None where it is not known."""
    curve: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Column of `StepReport` ("step", "loss", ...) -> its values over training, at `MOST_POINTS`
    steps at most; {} where nothing was trained."""
    towers: Mapping[str, str] = field(default_factory=dict)
    """scorer -> `Scorer.tower`, the network that it says it stands on; those that say none are
    missing."""

    def __post_init__(self) -> None:
        """Raise `BenchError` where the record contradicts itself."""
        super().__post_init__()
        both = sorted(set(self.in_loop) & set(self.held_out))
        _require(not both, "in_loop", f"names the held-out {', '.join(both)}")
        _require(not (self.base and self.in_loop), "in_loop", "must be empty for the base")
        names = [part.prompt_set for part in self.evaluations]
        _require(0 < len(names) == len(set(names)), "evaluations", "needs distinct prompt sets")
        used = {part.prompt_set: part.prompts_sha256 for part in self.evaluations}
        differ = used != dict(self.evaluation.prompts)
        _require(not differ, "evaluations", "are of other prompts than evaluation.prompts names")
        for part in self.evaluations:
            where = f"evaluations ({part.prompt_set})"
            same = tuple(part.image_seeds) == tuple(self.evaluation.image_seeds)
            _require(same, where, "has other image seeds than evaluation.image_seeds")
            others = sorted(part.scores.keys() - self.evaluation.scorers.keys())
            problem = f"has scores of {', '.join(others)}, not in evaluation.scorers"
            _require(not others, where, problem)
        unknown = sorted(self.towers.keys() - self.evaluation.scorers.keys())
        problem = f"names {', '.join(unknown)}, not in evaluation.scorers"
        _require(not unknown, "towers", problem)
        self._check_training()

    def _check_training(self) -> None:
        distance = self.weight_distance
        if distance is not None:
            _require(not self.base, "weight_distance", "must be null for the base")
            fine = math.isfinite(distance) and distance >= 0
            _require(fine, "weight_distance", "must be finite and not negative")
        if self.curve:
            _require(self.training is not None, "curve", "must be empty without training")
            steps = self.curve.get("step", ())
            _require(0 < len(steps) <= MOST_POINTS, "curve.step", f"needs 1 to {MOST_POINTS} steps")
            for column, values in self.curve.items():
                _numbers(values, len(steps), f"curve.{column}", "values")
            ascending = all(before < after for before, after in pairwise(steps))
            _require(ascending, "curve.step", "must ascend")


@dataclass(frozen=True, kw_only=True)
class CellFailure(_CellIdentity):
    """A cell that did not finish: the board shows a gap and says why."""

    reason: str


Cell: TypeAlias = CellResult | CellFailure
Record: TypeAlias = Cell | PromptTable
"""What one file holds."""
_Loaded = TypeVar("_Loaded")
_KEY = re.compile(r"[0-9a-f]{1,64}")
"""A stage's key: `bench.lib.files.content_key`."""
_CELLS: dict[str, type[Cell]] = {"result": CellResult, "failure": CellFailure}
_PROMPTS: dict[str, type[PromptTable]] = {"prompts": PromptTable}
_KINDS: dict[str, type[Record]] = {**_CELLS, **_PROMPTS}


def record_path(board: Path, record: Record) -> Path:
    """Where the record's file lies; a failure and a later result share the place."""
    if isinstance(record, PromptTable):
        return board / "prompts" / f"{safe_name(record.name)}-{record.sha256[:12]}.json"
    name = f"{safe_name(record.method)}--seed{record.seed}-{record.identity[:12]}.json"
    return board / "results" / name


def record_text(record: Record) -> str:
    """The record's file."""
    kind = next(kind for kind, of in _KINDS.items() if isinstance(record, of))
    return to_json({"schema": SCHEMA, "kind": kind, "record": record, "sha256": sha256(record)})


def save_record(board: Path, record: Record) -> Path:
    """Write the record's file, replacing an older one whole."""
    return write_text(record_path(board, record), record_text(record))


def load_cell(path: Path) -> Cell:
    """Read and check one result file.

    Raises:
        BenchError: The file is no valid result file; the message names file and field.
    """
    return _load(path, _CELLS)


def load_cells(board: Path) -> dict[Path, Cell]:
    """Read all result files of a board, in the order of their cells.

    Raises:
        BenchError: There are none, one is not valid, or two describe the same cell.
    """
    cells = {path: load_cell(path) for path in _files(board / "results")}
    if not cells:
        raise BenchError(f"{board / 'results'}: holds no result files (*.json)")
    seen: dict[Path, Path] = {}
    for path, cell in cells.items():
        other = seen.setdefault(record_path(board, cell), path)
        if other != path:
            raise BenchError(f"{other} and {path} describe the same cell; remove one")
    return {seen[place]: cells[seen[place]] for place in sorted(seen)}


def load_prompts(board: Path) -> dict[str, PromptTable]:
    """Read all prompt tables of a board, by hash of their prompts."""
    tables = [_load(path, _PROMPTS) for path in _files(board / "prompts")]
    return {table.sha256: table for table in tables}


def write_text(path: Path, text: str) -> Path:
    """Replace a file whole, so that a reader or a crash never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode("utf-8"))
    return path


def safe_name(name: str) -> str:
    """The name as part of a file name: other characters become "-", at most 60 are kept."""
    return re.sub(r"[^A-Za-z0-9._=+]+", "-", name).strip("-.")[:60]


def _files(folder: Path) -> list[Path]:
    """The JSON files of a board's folder.

    Raises:
        BenchError: the folder or a file is a link: what it shows can change, or go, without the
            board.
    """
    if folder.is_symlink():
        raise BenchError(
            f"{folder} is a link to {os.readlink(folder)}; a board holds its own files, so put a "
            f"copy of the folder there"
        )
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise BenchError(f"{path} is no regular file; a board holds its own files")
    return paths


def _numbers(values: Sequence[float], expected: int, where: str, what: str) -> None:
    """Check that there are so many values, all finite."""
    _require(len(values) == expected, where, f"has {len(values)}, not {expected} {what}")
    # The sum of finite numbers may be infinite; the exact count is asked where something is wrong.
    if not math.isfinite(sum(values)):
        wrong = sum(not math.isfinite(value) for value in values)
        _require(not wrong, where, f"has {wrong} {what} that are not finite")


def _require(holds: bool, where: str, problem: str) -> None:
    if not holds:
        raise BenchError(f"{where} {problem}")


def _load(path: Path, kinds: Mapping[str, type[_Loaded]]) -> _Loaded:
    """The record of a file, which must be of one of the kinds."""
    from pydantic import ValidationError

    document = _document(path)
    if document["kind"] not in list(kinds):
        raise BenchError(f"{path}: kind is {document['kind']!r}, not {' or '.join(kinds)}")
    try:
        text = compact(document["record"])
        today = text
        if document["schema"] == 1:
            today = compact(upgraded(document["kind"], document["record"]))
        record: _Loaded = _reader(document["kind"]).validate_json(today)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BenchError(f"{path}: record.{place}: {first['msg']}") from error
    except RecursionError as error:
        raise BenchError(f"{path}: record is nested too deeply") from error
    except BenchError as error:
        raise BenchError(f"{path}: {error}") from error
    if document["sha256"] != digest(text):
        raise BenchError(
            f"{path}: sha256 does not match the record; the file was changed after it was written"
        )
    return record


@cache
def _reader(kind: str) -> TypeAdapter[Any]:
    """What reads records of a kind; made once, which takes as long as reading several."""
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[kind])


def _document(path: Path) -> dict[str, Any]:
    """The outer layer of a file, checked."""
    try:
        document = json_value(read_text(path), finite=True)
    except ValueError as error:
        raise BenchError(f"{path}: cannot be read as JSON ({error})") from error
    keys = {"schema", "kind", "record", "sha256"}
    if not isinstance(document, dict) or set(document) != keys:
        raise BenchError(
            f"{path}: is no result file; it must hold exactly {', '.join(sorted(keys))}"
        )
    schema = document["schema"]
    if type(schema) is int and schema > SCHEMA:
        raise BenchError(
            f"{path}: was made by a newer version (its schema is {schema}, this version reads up "
            f"to {SCHEMA}); update with: pip install -U diffusion-preference-bench"
        )
    if type(schema) is not int or schema not in READ:
        raise BenchError(
            f"{path}: schema is {schema!r}, this version reads {', '.join(map(str, READ))}"
        )
    return document
