"""What a run leaves for people: result files, tables, scores, checkpoints, a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import contracts
from bench.api.kinds import Scorer, is_held_out
from bench.leaderboard import results, tables
from bench.leaderboard.comparing import compare
from bench.leaderboard.names import shortened
from bench.leaderboard.protocol import EvaluationProtocol, Protocol, TrainingProtocol
from bench.leaderboard.run_folder import RunFolder, card
from bench.leaderboard.standings import Row, Tables
from bench.lib import contact_sheet, provenance
from bench.lib.escaping import printable
from bench.outputs import cards, curves
from bench.outputs.checkpoint_folders import is_adapter, write_checkpoint
from bench.outputs.score_table import parquet, score_table
from bench.recipe.prompt_table import PromptTable
from bench.running.plan import Cell, Plan
from bench.running.walk import RunOutcome
from bench.stages.describe import read_diversity, read_facts
from bench.stages.sample import PREPARING, image_in
from bench.stages.score import read_scores
from bench.stages.train import read_curve
from bench.store.store import Artefact, Store

SHEET_ROWS = 8
_STAGES = ("rewards", "encode", "train", "sample", "describe", "score")
"""Names of those that a cell is made by."""
_TOLD = frozenset(_STAGES) - {"describe"}
"""Those whose versions and devices its record has: the others change no figure of its ranking."""


@dataclass(frozen=True)
class _Checkpoint:
    """What training left of one cell, as the output folder shows it."""

    name: str
    """Of its folder."""
    identity: str
    """Of the cell."""
    artefact: Path
    card: str


def write(
    plan: Plan,
    store: Store,
    out: Path,
    outcome: RunOutcome,
    say: Callable[[str], None] = lambda _: None,
) -> Tables:
    """Add everything that follows from the finished stages to the folder `out`.

    Cells of earlier runs stay on its board, beside these where their protocol is the same and in
    sections of their own where it is not.

    Returns:
        The sections that this run's cells stand in.

    Raises:
        BenchError: the folder is not a run's, or the cells make no board; nothing is changed.
    """
    records = [_record(plan, cell, store, outcome.failures) for cell in plan.cells]
    with RunFolder(out).held() as folder:
        before, known = folder.board()
        new = _new_cells(out, before, records, say)
        cells = {**before, **new}
        prompts = {**known, **{table.sha256: table for table in plan.prompts}}
        built = compare(cells, prompts)
        files = {results.record_path(out, t): results.record_text(t) for t in plan.prompts}
        files |= {path: results.record_text(cell) for path, cell in new.items()}
        kept = folder.replace(
            {
                **{str(path.relative_to(out)): text.encode() for path, text in files.items()},
                "scores.parquet": parquet(score_table(cells, prompts)),
                "recipe.yaml": plan.recipe.to_yaml().encode(),
                "contact_sheet.png": _sheet(plan, store, outcome.failures),
                **{name: text.encode() for name, text in tables.render(built).items()},
            }
        )
        for path in kept:
            say(f"kept {path}: what lay there had been changed since a run wrote it")
        checkpoints = _checkpoints(plan, store, records, built)
        folder.make_room({made.name: made.identity for made in checkpoints})
        with folder.becoming({card(made.name): made.card.encode() for made in checkpoints}):
            for made in checkpoints:
                write_checkpoint(out / "checkpoints" / made.name, made.artefact, made.card)
    return _shown(built, records, say)


def _new_cells(
    out: Path,
    before: Mapping[Path, results.Cell],
    records: Iterable[results.Cell],
    say: Callable[[str], None],
) -> dict[Path, results.Cell]:
    """What is to be written where; of one cell, what says more stays."""
    places = {cell.identity: path for path, cell in before.items()}
    new = {}
    for record in records:
        path = places.get(record.identity, results.record_path(out, record))
        if path in before and _images_scored(before[path]) > _images_scored(record):
            say(f"kept {path}: an earlier run of the same cell scored more images")
        else:
            new[path] = record
    return new


def _images_scored(cell: results.Cell) -> int:
    if isinstance(cell, results.CellFailure):
        return 0
    return sum(len(values) for part in cell.evaluations for values in part.scores.values())


def _shown(built: Tables, records: Iterable[results.Cell], say: Callable[[str], None]) -> Tables:
    """The sections of some cells; how many others there are is said."""
    trained = {record.protocol.digest for record in records if record.training}
    evaluated = {record.evaluation.digest for record in records}
    sections = tuple(
        section
        for section in built.sections
        if (section.protocol in trained if trained else section.evaluation in evaluated)
    )
    if others := len(built.sections) - len(sections):
        say(f"The board also holds {others} of other protocols, see README.md there.")
    return replace(built, sections=sections)


def _artefacts(
    cell: Cell, store: Store, failures: Mapping[str, str]
) -> dict[str, dict[str, Artefact]]:
    """Stage name -> key -> what the cell's stages of that name left, as far as finished."""
    stages = [*cell.stages, *(cell.train.inputs if cell.train else ())]
    made: dict[str, dict[str, Artefact]] = {name: {} for name in _STAGES}
    for stage in stages:
        if stage.key not in failures:
            made[stage.name][stage.key] = Artefact(store.path(stage.name, stage.key))
    return made


def _record(plan: Plan, cell: Cell, store: Store, failures: Mapping[str, str]) -> results.Cell:
    identity = _identity(plan, cell)
    made = _artefacts(cell, store, failures)
    if not made["score"]:
        reasons = [failures[s.key] for s in cell.scores.values() if s.key in failures]
        # Of errors of the system, also names that are no text.
        return results.CellFailure(**identity, reason=printable(reasons[0]))
    trained = next(iter(made["train"].values()), None)
    info = trained.info if trained else {}
    curve = read_curve(trained.path) if trained else {}
    origins = (
        artefact.manifest.made_with for name in sorted(_TOLD) for artefact in made[name].values()
    )
    return results.CellResult(
        **identity,
        in_loop=tuple(sorted(cell.in_loop)),
        held_out=tuple(sorted(name for name, s in plan.scorers.items() if is_held_out(type(s)))),
        towers=_towers(plan.scorers),
        budget=results.Budget(**{of.name: info.get(of.name, 0) for of in fields(results.Budget)}),
        cost=_cost(made),
        provenance=provenance.joined(origins),
        evaluations=tuple(_evaluation(plan, cell, table, made) for table in plan.prompts),
        weight_distance=curves.weight_distance(curve),
        curve=curves.thinned(curve, results.MOST_POINTS),
    )


def _towers(scorers: Mapping[str, Scorer]) -> dict[str, str]:
    """scorer -> the network that it declares to stand on."""
    declared = {}
    for name, scorer in scorers.items():
        with contracts.asking(scorer, "`tower`"):
            if tower := scorer.tower:
                declared[name] = tower
    return declared


def _evaluation(
    plan: Plan, cell: Cell, table: PromptTable, made: Mapping[str, Mapping[str, Artefact]]
) -> results.PromptSetScores:
    """The cell's scores of one prompt set, by scorers that have scored all of its images.

    With it what else is known of the images, as far as it is finished.
    """
    seeds = tuple(sorted(plan.recipe.sampling.image_seeds))
    scores = {}
    for scorer in plan.scorers:
        keys = [cell.scores[table.name, seed, scorer].key for seed in seeds]
        if all(key in made["score"] for key in keys):
            columns = [read_scores(made["score"][key].path) for key in keys]
            scores[scorer] = tuple(np.stack(columns, axis=1).ravel().tolist())
    samples = tuple(cell.samples[table.name, seed].key for seed in seeds)
    described = made["describe"].get(cell.descriptions[table.name].key)
    facts = read_facts(described.path) if described else {}
    diversity = read_diversity(described.path) if described else np.zeros(0)
    return results.PromptSetScores(
        prompt_set=table.name,
        prompts_sha256=table.sha256,
        prompts=len(table.texts),
        image_seeds=seeds,
        scores=scores,
        samples=samples if all(key in made["sample"] for key in samples) else (),
        facts={name: tuple(values.tolist()) for name, values in facts.items()},
        diversity=tuple(diversity.tolist()),
    )


def protocol_of(plan: Plan) -> Protocol:
    """What the results of a plan will share, known before anything has run."""
    cell = next((cell for cell in plan.cells if cell.train), plan.cells[0])
    identity = _identity(plan, cell)
    return Protocol(identity["evaluation"], identity["training"])


def _identity(plan: Plan, cell: Cell) -> dict[str, Any]:
    """All that makes the cell, as the plan knows it."""
    recipe, described = plan.recipe, plan.described
    training, rewards = None, {}
    if cell.train:
        rewards = {
            name: described["label_scorers"][stage.key]
            for name, stage in cell.train.rewards.items()
        }
        training = TrainingProtocol(
            pairs=described["pairs"],
            filters=recipe.filters.model_dump(mode="json"),
            framing=recipe.framing.model_dump(mode="json"),
            options=cell.train.training.affecting_results(),
        )
    sampling = recipe.sampling.model_dump(
        mode="json", exclude={"batch_size", "compile", "image_seeds"}
    )
    return {
        "method": cell.method,
        "seed": cell.seed or 0,
        "backbone": recipe.backbone,
        "pairs": plan.pairs_name if training else "",
        "recipe": recipe.name,
        "base": cell.baseline,
        "described": described["methods"][cell.method],
        "label_scorers": rewards,
        "evaluation": EvaluationProtocol(
            backbone=described["backbone"],
            sampling=sampling,
            image_seeds=tuple(sorted(recipe.sampling.image_seeds)),
            prompts={table.name: table.sha256 for table in plan.prompts},
            scorers=described["scorers"],
        ),
        "training": training,
    }


def _cost(made: Mapping[str, Mapping[str, Artefact]]) -> results.Cost:
    """Labelling and encoding are charged in full to every method that needs them."""

    def seconds(*stages: str) -> float:
        costs = [artefact.cost for stage in stages for artefact in made[stage].values()]
        # Of one device: eight GPUs for an hour are eight hours.
        return round(sum((cost.seconds * cost.processes for cost in costs), 0.0), 3)

    trained = [artefact.cost for artefact in made["train"].values()]
    sampled = list(made["sample"].values())
    return results.Cost(
        label_seconds=seconds("rewards"),
        train_seconds=seconds("encode", "train"),
        sample_seconds=seconds("sample"),
        score_seconds=seconds("score"),
        train_nfe=sum(cost.nfe for cost in trained),
        # One model draws all images: what its making took is counted once.
        sample_nfe=sum(artefact.cost.nfe for artefact in sampled)
        + max((int(artefact.info.get(PREPARING, 0)) for artefact in sampled), default=0),
        peak_memory_mb=max((cost.peak_memory_mb for cost in trained), default=0.0),
    )


def _checkpoints(
    plan: Plan, store: Store, records: Sequence[results.Cell], built: Tables
) -> list[_Checkpoint]:
    """What training left of every cell, with its model card."""
    with contracts.asking(plan.backbone):
        start = plan.backbone.start_model
    trained = [
        (cell.train, record)
        for cell, record in zip(plan.cells, records, strict=True)
        if cell.train and isinstance(record, results.CellResult)
    ]
    names = [f"{results.safe_name(record.method)}-seed{record.seed}" for _, record in trained]
    checkpoints = []
    for (stage, record), name in zip(trained, names, strict=True):
        artefact, identity = store.path("train", stage.key), record.identity
        text = cards.model_card(
            record, _row(record, built), start, plan.backbone.licence, adapter=is_adapter(artefact)
        )
        unique = name if names.count(name) == 1 else f"{name}-{identity[:8]}"
        checkpoints.append(_Checkpoint(unique, identity, artefact, text))
    return checkpoints


def _row(record: results.CellResult, built: Tables) -> Row:
    """The standing of a trained cell, of its train seed alone."""
    return next(
        row
        for section in built.sections
        if section.protocol == record.protocol.digest
        for row in section.seed_rows
        if (row.method, row.seeds) == (record.method, (record.seed,))
        and record.variant.startswith(row.variant)
    )


def _sheet(plan: Plan, store: Store, failures: Mapping[str, str]) -> bytes:
    """A PNG: the same prompts of all methods (first train and image seed) side by side."""
    first: dict[str, Cell] = {}
    for cell in plan.cells:
        first.setdefault(cell.method, cell)
    image_seed = plan.recipe.sampling.image_seeds[0]
    places = [(t, row) for t in plan.prompts for row in range(len(t.texts))]
    chosen = [places[i] for i in contact_sheet.choose_prompts(len(places), SHEET_ROWS)]

    def image(cell: Cell, table: str, row: int) -> Path | None:
        stage = cell.samples[table, image_seed]
        if stage.key in failures:
            return None
        return image_in(store.path("sample", stage.key), row)

    rows = [
        (table.texts[row], [image(cell, table.name, row) for cell in first.values()])
        for table, row in chosen
    ]
    buffer = io.BytesIO()
    columns = list(shortened(first).values())
    contact_sheet.contact_sheet(rows, columns).save(buffer, format="PNG")
    return buffer.getvalue()
