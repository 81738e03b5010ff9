"""A committed board: the protocol that it was frozen with, its ledger, and what follows from both.

    board.yaml            what the board is, in people's words, and the protocol that every result
                          is held to, as `bench leaderboard freeze` wrote it
    ledger.json           the sha256 of each result and prompt file as it was added, and which of
                          them were added though they are not as frozen
    results/, prompts/    as in `bench.leaderboard.results`
    README.md, ...        the tables, which follow from all of these

A folder without board.yaml, as a run leaves it, is a board too; nothing was promised of it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from bench.leaderboard import comparing, results, tables
from bench.leaderboard.markdown import About
from bench.leaderboard.protocol import (
    EvaluationProtocol,
    Protocol,
    TrainingProtocol,
    differences,
    flat,
    shown,
)
from bench.leaderboard.results import Cell, CellFailure, CellResult
from bench.leaderboard.standings import Tables
from bench.lib import escaping, plain_yaml
from bench.lib.canonical_json import plain, sha256, to_json
from bench.lib.errors import BenchError
from bench.lib.files import file_sha256
from bench.lib.reading import json_value, read_text
from bench.lib.strict import Count, Flag, StrictModel, Whole, read_yaml, validated
from bench.lib.wording import listed
from bench.recipe.prompt_table import PromptTable
from bench.registry.spec_language import parse

BOARD, LEDGER = "board.yaml", "ledger.json"
_FOLDERS = ("results", "prompts")
_SEEDS = 2**63
_HEADER = """\
# What this board holds its results to. Title, description and admits are for people to edit.
# `protocol` was written by `bench leaderboard freeze`; `frozen.digest` tells whether it still is
# as it was then.
"""

Name: TypeAlias = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
Digest: TypeAlias = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]
Described: TypeAlias = dict[str, Any]
"""A plugin as `Registry.describe` gives it, or what else decides results."""


class _File(StrictModel):
    """A file of a board; `schema` rises when old files can no longer be read as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    schema_: Literal[1] = Field(alias="schema", default=1)


class Admission(StrictModel):
    """What may be added."""

    methods: Literal["any"] | tuple[Name, ...] = Field(
        default="any", description="names of method plugins, or any"
    )
    untrained: Flag = Field(
        default=True, description="also what was not trained here, such as published checkpoints"
    )
    min_train_seeds: Count = Field(default=1, description="finished trainings of each method")


class Evaluation(StrictModel):
    """As `EvaluationProtocol`."""

    backbone: Described
    sampling: Described
    image_seeds: tuple[Whole, ...] = Field(min_length=1)
    prompts: dict[Name, Digest]
    scorers: dict[Name, Described] = Field(min_length=1)


class Training(StrictModel):
    """As `TrainingProtocol`."""

    pairs: Described
    filters: Described
    framing: Described
    options: Described


class FrozenProtocol(StrictModel):
    """What every result has in common."""

    evaluation: Evaluation
    training: Training | None = Field(
        default=None, description="null: any, each in a section of its own"
    )
    held_out: tuple[Name, ...] = Field(
        default=(), description="scorers that no training may have read"
    )

    @property
    def evaluated(self) -> EvaluationProtocol:
        """Of every cell."""
        return EvaluationProtocol(**dict(self.evaluation))

    @property
    def trained(self) -> TrainingProtocol | None:
        """Of every trained cell; None: each may have its own."""
        return TrainingProtocol(**dict(self.training)) if self.training else None

    @property
    def section(self) -> Protocol:
        """What the section of the board shares whose results are as frozen."""
        return Protocol(self.evaluated, self.trained)

    @property
    def digest(self) -> str:
        """Of all that is frozen."""
        return sha256((self.section.digest, sorted(self.held_out)))


class Freeze(StrictModel):
    """Since when nothing of the protocol may change."""

    digest: Digest
    what: Literal["evaluation and training", "evaluation"]
    results_then: Whole = Field(
        description="result files that it was taken from; 0: of a recipe, before any score"
    )


class BoardFile(_File):
    """`board.yaml`."""

    title: Name
    description: str = ""
    admits: Admission = Admission()
    protocol: FrozenProtocol
    frozen: Freeze

    @model_validator(mode="after")
    def _is_as_frozen(self) -> BoardFile:
        what = "evaluation and training" if self.protocol.training else "evaluation"
        if self.frozen.what != what:
            raise ValueError(f"frozen.what: is {self.frozen.what!r}, but protocol says {what!r}")
        unknown = sorted({*self.protocol.held_out} - self.protocol.evaluation.scorers.keys())
        if unknown:
            raise ValueError(f"protocol.held_out: {listed(unknown)} is none of its scorers")
        if self.protocol.digest != self.frozen.digest:
            raise ValueError(
                f"protocol: was changed after it was frozen (its digest is "
                f"{self.protocol.digest[:8]}, frozen.digest {self.frozen.digest[:8]}); put it "
                f"back, or freeze another board"
            )
        return self

    def to_yaml(self) -> str:
        """The file."""
        return _HEADER + plain_yaml.dump(self.model_dump(mode="json", by_alias=True))

    def deviations(self, cell: Cell) -> tuple[str, ...]:
        """In what a cell is not as frozen: "evaluation.sampling.steps (20 against 30)", ..."""
        ours: dict[str, Any] = {"evaluation": cell.evaluation}
        theirs: dict[str, Any] = {"evaluation": self.protocol.evaluated}
        if cell.training and self.protocol.trained:
            ours["training"], theirs["training"] = cell.training, self.protocol.trained
        if isinstance(cell, CellResult):
            ours["held_out"] = sorted(cell.held_out)
            theirs["held_out"] = sorted(self.protocol.held_out)
        # Most are as frozen; to find the fields takes longer than to see that.
        return () if ours == theirs else tuple(differences(ours, theirs))


class Ledger(_File):
    """`ledger.json`."""

    files: dict[str, Digest] = Field(default_factory=dict)
    """Path below the board -> sha256 of the file as it was added."""
    deviations: tuple[str, ...] = ()
    """Result files that are not as frozen and were added as that."""

    def to_json(self) -> str:
        """The file, a line a file."""
        return to_json(self.model_dump(mode="json", by_alias=True))

    def problems(self, board: Path) -> Iterator[tuple[str, str]]:
        """What lies on the board otherwise than it was added: file and what is wrong with it."""
        here = held_files(board)
        for name in sorted(self.files.keys() | here.keys()):
            if name not in here:
                yield name, "is in the ledger and not here; put it back"
            elif name not in self.files:
                yield name, "was not added by `bench leaderboard add`, it is not in the ledger"
            elif here[name] != self.files[name]:
                yield name, "was changed after it was added; put it back as the ledger has it"


@dataclass(frozen=True, kw_only=True)
class Board:
    """All that lies on a board but for its tables, checked."""

    folder: Path
    file: BoardFile | None
    """None: of a run's folder."""
    ledger: Ledger
    cells: Mapping[Path, Cell]
    prompts: Mapping[str, PromptTable]

    def deviations(self) -> dict[Path, tuple[str, ...]]:
        """The result files that are not as frozen, and in what."""
        if self.file is None:
            return {}
        found = {path: self.file.deviations(cell) for path, cell in self.cells.items()}
        return {path: what for path, what in found.items() if what}


Renderer: TypeAlias = Callable[[Board, Tables], Mapping[str, str]]
"""Makes files of a board: path below it -> text, the same for the same board."""


def held_files(board: Path, folders: Sequence[str] = _FOLDERS) -> dict[str, str]:
    """Path below the board -> sha256 of each result and prompt file that lies there."""
    return {
        f"{folder}/{path.name}": file_sha256(path)
        for folder in folders
        for path in sorted((board / folder).glob("*.json"))
        if path.is_file()
    }


def load_file(board: Path) -> BoardFile:
    """Read `board.yaml`.

    Raises:
        BenchError: it is not there or not valid, or its protocol is not as it was frozen.
    """
    return read_yaml(BoardFile, board / BOARD)


def load_ledger(board: Path) -> Ledger:
    """Read `ledger.json`; an empty one where there is none.

    Raises:
        BenchError: it is not valid.
    """
    path = board / LEDGER
    if not path.exists():
        return Ledger()
    try:
        data = json_value(read_text(path), finite=True)
    except ValueError as error:
        raise BenchError(f"{path}: cannot be read as JSON ({error})") from error
    return validated(Ledger, data, str(path))


def load(folder: Path, *, promised: Container[str] = ()) -> Board:
    """Read a board, each result held to the ledger, the protocol and itself.

    Args:
        folder: the board.
        promised: paths below it that the ledger may name though they are still to come.

    Raises:
        BenchError: names the file and the field, and what is right beside what is there.
    """
    if not (folder / BOARD).exists():
        cells, prompts = results.load_cells(folder), results.load_prompts(folder)
        return Board(folder=folder, file=None, ledger=Ledger(), cells=cells, prompts=prompts)
    file, ledger = load_file(folder), load_ledger(folder)
    # Before anything is read as a result: what was forged may be well formed.
    for name, problem in ledger.problems(folder):
        if name not in promised or (folder / name).exists():
            raise BenchError(f"{folder / name}: {problem}")
    # One that was frozen before there was any score holds none.
    cells = results.load_cells(folder) if held_files(folder, ("results",)) else {}
    prompts = results.load_prompts(folder)
    hold_to_protocol(file, cells, {folder / name for name in ledger.deviations})
    for path, cell in cells.items():
        refuse_unsound(path, cell, file)
    if not promised:
        refuse_unadmitted(file, cells, folder)
    return Board(folder=folder, file=file, ledger=ledger, cells=cells, prompts=prompts)


def hold_to_protocol(
    file: BoardFile, cells: Mapping[Path, Cell], consented: set[Path] | None
) -> None:
    """Raise `BenchError` where a cell deviates and nobody has consented; None: to all."""
    for path, cell in cells.items():
        what = file.deviations(cell)
        if what and consented is not None and path not in consented:
            raise BenchError(
                f"{path}: not as {file.title!r} was frozen: {listed(what)}; leave it out, or add "
                f"it to a section of its own with --as-deviation"
            )


def refuse_unsound(path: Path, cell: Cell, file: BoardFile) -> None:
    """Raise `BenchError` where a well-formed record cannot be what a run has left."""
    if problem := next(_unsound(path, cell, file), None):
        raise BenchError(f"{path}: record.{problem}")


def method_name(path: Path, cell: Cell) -> str:
    """The name of a cell's method, without its options.

    Raises:
        BenchError: what the file calls its method is none.
    """
    try:
        return parse(cell.method).name
    except BenchError as error:
        raise BenchError(f"{path}: record.method: {error}") from error


def _unsound(path: Path, cell: Cell, file: BoardFile) -> Iterator[str]:
    """What contradicts the rest of the record, beginning with the field."""
    if not 0 <= cell.seed < _SEEDS:
        yield f"seed is {shown(cell.seed)}; seeds are 0 or more, below 2**63"
    name = method_name(path, cell)
    if cell.described.get("name", name) != name:
        yield f"method is {cell.method}, but described is of {shown(cell.described['name'])}"
    if isinstance(cell, CellFailure):
        return
    # A scorer that labelled and is not said to have would count among the held-out ones.
    read = {described.get("name") for described in cell.label_scorers.values()}
    hidden = sorted(
        scorer
        for scorer, described in cell.evaluation.scorers.items()
        if (scorer in cell.label_scorers or described.get("name") in read)
        and scorer not in cell.in_loop
    )
    if hidden:
        yield f"in_loop lacks {listed(hidden)}, whose rewards labelled its pairs (label_scorers)"
    for part in cell.evaluations:
        missing = sorted(file.protocol.evaluation.scorers.keys() - part.scores.keys())
        if missing and not file.deviations(cell):
            yield f"evaluations ({part.prompt_set}).scores lacks {listed(missing)}"
    for group in ("budget", "cost"):
        for field, value in plain(getattr(cell, group)).items():
            if value < 0:
                yield f"{group}.{field} is {value}; none can be negative"
    options = cell.training.options if cell.training else {}
    steps, batch = options.get("steps"), options.get("batch_size")
    if isinstance(steps, int) and cell.budget.steps > steps:
        yield f"budget.steps is {cell.budget.steps}, training.options.steps allows {steps}"
    if isinstance(steps, int) and isinstance(batch, int) and cell.budget.pairs_seen > steps * batch:
        yield (
            f"budget.pairs_seen is {cell.budget.pairs_seen}, training.options allow "
            f"{steps * batch} (steps x batch_size)"
        )


def refuse_unadmitted(file: BoardFile, cells: Mapping[Path, Cell], board: Path) -> None:
    """Raise `BenchError` where a board holds what it does not admit."""
    admits = file.admits
    where = board / BOARD
    bases: dict[str, Path] = {}
    seeds: dict[tuple[str, str, str], list[tuple[Path, Cell]]] = {}
    for path, cell in cells.items():
        if cell.base:
            first = bases.setdefault(cell.evaluation.digest, path)
            if first != path:
                raise BenchError(
                    f"{path}: record.base: a second untouched backbone of the same evaluation; "
                    f"every win rate is measured against {first}"
                )
            continue
        name = method_name(path, cell)
        if admits.methods != "any" and name not in admits.methods:
            raise BenchError(
                f"{path}: record.method: {cell.method} is none of the methods that are admitted "
                f"({listed(admits.methods)}; {where}: admits.methods)"
            )
        if cell.training is None and not admits.untrained:
            raise BenchError(
                f"{path}: record.training: {cell.method} was not trained here, which {where} "
                f"does not admit (admits.untrained)"
            )
        if cell.training:
            key = (cell.method, cell.variant, cell.protocol.digest)
            seeds.setdefault(key, []).append((path, cell))
    for found in seeds.values():
        path, cell = found[0]
        base = bases.get(cell.evaluation.digest)
        _refuse_copies(found, cells[base] if base else None)
        done = sorted({c.seed for _, c in found if isinstance(c, CellResult)})
        if len(done) < admits.min_train_seeds and any(not _failed(c) for _, c in found):
            raise BenchError(
                f"{path}: record.seed: {cell.method} has {len(done)} train seed(s) "
                f"({listed(done)}), at least {admits.min_train_seeds} are asked for ({where}: "
                f"admits.min_train_seeds); run it with more seeds and add them together"
            )


def _refuse_copies(seeds: Sequence[tuple[Path, Cell]], base: Cell | None) -> None:
    """Raise `BenchError` where one training stands for two train seeds of a method.

    Trainings that have changed nothing may agree: they are the base.
    """
    seen: dict[tuple[object, ...], Path] = {}
    untouched = _all_scores(base) if base else ()
    for path, cell in seeds:
        scores = _all_scores(cell)
        if not scores or scores == untouched:
            continue
        other = seen.setdefault(scores, path)
        if other != path:
            raise BenchError(
                f"{path}: record.evaluations: every score is that of {other}, to the last digit; "
                f"another train seed would have given others"
            )


def _all_scores(cell: Cell) -> tuple[object, ...]:
    """All scores of a cell in one order; () of a failure."""
    parts = cell.evaluations if isinstance(cell, CellResult) else ()
    return tuple(
        (part.prompt_set, scorer, tuple(part.scores[scorer]))
        for part in sorted(parts, key=lambda part: part.prompt_set)
        for scorer in sorted(part.scores)
    )


def _failed(cell: Cell) -> bool:
    return isinstance(cell, CellFailure)


def standings_of(board: Board) -> Tables:
    """The standings of a board."""
    return comparing.compare(board.cells, board.prompts)


def render(
    board: Board, built: Tables | None = None, more: Sequence[Renderer] = ()
) -> dict[str, str]:
    """The text of every file that follows from a board: path below it -> text.

    Args:
        board: as loaded.
        built: its standings, where they are known already.
        more: what else is made of a board, such as a report, by rooms that stand above this one.
    """
    built = built or standings_of(board)
    files = tables.render(built, about(board))
    for renderer in more:
        files |= renderer(board, built)
    return files


def write(folder: Path, more: Sequence[Renderer] = ()) -> Tables:
    """Regenerate all tables of a board; returns what they show.

    Args:
        folder: the board.
        more: as for `render`.

    Raises:
        BenchError: as `load`, or a README.md is there that is none of a board.
    """
    board = load(folder)
    built = standings_of(board)
    tables.write_files(folder, render(board, built, more))
    return built


def check(folder: Path, more: Sequence[Renderer] = ()) -> None:
    """Raise `BenchError` unless a board is, to the byte, what was added and follows from it."""
    tables.check_files(folder, render(load(folder), more=more))


def about(board: Board) -> About:
    """Title, description, protocol and deviations for the board's README."""
    file = board.file
    if file is None:
        return About()
    text = escaping.markdown
    opening = [text(part) for part in file.description.split("\n\n") if part.strip()]
    away = [
        f"- {escaping.code(path.name)}: {text(', '.join(what))}."
        for path, what in sorted(board.deviations().items())
    ]
    if away:
        opening.append("\n".join(("**Not all results are as frozen:**", "", *away)))
    return About(
        title=text(file.title),
        opening=tuple(line for part in opening for line in (part, "")),
        closing=("## The protocol", "", *(f"- {line}" for line in _protocol_lines(file)), ""),
    )


def _protocol_lines(file: BoardFile) -> Iterator[str]:
    """What was frozen, and who may come."""
    text, frozen, admits = escaping.markdown, file.frozen, file.admits
    when = (
        f"as {frozen.results_then} results had it"
        if frozen.results_then
        else "from a recipe, before the board held any score"
    )
    both = "Evaluation and training were" if file.protocol.training else "The evaluation was"
    differ = "" if file.protocol.training else "; training may differ from section to section"
    yield (
        f"{both} frozen {when}, under the digest {escaping.code(frozen.digest[:8])} (`{BOARD}`): "
        f"results that differ are refused, or marked{differ}."
    )
    for part, data in _parts(file.protocol):
        facts = ((key, value) for key, value in sorted(flat(data).items()) if _says(value))
        if words := ", ".join(f"{key} {shown(value)}" for key, value in facts):
            yield f"{part}: {text(words)}."
    if file.protocol.held_out:
        yield f"Held out: {text(', '.join(file.protocol.held_out))}."
    methods = "any method" if admits.methods == "any" else f"only {text(listed(admits.methods))}"
    untrained = "" if admits.untrained else ", trained here"
    yield f"Admitted: {methods}{untrained}, with {admits.min_train_seeds} or more train seeds."


def _parts(protocol: FrozenProtocol) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a protocol, as people name them."""
    evaluation, training = protocol.evaluation, protocol.training
    yield "Start model", evaluation.backbone
    yield "Sampling", {**evaluation.sampling, "image seeds": list(evaluation.image_seeds)}
    yield "Prompts", evaluation.prompts
    for scorer in sorted(evaluation.scorers):
        yield f"Scorer {escaping.code(scorer)}", evaluation.scorers[scorer]
    if training:
        yield "Pairs", {**training.pairs, **training.filters, **training.framing}
        yield "Training", training.options


def _says(value: object) -> bool:
    """Whether a fact tells anything."""
    return value is not None and value != "" and value != {}
