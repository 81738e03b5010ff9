"""From a recipe to the ordered stages that it needs, each with its key. No torch, no writing.

A stage's key hashes what changes its bytes: resolved plugins with their options and
fingerprints, the inputs' keys, and the stage's own version. Batch sizes chosen for speed, paths
and devices are left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import BenchError
from bench.leaderboard.results import PromptTable
from bench.protocols import Backbone, Kind, Method, Plugin, PreferenceSet, PromptSet, Scorer
from bench.recipe import Recipe
from bench.registry import Registry, noun, spec_text
from bench.store import content_key

VERSIONS = {"inspect": 1, "encode": 1, "rewards": 1, "train": 1, "sample": 1, "score": 1}
"""Raise a stage's number when its code changes the bytes that it writes."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artefact to make. `inputs` are the keys of the stages that it reads."""

    key: str
    label: str
    inputs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name in the store: "encode", "train", ..."""
        return type(self).__name__.removesuffix("Stage").lower()

    @property
    def work(self) -> int:
        """How much there is to do, in the unit that progress counts."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """Expected network passes."""
        return 0


@dataclass(frozen=True, kw_only=True)
class _PairsStage(Stage):
    """Reads a whole preference set; work: pairs."""

    pairs: PreferenceSet
    pair_count: int

    @property
    def work(self) -> int:
        return self.pair_count


@dataclass(frozen=True, kw_only=True)
class InspectStage(_PairsStage):
    """Which pairs have two images that can be decoded."""


@dataclass(frozen=True, kw_only=True)
class EncodeStage(_PairsStage):
    """Latent moments and prompt conditions of a preference set."""

    inspect: str
    """Key of the inspection that says which pairs are usable."""


@dataclass(frozen=True, kw_only=True)
class RewardsStage(_PairsStage):
    """Rewards of both images of every pair by one scorer; work: images."""

    inspect: str
    """Key of the inspection that says which pairs are usable."""
    scorer: Scorer

    @property
    def work(self) -> int:  # noqa: D102
        return 2 * self.pair_count


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """One cell's training; work: optimiser steps."""

    method: Method
    seed: int
    pairs: PreferenceSet
    encode: str
    rewards: Mapping[str, str]
    """Scorer spec -> key of its rewards."""
    steps: int
    expected_passes: int

    @property
    def work(self) -> int:  # noqa: D102
        return self.steps

    @property
    def passes(self) -> int:  # noqa: D102
        return self.expected_passes


@dataclass(frozen=True, kw_only=True)
class SampleStage(Stage):
    """One image a prompt from one cell; work: images."""

    checkpoint: str | None
    """Key of the training; None samples the untouched backbone."""
    prompts: PromptTable
    image_seed: int
    steps: int

    @property
    def work(self) -> int:  # noqa: D102
        return len(self.prompts.texts)

    @property
    def passes(self) -> int:
        """Two a step: with and without the prompt."""
        return 2 * self.steps * self.work


@dataclass(frozen=True, kw_only=True)
class ScoreStage(Stage):
    """One scorer's scores of one sampling; work: images."""

    sample: str
    prompts: PromptTable
    scorer: Scorer

    @property
    def work(self) -> int:  # noqa: D102
        return len(self.prompts.texts)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method trained with one seed, and where its results will lie."""

    method: str
    """The method's canonical spec as the user wrote it."""
    resolved: Method
    seed: int | None
    """None: untrained, so the same for all seeds."""
    in_loop: tuple[str, ...]
    """Scorers whose rewards labelled its pairs."""
    train: TrainStage | None
    samples: Mapping[tuple[str, int], SampleStage]
    """(prompt set, image seed) -> its sampling."""
    scores: Mapping[tuple[str, int, str], ScoreStage]
    """(prompt set, image seed, scorer) -> its scoring."""

    @property
    def label(self) -> str:
        """For people: "smpo, seed 0"."""
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run will do, in order."""

    recipe: Recipe
    backbone: Backbone
    pairs: PreferenceSet
    pairs_name: str
    scorers: Mapping[str, Scorer]
    prompts: tuple[PromptTable, ...]
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    described: Mapping[str, Any]
    """Resolved plugins as data, for result files."""


def make(recipe: Recipe, registry: Registry) -> Plan:
    """Resolve every name of the recipe and lay out the stages.

    Raises:
        BenchError: unknown names, options out of range, files that cannot be read, a held-out
            scorer among those that label.
    """
    backbone: Backbone = registry.build("backbones", recipe.backbone)
    pairs: PreferenceSet = _named_or_path(registry, "preference_sets", recipe.pairs)
    scorers = {spec_text(s): s for s in (registry.build("scorers", t) for t in recipe.scorers)}
    pool = tuple(spec_text(registry.build("scorers", t)) for t in recipe.label_scorers)
    tables = _prompt_tables(registry, recipe)
    builder = _Builder(recipe, registry, backbone, pairs, scorers, pool, tables)
    cells = tuple(builder.cells())
    stages = _ordered(cells, builder.labelling)
    described = {
        "backbone": registry.describe(backbone),
        "pairs": registry.describe(pairs),
        "scorers": {name: registry.describe(s) for name, s in scorers.items()},
        "methods": {c.method: registry.describe(c.resolved) for c in cells},
    }
    return Plan(
        recipe=recipe,
        backbone=backbone,
        pairs=pairs,
        pairs_name=_short(recipe.pairs),
        scorers=scorers,
        prompts=tables,
        cells=cells,
        stages=stages,
        described=described,
    )


_Labelling = TypeVar("_Labelling", InspectStage, EncodeStage, RewardsStage)


class _Builder:
    """Holds what all cells share while they are laid out."""

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        backbone: Backbone,
        pairs: PreferenceSet,
        scorers: Mapping[str, Scorer],
        pool: tuple[str, ...],
        tables: Sequence[PromptTable],
    ) -> None:
        self.recipe, self.registry = recipe, registry
        self.backbone, self.pairs, self.scorers = backbone, pairs, scorers
        self.pool, self.tables = pool, tables
        self.labelling: dict[str, Stage] = {}

    @cached_property
    def pair_count(self) -> int:
        return self.pairs.count()

    @cached_property
    def _pairs_name(self) -> str:
        return _short(self.recipe.pairs)

    @cached_property
    def _backbone_data(self) -> dict[str, Any]:
        return self.registry.describe(self.backbone)

    @cached_property
    def _pairs_data(self) -> dict[str, Any]:
        return self.registry.describe(self.pairs)

    def cells(self) -> Iterator[Cell]:
        """The untouched backbone first, then methods by spec and seeds in order."""
        methods = {}
        for text in self.recipe.methods:
            method = self.registry.build("methods", text)
            methods[spec_text(method)] = method
        untrained = {n: m for n, m in methods.items() if m.passes(1) is None}
        if not untrained:
            name = _baseline(self.registry)
            untrained = {name: self.registry.build("methods", name)}
        for name, method in sorted(untrained.items()):
            yield self._cell(name, method, None)
        for name, method in sorted(methods.items()):
            if name not in untrained:
                for seed in sorted(set(self.recipe.seeds)):
                    yield self._cell(name, method.resolved(self.backbone.family), seed)

    def _cell(self, name: str, method: Method, seed: int | None) -> Cell:
        in_loop = method.label_scorers(self.pool)
        train = None if seed is None else self._train(name, method, seed, in_loop)
        samples = {
            (table.name, image_seed): self._sample(name, seed, train, table, image_seed)
            for table in self.tables
            for image_seed in self.recipe.sampling.image_seeds
        }
        scores = {
            (table.name, image_seed, scorer): self._score(
                samples[table.name, image_seed], table, scorer
            )
            for scorer in self.scorers
            for table in self.tables
            for image_seed in self.recipe.sampling.image_seeds
        }
        return Cell(
            method=name,
            resolved=method,
            seed=seed,
            in_loop=in_loop,
            train=train,
            samples=samples,
            scores=scores,
        )

    def _inspect(self) -> InspectStage:
        data = {
            "stage": "inspect",
            "version": VERSIONS["inspect"],
            "pairs": self._pairs_data,
            "max_broken_share": self.recipe.max_broken_share,
        }
        stage = InspectStage(
            key=content_key(data),
            label=f"inspect {self._pairs_name}",
            pairs=self.pairs,
            pair_count=self.pair_count,
        )
        return self._keep(stage)

    def _encode(self) -> EncodeStage:
        usable = self._inspect().key
        data = {
            "stage": "encode",
            "version": VERSIONS["encode"],
            "backbone": self._backbone_data,
            "pairs": usable,
        }
        stage = EncodeStage(
            key=content_key(data),
            label=f"encode {self._pairs_name} for {self.backbone.name}",
            inputs=(usable,),
            inspect=usable,
            pairs=self.pairs,
            pair_count=self.pair_count,
        )
        return self._keep(stage)

    def _rewards(self, name: str) -> RewardsStage:
        scorer: Scorer = self.registry.build("scorers", name)
        if scorer.held_out:
            raise BenchError(
                f"scorer {name!r} is held out: it may score images but never label pairs; "
                f"take it out of label_scorers"
            )
        usable = self._inspect().key
        data = {
            "stage": "rewards",
            "version": VERSIONS["rewards"],
            "scorer": self.registry.describe(scorer),
            "pairs": usable,
        }
        stage = RewardsStage(
            key=content_key(data),
            label=f"label {self._pairs_name} with {name}",
            inputs=(usable,),
            inspect=usable,
            pairs=self.pairs,
            pair_count=self.pair_count,
            scorer=scorer,
        )
        return self._keep(stage)

    def _keep(self, stage: _Labelling) -> _Labelling:
        """The stage, once for all cells that need it."""
        self.labelling.setdefault(stage.key, stage)
        return stage

    def _train(self, name: str, method: Method, seed: int, in_loop: Sequence[str]) -> TrainStage:
        encode = self._encode()
        rewards = {scorer: self._rewards(scorer).key for scorer in in_loop}
        training = self.recipe.training
        budget = training.model_dump(exclude={"micro_batch_size", "checkpoint_every"})
        data = {
            "stage": "train",
            "version": VERSIONS["train"],
            "method": self.registry.describe(method),
            "seed": seed,
            "encode": encode.key,
            "rewards": dict(sorted(rewards.items())),
            "budget": budget,
        }
        expected = method.passes(training.steps * training.batch_size)
        return TrainStage(
            key=content_key(data),
            label=f"train {name}, seed {seed}",
            inputs=(encode.key, *rewards.values()),
            method=method,
            seed=seed,
            pairs=self.pairs,
            encode=encode.key,
            rewards=rewards,
            steps=training.steps,
            expected_passes=expected or 0,
        )

    def _sample(
        self,
        name: str,
        seed: int | None,
        train: TrainStage | None,
        table: PromptTable,
        image_seed: int,
    ) -> SampleStage:
        sampling = self.recipe.sampling
        data = {
            "stage": "sample",
            "version": VERSIONS["sample"],
            "weights": train.key if train else self._backbone_data,
            "prompts": content_key({"texts": table.texts}),
            "image_seed": image_seed,
            "scheduler": sampling.scheduler,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
        }
        who = name if seed is None else f"{name}, seed {seed}"
        return SampleStage(
            key=content_key(data),
            label=f"sample {table.name} from {who}",
            inputs=(train.key,) if train else (),
            checkpoint=train.key if train else None,
            prompts=table,
            image_seed=image_seed,
            steps=sampling.steps,
        )

    def _score(self, sample: SampleStage, table: PromptTable, name: str) -> ScoreStage:
        scorer = self.scorers[name]
        data = {
            "stage": "score",
            "version": VERSIONS["score"],
            "images": sample.key,
            "scorer": self.registry.describe(scorer),
        }
        return ScoreStage(
            key=content_key(data),
            label=sample.label.replace("sample ", f"score with {name}: ", 1),
            inputs=(sample.key,),
            sample=sample.key,
            prompts=table,
            scorer=scorer,
        )


def _ordered(cells: Sequence[Cell], labelling: Mapping[str, Stage]) -> tuple[Stage, ...]:
    """Labelling, then each cell's training and sampling, then all scoring by scorer."""
    stages: dict[str, Stage] = dict(labelling)
    for cell in cells:
        if cell.train:
            stages[cell.train.key] = cell.train
        stages |= {s.key: s for s in cell.samples.values()}
    by_scorer = sorted(
        (s for cell in cells for s in cell.scores.values()), key=lambda s: s.scorer.name
    )
    stages |= {s.key: s for s in by_scorer}
    return tuple(stages.values())


def _baseline(registry: Registry) -> str:
    names = [e.cls.name for e in registry.entries("methods")]
    for name in names:
        entry = registry.get("methods", name)
        if getattr(entry.cls, "baseline", False):
            return name
    raise BenchError("no method is marked as the untouched backbone (`baseline = True`)")


def _prompt_tables(registry: Registry, recipe: Recipe) -> tuple[PromptTable, ...]:
    tables = []
    for text in recipe.prompts:
        prompt_set: PromptSet = _named_or_path(registry, "prompt_sets", text)
        prompts = prompt_set.load()
        if not prompts:
            raise BenchError(f"prompt set {text!r} holds no prompt")
        table = PromptTable.of(_short(text), prompts)
        tables.append(stratified(table, recipe.limit) if recipe.limit else table)
    names = [t.name for t in tables]
    if len(set(names)) < len(names):
        raise BenchError(f"two prompt sets share one name: {', '.join(names)}")
    return tuple(tables)


def _short(text: str) -> str:
    """What a named or located set is called in tables: a path's last part."""
    return Path(text).name if Path(text).exists() else text


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
    return PromptTable(
        name=table.name,
        texts=tuple(table.texts[i] for i in chosen),
        groups=tuple(table.groups[i] for i in chosen),
    )


def _named_or_path(registry: Registry, kind: Kind, text: str) -> Any:
    """A plugin by its spec; an existing path goes to the plugin that reads such files."""
    path = Path(text)
    known = {e.cls.name for e in registry.entries(kind)}
    if text in known or not (path.exists() or "/" in text):
        return registry.build(kind, text)
    if not path.exists():
        raise BenchError(f"{noun(kind)} {text!r}: there is no such file or folder")
    readers = [e.cls for e in registry.entries(kind) if _reads(e.cls, path)]
    if not readers:
        raise BenchError(f"{noun(kind)} {text!r}: no plugin reads such files")
    return readers[0](path=str(path))  # type: ignore[call-arg]


def _reads(cls: type[Plugin], path: Path) -> bool:
    return issubclass(cls, PromptSet | PreferenceSet) and cls.reads(path)
