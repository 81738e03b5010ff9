"""What a run leaves for people: result files, tables, scores, checkpoints, a contact sheet."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench import provenance
from bench.checkpoint_folders import is_adapter, write_checkpoint
from bench.errors import BenchError
from bench.leaderboard import cards, contact_sheet, results, tables
from bench.plan import SPEED_ONLY
from bench.protocols import StartModel, is_held_out
from bench.runner import RunOutcome
from bench.stages import Cell, Plan, Stage
from bench.store import Artefact, Store, write_atomic
from bench.work import PREPARING

SHEET_ROWS = 8


def write(plan: Plan, store: Store, out: Path, outcome: RunOutcome, device: str) -> tables.Tables:
    """Write everything that follows from the finished stages into `out`; returns the tables."""
    frames = []
    for stale in (out / "results", out / "prompts"):
        shutil.rmtree(stale, ignore_errors=True)
    for table in plan.prompts:
        results.save_prompts(out, table)
    records = {}
    for cell in plan.cells:
        scores = _scores(cell, store, outcome.failures)
        record = _record(plan, cell, store, outcome.failures, scores, device)
        results.save_cell(out, record)
        records[cell.method, cell.seed] = record
        frames += _rows(cell, plan, scores)
    (out / "recipe.yaml").write_text(plan.recipe.to_yaml(), encoding="utf-8")
    _write_scores(out / "scores.parquet", frames)
    _write_sheet(plan, store, out / "contact_sheet.png", outcome.failures)
    built = tables.write(out)
    _write_checkpoints(plan, store, out / "checkpoints", records, built)
    return built


def _scores(
    cell: Cell, store: Store, failures: Mapping[str, str]
) -> dict[tuple[str, int, str], np.ndarray]:
    import pandas as pd

    found = {}
    for place, stage in cell.scores.items():
        if stage.key not in failures:
            path = store.path("score", stage.key) / "scores.parquet"
            found[place] = pd.read_parquet(path)["score"].to_numpy(dtype=np.float64)
    return found


def _record(
    plan: Plan,
    cell: Cell,
    store: Store,
    failures: Mapping[str, str],
    scores: Mapping[tuple[str, int, str], np.ndarray],
    device: str,
) -> results.Cell:
    recipe = plan.recipe
    identity: dict[str, Any] = {
        "method": cell.method,
        "seed": cell.seed or 0,
        "backbone": recipe.backbone,
        "pairs": plan.pairs_name,
        "recipe": recipe.name,
        "untrained": cell.baseline,
    }
    if not scores:
        reasons = [failures[s.key] for s in cell.scores.values() if s.key in failures]
        return results.CellFailure(**identity, reason=reasons[0])
    seeds = recipe.sampling.image_seeds
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
        backbone_fingerprint=plan.described["backbone"]["fingerprint"],
        in_loop=tuple(sorted(cell.in_loop)),
        held_out=tuple(sorted(name for name, s in plan.scorers.items() if is_held_out(type(s)))),
        budget=results.Budget(
            steps=info.get("steps", 0),
            pairs_seen=info.get("pairs_seen", 0),
            pairs_kept=info.get("pairs_kept", 0),
            pairs_dropped=info.get("pairs_dropped", 0),
        ),
        sampling=recipe.sampling.model_dump(mode="json", exclude={"batch_size", "compile"}),
        configuration={
            "method": plan.described["methods"][cell.method],
            "training": recipe.training.model_dump(mode="json", exclude=SPEED_ONLY),
            "filters": recipe.filters.model_dump(mode="json"),
            "framing": recipe.framing.model_dump(mode="json"),
            "scorers": plan.described["scorers"],
        },
        cost=_cost(plan, cell, store, failures),
        provenance=_provenance(cell, store, failures),
        evaluations=evaluations,
    )


def _info(store: Store, stage: Stage | None) -> dict[str, Any]:
    return Artefact(store.path(stage.name, stage.key)).info if stage else {}


def _provenance(cell: Cell, store: Store, failures: Mapping[str, str]) -> dict[str, str]:
    """What made the cell's artefacts, which may be another machine than this one."""
    stages: list[Stage] = [*cell.samples.values(), *cell.scores.values()]
    places = [(stage.name, stage.key) for stage in stages]
    if cell.train:
        places += [("train", cell.train.key), ("encode", cell.train.encode)]
        places += [("rewards", key) for key in cell.train.rewards.values()]
    finished = (place for place in places if place[1] not in failures)
    return provenance.joined(Artefact(store.path(*p)).manifest.made_with for p in finished)


def _cost(plan: Plan, cell: Cell, store: Store, failures: Mapping[str, str]) -> results.Cost:
    """Labelling and encoding are charged in full to every method that needs them."""

    def seconds(stage_name: str, keys: list[str]) -> float:
        finished = (key for key in keys if key not in failures)
        costs = (Artefact(store.path(stage_name, key)).cost for key in finished)
        # Of one device: eight GPUs for an hour are eight hours.
        return round(sum((cost.seconds * cost.processes for cost in costs), 0.0), 3)

    def samplings() -> Iterator[Artefact]:
        for stage in cell.samples.values():
            if stage.key not in failures:
                yield Artefact(store.path("sample", stage.key))

    train = cell.train
    trained = Artefact(store.path("train", train.key)).cost if train else None
    training = [seconds("encode", [train.encode]), seconds("train", [train.key])] if train else []
    return results.Cost(
        label_seconds=seconds("rewards", list(train.rewards.values())) if train else 0.0,
        train_seconds=round(sum(training, 0.0), 3),
        sample_seconds=seconds("sample", [s.key for s in cell.samples.values()]),
        score_seconds=seconds("score", [s.key for s in cell.scores.values()]),
        train_nfe=trained.passes if trained else 0,
        # One model draws all images: what its making took is counted once.
        sample_nfe=sum(sampling.cost.passes for sampling in samplings())
        + max((int(sampling.info.get(PREPARING, 0)) for sampling in samplings()), default=0),
        peak_memory_mb=trained.peak_memory_mb if trained else 0.0,
    )


def _rows(
    cell: Cell, plan: Plan, scores: Mapping[tuple[str, int, str], np.ndarray]
) -> list[dict[str, Any]]:
    texts = {table.name: table.texts for table in plan.prompts}
    return [
        {
            "method": cell.method,
            "seed": cell.seed,
            "prompt_set": prompt_set,
            "image_seed": image_seed,
            "scorer": scorer,
            "prompt": texts[prompt_set],
            "score": values,
        }
        for (prompt_set, image_seed, scorer), values in scores.items()
    ]


def _write_scores(path: Path, blocks: list[dict[str, Any]]) -> None:
    import pandas as pd

    frame = pd.concat([pd.DataFrame(block) for block in blocks]) if blocks else pd.DataFrame()
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())


def _write_checkpoints(
    plan: Plan,
    store: Store,
    folder: Path,
    records: Mapping[tuple[str, int | None], results.Cell],
    built: tables.Tables,
) -> None:
    """`checkpoints/<cell>`: what training left, and a model card."""
    stale = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    rows = {(r.method, r.seeds): r for section in built.sections for r in section.seed_rows}
    start = _start_model(plan)
    for cell in plan.cells:
        record = records[cell.method, cell.seed]
        if not cell.train or not isinstance(record, results.CellResult):
            continue
        artefact = store.path("train", cell.train.key)
        card = cards.model_card(
            record,
            rows[record.method, (record.seed,)],
            start,
            plan.backbone.licence,
            adapter=is_adapter(artefact),
        )
        name = f"{results.safe_name(cell.method)}-seed{cell.seed}"
        write_checkpoint(folder / name, artefact, card)
        stale.discard(name)
    for name in stale:
        shutil.rmtree(folder / name, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


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


def _write_sheet(plan: Plan, store: Store, path: Path, failures: Mapping[str, str]) -> None:
    """The same prompts of all methods (first train and image seed) side by side."""
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
    contact_sheet.contact_sheet(rows, list(first)).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
