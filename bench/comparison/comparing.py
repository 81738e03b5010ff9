"""From subjects and their scores to a board: the same records, and the same statistics.

What is compared is images as they are given, so that every interval is over prompts alone: the
estimand is the checkpoint. There is no rank and no p, which speak of methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import contracts
from bench.comparison.pairing import Matched, Pairing, pair
from bench.comparison.scores import Maker, Scores, score
from bench.comparison.subjects import (
    Given,
    Kind,
    Subject,
    distinctly_named,
    identify,
    of_checkpoint,
    of_images,
    of_run,
)
from bench.leaderboard.comparing import compare
from bench.leaderboard.protocol import EvaluationProtocol, differences
from bench.leaderboard.results import Budget, CellResult, Cost, PromptSetScores, record_path
from bench.leaderboard.standings import Tables
from bench.lib.canonical_json import plain
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.reading import exists
from bench.lib.wording import listed
from bench.recipe import recipe as recipes
from bench.recipe.prompt_table import PromptTable
from bench.registry.location import named_or_path
from bench.registry.registry import Registry
from bench.running import planning
from bench.running.plan import Plan
from bench.statistics import model
from bench.statistics.model import Components, Floats, WinRate
from bench.statistics.ranking import simultaneous

ESTIMAND = (
    "These are win rates of the images as they are given (of a checkpoint): intervals are over "
    "prompts, and say nothing of another training, so there is no p and no rank."
)
_FOUND = "images as they are given"
"""Stands for the start model, where it is not known or not the same for all."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be compared."""

    subjects: tuple[str, ...]
    """Folders of images, runs, RUN:method, checkpoints."""
    scorers: tuple[str, ...] = ()
    prompts: str | None = None
    base: str | None = None
    """One of the subjects, as given or as it is called in tables; None: the first."""
    recipe: str | None = None
    """How checkpoints are sampled."""
    settings: Mapping[str, object] | None = None
    """Keys of that recipe and their values."""
    limit: int | None = None
    """Prompts, a stratified sample by category."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How often one subject wins over another."""

    name: str
    other: str
    rate: WinRate
    """Its interval holds for all pairs at once (max-t)."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison: the records of a board, and each pair."""

    base: str
    subjects: tuple[Subject, ...]
    """The base first."""
    pairing: Pairing
    cells: Mapping[Path, CellResult]
    """Where each lies in a folder -> a result, as boards have them."""
    prompts: Mapping[str, PromptTable]
    tables: Tables
    pairs: tuple[Pair, ...]
    scorers: tuple[str, ...]
    """Over which pairs are compared: those that no subject's training has read, if there are any;
    else all."""
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    """Why a scorer has not scored all images."""


def run(request: Request, registry: Registry, maker: Maker, roots: Sequence[Path]) -> Compared:
    """Compare.

    Args:
        request: what to compare.
        registry: where names are looked up.
        maker: makes samplings and scores that are missing.
        roots: where runs and boards that are named without a path lie.

    Raises:
        BenchError: something is unknown, cannot be read, scored or paired; says what and the
            remedy.
    """
    given = [identify(text, registry, roots) for text in request.subjects]
    table, load = _prompts(request, registry)
    subjects = distinctly_named(_subjects(given, request, table, load, registry))
    if len(subjects) < 2:
        raise BenchError(
            f"{request.subjects[0]} is one thing; name two or more to compare"
            if request.subjects
            else "name two things or more to compare"
        )
    subjects = _base_first(subjects, request.base)
    pairing = pair(subjects, table, request.limit)
    scores = score(subjects, request.scorers, registry, maker)
    return compared(subjects, pairing, scores)


def _prompts(request: Request, registry: Registry) -> tuple[PromptTable | None, Any]:
    """The prompts of --prompts, and what reads them for a folder of images."""
    text = request.prompts
    if text is None:
        return None, None
    prompt_set = named_or_path(registry, "prompt_sets", text)
    prompts = contracts.prompts_of(prompt_set)
    if not prompts:
        raise BenchError(f"prompt set {text!r} holds no prompt")
    name = Path(text).name if exists(Path(text)) else text
    return PromptTable.of(name, prompts), lambda: prompts


def _subjects(
    given: Sequence[Given],
    request: Request,
    table: PromptTable | None,
    load: Any,
    registry: Registry,
) -> list[Subject]:
    plan = _checkpoint_plan([g for g in given if g.kind is Kind.CHECKPOINT], request, registry)
    subjects: list[Subject] = []
    for one in given:
        match one.kind:
            case Kind.ROW:
                subjects += of_run(one)
            case Kind.IMAGES:
                subjects.append(of_images(one, table, load))
            case Kind.CHECKPOINT:
                assert plan is not None
                cell = next(c for c in plan.cells if c.method == one.spec)
                subjects.append(of_checkpoint(one, cell, plan.prompts, _made_by(plan)))
    return subjects


def _checkpoint_plan(given: Sequence[Given], request: Request, registry: Registry) -> Plan | None:
    """The plan that samples all checkpoints; nothing is trained."""
    if not given:
        if request.recipe is not None or request.settings:
            raise BenchError(
                "--recipe and --set say how checkpoints are sampled, but no checkpoint is named"
            )
        return None
    if request.recipe is None:
        raise BenchError(
            f"{given[0].text} is a checkpoint: say with --recipe by which recipe its images are "
            f"sampled, e.g. --recipe eval-sd15"
        )
    if not request.scorers:
        raise BenchError(f"{given[0].text} is not scored yet: say with --scorers by what")
    overrides: dict[str, object] = {
        **(request.settings or {}),
        "methods": list(dict.fromkeys(one.spec for one in given)),
        "scorers": list(request.scorers),
        "pairs": None,
        "training": None,
        "generate": None,
    }
    if request.prompts is not None:
        overrides["prompts"] = [request.prompts]
    if request.limit:
        overrides["limit"] = request.limit
    return planning.make(recipes.load(registry, request.recipe, overrides), registry)


def _made_by(plan: Plan) -> dict[str, Any]:
    sampling = plan.recipe.sampling.model_dump(
        mode="json", exclude={"batch_size", "compile", "image_seeds"}
    )
    return {"backbone": plan.described["backbone"], "sampling": sampling}


def _base_first(subjects: Sequence[Subject], wanted: str | None) -> list[Subject]:
    if wanted is None:
        return list(subjects)
    found = [s for s in subjects if wanted in (s.name, s.given)]
    if not found:
        raise UnknownNameError("base", wanted, {s.name for s in subjects})
    if len(found) > 1:
        raise BenchError(f"--base {wanted}: is {listed([s.name for s in found])}; name one of them")
    return [found[0], *(s for s in subjects if s is not found[0])]


def compared(subjects: Sequence[Subject], pairing: Pairing, scores: Scores) -> Compared:
    """The board of subjects, the first of which is the base.

    Args:
        subjects: with names that no two share.
        pairing: of them.
        scores: of them.
    """
    base = subjects[0]
    values = [
        _aligned(scores.values[i], pairing.matched[i], pairing.images[i])
        for i in range(len(subjects))
    ]
    evaluation, notes = _evaluation(subjects, pairing, scores)
    cells = {}
    for subject, own in zip(subjects, values, strict=True):
        cell = _cell(subject, subjects, own, pairing, evaluation, scores)
        cells[record_path(Path(), cell)] = cell
    prompts = {table.sha256: table for table in pairing.tables}
    read = {name for subject in subjects for name in subject.in_loop}
    independent = tuple(name for name in scores.scorers if name not in read)
    if not independent:
        notes.append(
            "every scorer took part in the training of one of them: a difference between them is "
            "no more than what that scorer was asked to raise"
        )
    return Compared(
        base=base.name,
        subjects=tuple(subjects),
        pairing=pairing,
        cells=cells,
        prompts=prompts,
        tables=compare(cells, prompts),
        pairs=tuple(_pairs(subjects, values, pairing, independent or tuple(scores.scorers))),
        scorers=independent or tuple(scores.scorers),
        notes=(*pairing.notes, *notes),
        failures=scores.failures,
    )


def _aligned(
    values: Mapping[str, tuple[Floats, ...]], matched: Sequence[Any], images: Sequence[int]
) -> dict[str, list[Floats]]:
    """scorer -> for each table an array [prompts, paired images]."""
    return {
        name: [
            np.stack([parts[part][row] for part, row in zip(m.parts, m.rows, strict=True)])[
                :, list(images)
            ]
            for m in matched
        ]
        for name, parts in values.items()
    }


def _evaluation(
    subjects: Sequence[Subject], pairing: Pairing, scores: Scores
) -> tuple[EvaluationProtocol, list[str]]:
    """What all have in common, and notes of what those that are known have not."""
    first = subjects[0]
    made = plain(first.made)
    same = bool(made) and all(plain(subject.made) == made for subject in subjects)
    notes = [
        f"{first.name} and {subject.name} were sampled differently: "
        f"{listed(differences(made, subject.made))}"
        for subject in subjects[1:]
        if made and subject.made and plain(subject.made) != made
    ]
    evaluation = EvaluationProtocol(
        backbone=made["backbone"] if same else {"name": _FOUND},
        sampling=made["sampling"] if same else {},
        image_seeds=pairing.seeds,
        prompts={table.name: table.sha256 for table in pairing.tables},
        scorers=scores.scorers,
    )
    return evaluation, notes


def _cell(
    subject: Subject,
    subjects: Sequence[Subject],
    values: Mapping[str, Sequence[Floats]],
    pairing: Pairing,
    evaluation: EvaluationProtocol,
    scores: Scores,
) -> CellResult:
    base = subjects[0]
    row, is_base = subject.row, subject is base
    number = [other.name for other in subjects].index(subject.name)
    matched, images = pairing.matched[number], pairing.images[number]
    # A scorer that the base was trained by speaks against all others.
    read = () if is_base else sorted({*subject.in_loop, *base.in_loop} & set(scores.scorers))
    return CellResult(
        method=subject.name,
        seed=0,
        backbone=_FOUND,
        pairs="",
        recipe="compare",
        base=is_base,
        described={"kind": str(subject.kind), "of": _origin(subject)},
        label_scorers={},
        evaluation=evaluation,
        training=None,
        in_loop=tuple(read),
        held_out=tuple(name for name in scores.held_out if name not in read),
        budget=_NO_BUDGET,
        cost=row.cost if row else _NO_COST,
        provenance={},
        evaluations=tuple(
            PromptSetScores(
                prompt_set=table.name,
                prompts_sha256=table.sha256,
                prompts=len(table.texts),
                image_seeds=pairing.seeds,
                scores={name: tuple(own[i].ravel().tolist()) for name, own in values.items()},
                samples=_samples(subject, matched[i], images),
            )
            for i, table in enumerate(pairing.tables)
        ),
    )


_NO_BUDGET = Budget(steps=0, pairs_seen=0, pairs_kept=0, pairs_dropped=0)
_NO_COST = Cost(
    label_seconds=0.0,
    train_seconds=0.0,
    sample_seconds=0.0,
    score_seconds=0.0,
    train_nfe=0,
    sample_nfe=0,
    peak_memory_mb=0.0,
)
"""Of images whose making is not known."""


def _samples(subject: Subject, matched: Matched, images: Sequence[int]) -> tuple[str, ...]:
    """Keys of the samplings whose image of row i is that of prompt i; () if there are none."""
    (part, *others) = dict.fromkeys(matched.parts)
    if others or matched.rows != tuple(range(len(matched.rows))):
        return ()
    shown = subject.parts[part]
    if subject.cell is not None:
        return tuple(subject.cell.samples[shown.prompt_set, shown.seeds[i]].key for i in images)
    if subject.row is None:
        return ()
    (own,) = (p for p in subject.row.evaluations if p.prompt_set == shown.prompt_set)
    return tuple(own.samples[i] for i in images) if own.samples else ()


def _origin(subject: Subject) -> str:
    """What tells the subject from others of its name."""
    if subject.row is not None:
        return subject.row.identity
    if subject.cell is not None:
        return ",".join(sorted(stage.key for stage in subject.cell.samples.values()))
    return subject.name


def _pairs(
    subjects: Sequence[Subject],
    values: Sequence[Mapping[str, Sequence[Floats]]],
    pairing: Pairing,
    scorers: Sequence[str],
) -> Iterator[Pair]:
    """Every subject against every later one, all intervals at one joint level."""
    texts = [text for table in pairing.tables for text in table.texts]
    sets = [table.name for table in pairing.tables for _ in table.texts]
    design = model.design(texts, sets)
    stacked = [[np.concatenate(own[name]) for name in scorers] for own in values]
    both = list(combinations(range(len(subjects)), 2))
    parts = []
    for i, j in both:
        # Images and scorers of a prompt side by side: they are averaged within it.
        won = [model.outcomes(a, b) for a, b in zip(stacked[j], stacked[i], strict=True)]
        parts.append(model.components(np.concatenate(won, axis=1)[None], design))
    rates = [model.win_rate(part, None) for part in parts]
    level = 1 - _alpha(parts, rates)
    for (i, j), rate in zip(both, rates, strict=True):
        low, high = rate.ends(level)
        yield Pair(
            name=subjects[j].name,
            other=subjects[i].name,
            rate=replace(rate, low=low, high=high),
        )


def _alpha(parts: Sequence[Components], rates: Sequence[WinRate]) -> float:
    """The level of each single interval at which all hold at once."""
    influence = np.stack([part.influence for part in parts])
    covariance = influence @ influence.T
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0.0] = 1.0
    correlation = covariance / np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    return simultaneous(
        [rate.centre - 0.5 for rate in rates],
        [rate.standard_error for rate in rates],
        [rate.df for rate in rates],
        correlation,
    ).alpha
