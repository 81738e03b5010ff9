"""The scores of what is compared: from result files where they are, else made, and never twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bench.api.kinds import is_held_out
from bench.comparison.subjects import Integers, Subject
from bench.leaderboard.protocol import differences
from bench.lib.canonical_json import plain
from bench.lib.errors import BenchError
from bench.lib.wording import listed
from bench.outputs.score_table import image_paths
from bench.registry.registry import Registry, spec_text
from bench.running import image_scores, planning
from bench.scoring.image_set import ImageSet
from bench.stages.score import ScoreStage, read_scores
from bench.stages.stage import Stage
from bench.statistics.model import Floats

if TYPE_CHECKING:
    from bench.api.kinds import Scorer
    from bench.lib.distributed import World
    from bench.lib.progress import Progress
    from bench.running.walk import RunOutcome, Status
    from bench.store.store import Store


class Maker(Protocol):
    """By whom stages are made, and where their artefacts lie."""

    @property
    def world(self) -> World:
        """The processes that share the work."""

    @property
    def store(self) -> Store:
        """Holds what is finished."""

    @property
    def progress(self) -> Progress:
        """Tells people."""

    def open(self, *written: Path) -> AbstractContextManager[None]:
        """Entered while stages are made."""

    def status(self, stages: Sequence[Stage]) -> Status:
        """What is finished."""

    def make(self, stages: Sequence[Stage], here: Status) -> RunOutcome:
        """Makes the rest."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What every scorer said of every subject."""

    scorers: Mapping[str, Mapping[str, Any]]
    """scorer -> the scorer, described: those that have scored all images of all subjects."""
    values: tuple[Mapping[str, tuple[Floats, ...]], ...]
    """[subjects]: scorer -> for each part an array [prompts, images]."""
    held_out: tuple[str, ...]
    """Those that are declared held out."""
    failures: tuple[str, ...]
    """Why a scorer has not scored all images."""


@dataclass(frozen=True)
class _Source:
    """Where the scores of one subject by one scorer come from."""

    read: Callable[[], tuple[Floats, ...]]
    """To be called once the stages are made."""
    stages: tuple[ScoreStage, ...] = ()


@dataclass
class _Sources:
    """All sources, by subject and scorer."""

    of: dict[tuple[str, str], _Source] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Scorer -> why it cannot be asked."""


def score(
    subjects: Sequence[Subject], asked: Sequence[str], registry: Registry, maker: Maker
) -> Scores:
    """Score all images of all subjects by every scorer.

    Scores of a run are taken from its result files, as long as their scorer is the one that scores
    the others; else its images are scored again from the store.

    Args:
        subjects: what is compared.
        asked: specs of scorers; () for those that all subjects, all of runs, have in common.
        registry: where scorers are looked up.
        maker: makes the stages.

    Raises:
        BenchError: no scorer could score all, one is unknown or cannot be loaded, or images that
            are to be scored are not there.
    """
    common = _in_common(subjects)
    if not (asked or common):
        raise BenchError(_ask_for_scorers(subjects))
    known: dict[str, Mapping[str, Any]] = {}
    built: dict[str, Scorer] = {}
    for text in asked or common:
        if text in common:
            known[text] = common[text]
            continue
        scorer = registry.build("scorers", text)
        name = spec_text(scorer)
        known[name] = common[name] if name in common else plain(registry.describe(scorer))
        if name not in common:
            built[name] = scorer
    sources = _Sources()
    for subject in subjects:
        _plan(sources, subject, known, built, registry, maker)
    failures = dict(sources.failures)
    failed = _made(sources, maker)
    for (_, name), source in sources.of.items():
        for stage in source.stages:
            if stage.key in failed:
                failures.setdefault(name, failed[stage.key])
    done = [name for name in known if name not in failures]
    if not done:
        raise BenchError("; ".join(dict.fromkeys(failures.values())))
    held = {n for n, scorer in built.items() if is_held_out(type(scorer))}
    held |= {n for subject in subjects for n in subject.held_out}
    return Scores(
        scorers={name: known[name] for name in done},
        values=tuple({n: sources.of[s.name, n].read() for n in done} for s in subjects),
        held_out=tuple(sorted(held & set(done))),
        failures=tuple(dict.fromkeys(failures.values())),
    )


def _in_common(subjects: Sequence[Subject]) -> dict[str, Mapping[str, Any]]:
    """Scorers that have scored all subjects already, each the same for all; described."""
    found: dict[str, Mapping[str, Any]] | None = None
    for subject in subjects:
        if subject.row is None:
            return {}
        own = {
            name: plain(scorer)
            for name, scorer in subject.row.evaluation.scorers.items()
            if all(name in part.scores for part in subject.row.evaluations)
        }
        found = own if found is None else {n: d for n, d in found.items() if own.get(n) == d}
    return found or {}


def _ask_for_scorers(subjects: Sequence[Subject]) -> str:
    rows = [s.row for s in subjects if s.row is not None]
    if len(rows) == len(subjects):
        lists = (
            f"{s.name} by {listed(sorted(s.row.evaluation.scorers))}" for s in subjects if s.row
        )
        return f"no scorer has scored all of them: {'; '.join(lists)}; name scorers with --scorers"
    other = next(s.name for s in subjects if s.row is None)
    names = sorted({name for row in rows for name in row.evaluation.scorers})
    hint = f", e.g. {','.join(names)}" if names else "; `bench plugins` lists them"
    return f"{other} is not scored yet: say with --scorers by what{hint}"


def _plan(
    sources: _Sources,
    subject: Subject,
    known: Mapping[str, Mapping[str, Any]],
    built: Mapping[str, Scorer],
    registry: Registry,
    maker: Maker,
) -> None:
    """Add where one subject's scores come from."""
    if subject.cell is not None:
        for name in known:
            sources.of[subject.name, name] = _sampled(subject, name, maker.store)
        return
    missing = dict(built)
    if subject.row is not None:
        for name, described in known.items():
            if _has(subject, name, described):
                sources.of[subject.name, name] = _Source(partial(_filed, subject, name))
                missing.pop(name, None)
    if not missing:
        return
    images, orders = _images(subject, next(iter(missing)), known, maker.store)
    stages, failures = image_scores.plan(
        images, missing, registry, maker.store, maker.progress, maker.world
    )
    for name, reason in failures.items():
        sources.failures.setdefault(name, reason)
    for name, stage in stages.items():
        read = partial(_arranged, stage, orders, maker.store)
        sources.of[subject.name, name] = _Source(read, (stage,))


def _has(subject: Subject, name: str, described: Mapping[str, Any]) -> bool:
    row = subject.row
    return (
        row is not None
        and all(name in part.scores for part in row.evaluations)
        and plain(row.evaluation.scorers[name]) == described
    )


def _filed(subject: Subject, name: str) -> tuple[Floats, ...]:
    """From the result file, in the order of the subject's parts."""
    assert subject.row is not None
    by_set = {part.prompt_set: part for part in subject.row.evaluations}
    return tuple(
        np.array(by_set[part.prompt_set].scores[name]).reshape(len(part.texts), len(part.seeds))
        for part in subject.parts
    )


def _sampled(subject: Subject, name: str, store: Store) -> _Source:
    cell = subject.cell
    assert cell is not None
    stages = [[cell.scores[p.prompt_set, seed, name] for seed in p.seeds] for p in subject.parts]

    def read() -> tuple[Floats, ...]:
        return tuple(np.stack([_read(stage, store) for stage in some], axis=1) for some in stages)

    return _Source(read, tuple(stage for some in stages for stage in some))


def _read(stage: ScoreStage, store: Store) -> Floats:
    values: Floats = read_scores(store.path(stage.name, stage.key))
    return values


def _arranged(stage: ScoreStage, orders: Sequence[Integers], store: Store) -> tuple[Floats, ...]:
    values = _read(stage, store)
    return tuple(values[order] for order in orders)


def _images(
    subject: Subject, name: str, known: Mapping[str, Mapping[str, Any]], store: Store
) -> tuple[ImageSet, list[Integers]]:
    """The images to score, and for each part their positions [prompts, images of a prompt]."""
    if subject.images is not None:
        return subject.images, [subject.order]
    files = image_files(subject, store.root)
    if files is None:
        raise BenchError(_not_scored(subject, name, known, store.root))
    paths: list[Path] = []
    texts: list[str] = []
    groups: list[Mapping[str, str]] = []
    orders: list[Integers] = []
    for part, own in zip(subject.parts, files, strict=True):
        start = len(paths)
        paths += own
        texts += [text for text in part.texts for _ in part.seeds]
        groups += [of for of in part.groups for _ in part.seeds]
        order = start + np.arange(len(own), dtype=np.int64)
        orders.append(order.reshape(len(part.texts), len(part.seeds)))
    images = ImageSet(
        source=Path(subject.given),
        names=[path.name for path in paths],
        prompts=texts,
        groups=groups,
        files=paths,
    )
    return images, orders


def image_files(subject: Subject, store: Path) -> list[list[Path]] | None:
    """The files of a run's images, a list a part in the order of scores; None if one is gone."""
    assert subject.row is not None
    by_set = {part.prompt_set: part for part in subject.row.evaluations}
    files = []
    for part in subject.parts:
        names = image_paths(by_set[part.prompt_set])
        paths = [store / name for name in names]
        if not all(name and path.is_file() for name, path in zip(names, paths, strict=True)):
            return None
        files.append(paths)
    return files


def _not_scored(
    subject: Subject, name: str, known: Mapping[str, Mapping[str, Any]], store: Path
) -> str:
    row = subject.row
    assert row is not None
    if name in row.evaluation.scorers and any(name in part.scores for part in row.evaluations):
        what = differences(row.evaluation.scorers[name], known[name])
        why = f"was scored by another {name}: {listed(what, 3)}" if what else f"lacks {name}"
    else:
        why = f"has no scores of {name}, only of {listed(sorted(row.evaluation.scorers))}"
    return (
        f"{subject.given}: {subject.name} {why}; its images are not in the store {store}, where "
        f"they could be scored: say with --store where its run kept them, or run it again"
    )


def _made(sources: _Sources, maker: Maker) -> Mapping[str, str]:
    """Make all stages; key -> why one failed."""
    stages: dict[str, Stage] = {}
    for source in sources.of.values():
        for stage in source.stages:
            stages |= {each.key: each for each in (*stage.inputs, stage)}
    # Sampling first, then scorer by scorer, so that each is loaded once.
    order = sorted(
        stages.values(), key=lambda s: (isinstance(s, ScoreStage), getattr(s, "spec", ""))
    )
    here = maker.status(order)
    missing = planning.unavailable_reasons(order, here.finished)
    if missing:
        raise BenchError("; ".join(missing))
    return maker.make(order, here).failures
