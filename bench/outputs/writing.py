"""What a run leaves for people: result files, tables, scores, checkpoints, a contact sheet."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.api.kinds import StartModel, is_held_out
from bench.leaderboard import results, tables
from bench.leaderboard.names import shortened
from bench.leaderboard.protocol import EvaluationProtocol, TrainingProtocol
from bench.leaderboard.run_folder import RunFolder, card
from bench.lib import contact_sheet, provenance
from bench.lib.errors import BenchError
from bench.lib.escaping import printable
from bench.outputs import cards
from bench.outputs.checkpoint_folders import is_adapter, write_checkpoint
from bench.recipe.prompt_table import PromptTable
from bench.run.plan import Cell, Plan
from bench.run.walk import RunOutcome
from bench.stages.sample import PREPARING
from bench.stages.score import read_scores
from bench.stages.stage import Stage
from bench.store.store import Artefact, Store

SHEET_ROWS = 8
_SCORE_COLUMNS = (
    "method",
    "seed",
    "prompt_set",
    "image_seed",
    "scorer",
    "prompt",
    "score",
    "protocol",
    "cell",
)


def write(
    plan: Plan,
    store: Store,
    out: Path,
    outcome: RunOutcome,
    say: Callable[[str], None] = lambda _: None,
) -> tables.Tables:
    """Add everything that follows from the finished stages to the folder `out`.

    Cells of earlier runs stay on its board, beside these where their protocol is the same and in
    sections of their own where it is not.

    Returns:
        The sections that this run's cells stand in.

    Raises:
        BenchError: the folder is not a run's, or the cells make no board; nothing is changed.
    """
    records = {
        (cell.method, cell.seed): _record(plan, cell, store, outcome.failures)
        for cell in plan.cells
    }
    prompts = {table.sha256: table for table in plan.prompts}
    with RunFolder(out).held() as folder:
        before, known = folder.board()
        new = _new_cells(out, before, records.values(), say)
        cells, prompts = {**before, **new}, {**known, **prompts}
        built = tables.compare(cells, prompts)
        files = {results.record_path(out, t): results.record_text(t) for t in plan.prompts}
        files |= {path: results.record_text(cell) for path, cell in new.items()}
        kept = folder.replace(
            {
                **{str(path.relative_to(out)): text.encode() for path, text in files.items()},
                "scores.parquet": _scores_table(cells, prompts),
                "recipe.yaml": plan.recipe.to_yaml().encode(),
                "contact_sheet.png": _sheet(plan, store, outcome.failures),
                **{name: text.encode() for name, text in tables.render(built).items()},
            }
        )
        for path in kept:
            say(f"kept {path}: what lay there had been changed since a run wrote it")
        identities = {record.identity for record in records.values()}
        own = {path: cell for path, cell in cells.items() if cell.identity in identities}
        mine = built if len(own) == len(cells) else tables.compare(own, prompts)
        checkpoints = checkpoint_names(records.values())
        folder.make_room(checkpoints)
        made = dict(_checkpoints(plan, store, records, mine))
        with folder.becoming({card(name): text.encode() for name, (_, text) in made.items()}):
            for name, (artefact, text) in made.items():
                write_checkpoint(out / "checkpoints" / name, artefact, text)
    return _shown(built, records.values(), say)


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


def _shown(
    built: tables.Tables, records: Iterable[results.Cell], say: Callable[[str], None]
) -> tables.Tables:
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


def checkpoint_names(records: Iterable[results.Cell]) -> dict[str, str]:
    """Names of checkpoint folders, and the identity of the cell that each is of."""
    trained = [r for r in records if r.training and isinstance(r, results.CellResult)]
    short = Counter(_checkpoint_name(record) for record in trained)
    return {
        name if short[name := _checkpoint_name(record)] == 1 else f"{name}-{record.identity[:8]}": (
            record.identity
        )
        for record in trained
    }


def _checkpoint_name(record: results.Cell) -> str:
    return f"{results.safe_name(record.method)}-seed{record.seed}"


def _scores(
    cell: Cell, store: Store, failures: Mapping[str, str]
) -> dict[tuple[str, int, str], np.ndarray]:
    return {
        place: read_scores(store.path(stage.name, stage.key))
        for place, stage in cell.scores.items()
        if stage.key not in failures
    }


def _record(plan: Plan, cell: Cell, store: Store, failures: Mapping[str, str]) -> results.Cell:
    identity = _identity(plan, cell)
    scores = _scores(cell, store, failures)
    if not scores:
        reasons = [failures[s.key] for s in cell.scores.values() if s.key in failures]
        # Of errors of the system, also names that are no text.
        return results.CellFailure(**identity, reason=printable(reasons[0]))
    seeds = identity["evaluation"].image_seeds
    evaluations = tuple(
        results.PromptSetScores(
            prompt_set=table.name,
            prompts_sha256=table.sha256,
            prompts=len(table.texts),
            image_seeds=seeds,
            scores={
                scorer: tuple(
                    np.stack([scores[table.name, s, scorer] for s in seeds], axis=1)
                    .ravel()
                    .tolist()
                )
                for scorer in plan.scorers
                if all((table.name, s, scorer) in scores for s in seeds)
            },
        )
        for table in plan.prompts
    )
    info = _info(store, cell.train)
    return results.CellResult(
        **identity,
        in_loop=tuple(sorted(cell.in_loop)),
        held_out=tuple(sorted(name for name, s in plan.scorers.items() if is_held_out(type(s)))),
        budget=results.Budget(
            steps=info.get("steps", 0),
            pairs_seen=info.get("pairs_seen", 0),
            pairs_kept=info.get("pairs_kept", 0),
            pairs_dropped=info.get("pairs_dropped", 0),
        ),
        cost=_cost(plan, cell, store, failures),
        provenance=_provenance(cell, store, failures),
        evaluations=evaluations,
    )


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


def _info(store: Store, stage: Stage | None) -> dict[str, Any]:
    return Artefact(store.path(stage.name, stage.key)).info if stage else {}


def _provenance(cell: Cell, store: Store, failures: Mapping[str, str]) -> dict[str, str]:
    """What made the cell's artefacts, which may be another machine than this one."""
    stages = [*cell.stages, *(cell.train.inputs if cell.train else ())]
    finished = (s for s in stages if s.key not in failures)
    return provenance.joined(
        Artefact(store.path(s.name, s.key)).manifest.made_with for s in finished
    )


def _cost(plan: Plan, cell: Cell, store: Store, failures: Mapping[str, str]) -> results.Cost:
    """Labelling and encoding are charged in full to every method that needs them."""

    def seconds(stages: Iterable[Stage]) -> float:
        finished = (s for s in stages if s.key not in failures)
        costs = (Artefact(store.path(s.name, s.key)).cost for s in finished)
        # Of one device: eight GPUs for an hour are eight hours.
        return round(sum((cost.seconds * cost.processes for cost in costs), 0.0), 3)

    def samplings() -> Iterator[Artefact]:
        for stage in cell.samples.values():
            if stage.key not in failures:
                yield Artefact(store.path("sample", stage.key))

    train = cell.train
    trained = Artefact(store.path("train", train.key)).cost if train else None
    training = [seconds([train.encode]), seconds([train])] if train else []
    return results.Cost(
        label_seconds=seconds(train.rewards.values()) if train else 0.0,
        train_seconds=round(sum(training, 0.0), 3),
        sample_seconds=seconds(cell.samples.values()),
        score_seconds=seconds(cell.scores.values()),
        train_nfe=trained.nfe if trained else 0,
        # One model draws all images: what its making took is counted once.
        sample_nfe=sum(sampling.cost.nfe for sampling in samplings())
        + max((int(sampling.info.get(PREPARING, 0)) for sampling in samplings()), default=0),
        peak_memory_mb=trained.peak_memory_mb if trained else 0.0,
    )


def _scores_table(cells: Mapping[Path, results.Cell], prompts: Mapping[str, PromptTable]) -> bytes:
    """Every score of the board's result files as Parquet, a row an image and scorer."""
    import pandas as pd

    blocks = [pd.DataFrame({name: [] for name in _SCORE_COLUMNS})]
    for _, cell in sorted(cells.items()):
        for part in cell.evaluations if isinstance(cell, results.CellResult) else ():
            texts = prompts[part.prompts_sha256].texts
            about = {
                "method": cell.method,
                "seed": cell.seed if cell.training else None,
                "prompt_set": part.prompt_set,
                "image_seed": np.tile(part.image_seeds, len(texts)),
                "prompt": np.repeat(np.array(texts, dtype=object), len(part.image_seeds)),
                "protocol": cell.protocol.digest[:12],
                "cell": cell.identity[:12],
            }
            for scorer, values in sorted(part.scores.items()):
                block = pd.DataFrame({**about, "scorer": scorer, "score": values})
                blocks.append(block.astype({"seed": "Int64"})[list(_SCORE_COLUMNS)])
    frame = pd.concat(blocks[1:] or blocks)
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _checkpoints(
    plan: Plan,
    store: Store,
    records: Mapping[tuple[str, int | None], results.Cell],
    built: tables.Tables,
) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Folder name of every trained cell -> what training left, and its model card."""
    names = {identity: name for name, identity in checkpoint_names(records.values()).items()}
    rows = {(r.method, r.seeds): r for section in built.sections for r in section.seed_rows}
    start = _start_model(plan)
    for cell in plan.cells:
        record = records[cell.method, cell.seed]
        if not cell.train or not isinstance(record, results.CellResult):
            continue
        artefact = store.path("train", cell.train.key)
        text = cards.model_card(
            record,
            rows[record.method, (record.seed,)],
            start,
            plan.backbone.licence,
            adapter=is_adapter(artefact),
        )
        yield names[record.identity], (artefact, text)


def _start_model(plan: Plan) -> StartModel | None:
    try:
        return plan.backbone.start_model
    except BenchError:
        raise
    except Exception as error:
        # A plugin's own mistake, whatever it is.
        reason = f"{type(error).__name__}: {error}"
        raise BenchError(
            f"backbone {plan.recipe.backbone}: its start_model failed ({reason}), so that no model "
            f"card can be written"
        ) from error


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
        return store.path("sample", stage.key) / "images" / f"{row:05d}.png"

    rows = [
        (table.texts[row], [image(cell, table.name, row) for cell in first.values()])
        for table, row in chosen
    ]
    buffer = io.BytesIO()
    columns = list(shortened(first).values())
    contact_sheet.contact_sheet(rows, columns).save(buffer, format="PNG")
    return buffer.getvalue()
