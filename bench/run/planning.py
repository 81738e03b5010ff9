"""From a recipe to the ordered stages that it needs, each with its key. No torch, no writing.

A stage's key hashes what changes its bytes: resolved plugins with their options, fingerprints and
code (`bench.registry.source_code`), the inputs' keys, and the stage's own version. Batch sizes
chosen for speed, paths and devices are left out.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from bench.api import contracts, scorer_loads
from bench.api.kinds import (
    Aggregation,
    Backbone,
    Kind,
    Method,
    ModelSize,
    Plugin,
    PreferenceSet,
    Prompt,
    PromptSet,
    Scorer,
    is_baseline,
    is_held_out,
    noun,
)
from bench.leaderboard.results import PromptTable
from bench.lib.errors import BenchError, PluginError
from bench.lib.files import content_key
from bench.lib.reading import exists, refuse_special
from bench.lib.wording import listed, quoted
from bench.recipe.recipe import Recipe
from bench.registry.plugin_classes import shown
from bench.registry.registry import (
    DISABLED_VARIABLE,
    OWN_PACKAGE,
    Reading,
    Registry,
    classes_affecting_results,
    spec_text,
)
from bench.registry.spec_language import Spec
from bench.stages.records import (
    Cell,
    EncodeStage,
    GeneratedPairs,
    InspectStage,
    PairsStage,
    Plan,
    RewardsStage,
    SampleStage,
    ScoreStage,
    Stage,
    TrainStage,
)

VERSIONS = {
    "pairs": 2,
    "inspect": 2,
    "encode": 2,
    "rewards": 1,
    "train": 1,
    "sample": 1,
    "score": 1,
}
"""Raise a stage's number when its code changes the bytes that it writes."""
_NUMBER = re.compile(r"((?:(?<==)-)?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
SPEED_ONLY = {"micro_batch_size", "gradient_checkpointing", "compile", "checkpoint_every"}
"""Keys of the recipe's `training` block that change no number beyond float error."""


def make(recipe: Recipe, registry: Registry, *, download: bool = True) -> Plan:
    """Resolve every name of the recipe and lay out the stages.

    Args:
        recipe: what to compare.
        registry: where names are looked up.
        download: False takes the published count of every set that is not here. Such a plan is
            for printing: it has placeholders for prompts, and no stage of it can run.

    Raises:
        BenchError: unknown names, options out of range, files that cannot be read, a held-out
            scorer that a method reads, two methods that are the untouched backbone.
    """
    with scorer_loads.only("while the run is planned", ()):
        builder = _Builder(recipe, registry, download)
        builder.pairs = builder.preference_set()
        builder.scorers = {
            spec_text(s): s for s in (registry.build("scorers", t) for t in recipe.scorers)
        }
        builder.tables = builder.prompt_tables(recipe.prompts, recipe.limit)
        cells = tuple(builder.cells())
        return builder.plan(cells, _ordered(cells, builder.labelling))


def make_generation(
    recipe: Recipe, registry: Registry, *, download: bool = True
) -> tuple[Plan, PairsStage]:
    """The stages that make the recipe's generated pairs, and nothing else; the last makes them.

    Raises:
        BenchError: as `make`, or the recipe has no `generate` block.
    """
    builder = _Builder(recipe, registry, download)
    stage = builder.generated().stage
    return builder.plan((), tuple(builder.labelling.values())), stage


def unavailable_reasons(plan: Plan, finished: frozenset[str]) -> tuple[str, ...]:
    """Why scorers that are still to be run cannot be loaded, each with its remedy."""
    needed = (
        stage.scorer
        for stage in plan.stages
        if isinstance(stage, RewardsStage | ScoreStage) and stage.key not in finished
    )
    return tuple(
        dict.fromkeys(reason for scorer in needed if (reason := _unavailable_reason(scorer)))
    )


def _unavailable_reason(scorer: Scorer) -> str:
    try:
        return contracts.unavailable_reason(scorer)
    except PluginError as error:
        # As good a reason as any why it cannot be loaded.
        return str(error)


_Labelling = TypeVar("_Labelling", bound=Stage)


class _Builder:
    """Holds what all cells share while they are laid out."""

    pairs: PreferenceSet
    scorers: Mapping[str, Scorer] = MappingProxyType({})
    tables: Sequence[PromptTable] = ()

    def __init__(self, recipe: Recipe, registry: Registry, download: bool) -> None:
        self.recipe, self.registry, self.download = recipe, registry, download
        self.absent: set[str] = set()
        self.backbone: Backbone = named_or_path(registry, "backbones", recipe.backbone)
        self._check_backbone()
        label_scorers = [registry.build("scorers", text) for text in recipe.label_scorers]
        self._label_scorers: dict[str, Scorer] = {spec_text(s): s for s in label_scorers}
        self.pool = tuple(self._label_scorers)
        for name in self.pool:
            self._label_scorer(name)
        self.labelling: dict[str, Stage] = {}
        self._described: dict[int, tuple[Plugin, dict[str, Any]]] = {}
        self._code: dict[type[Plugin], str] = {}

    def plan(self, cells: tuple[Cell, ...], stages: tuple[Stage, ...]) -> Plan:
        """The plan of what has been laid out."""
        return Plan(
            recipe=self.recipe,
            backbone=self.backbone,
            pairs_name=self._pairs_name,
            scorers=self.scorers,
            prompts=tuple(self.tables),
            cells=cells,
            stages=stages,
            described={
                "backbone": self._describe(self.backbone),
                "scorers": {name: self._describe(s) for name, s in self.scorers.items()},
                "methods": {c.method: self._describe(c.resolved) for c in cells},
                "pairs": self._pairs_described() if any(c.train for c in cells) else {},
                "label_scorers": {
                    stage.key: self._describe(stage.scorer)
                    for stage in stages
                    if isinstance(stage, RewardsStage)
                },
            },
            pairs_at=lambda path: _reader(self.registry, "preference_sets", path),
            absent=frozenset(self.absent),
        )

    def _describe(self, plugin: Plugin) -> dict[str, Any]:
        """What a plugin is, asked once: fingerprints may read whole files of weights."""
        # The plugin is kept as well, so that its id stays its own.
        known = self._described.setdefault(id(plugin), (plugin, {}))[1]
        if not known:
            known |= self.registry.describe(plugin)
            if isinstance(plugin, Scorer):
                self._check_seconds(plugin, "seconds_per_image")
        return known

    def _key_data(self, plugin: Plugin) -> dict[str, Any]:
        """As `Registry.key_data`, with each plugin described and each class's code read once."""
        classes = list(classes_affecting_results(plugin))
        for cls in classes:
            if cls not in self._code:
                self._code[cls] = self.registry.code(cls)
        return {"plugin": self._describe(plugin), "code": [self._code[cls] for cls in classes]}

    def _check_backbone(self) -> None:
        """What plans and estimates read of it, before they do."""
        backbone, asking = self.backbone, self.registry.asking
        with asking(backbone, "`family`"):
            family: object = backbone.family
        if not isinstance(family, str):
            raise self.registry.wrong(backbone, f"`family` is {shown(family)}, not text")
        with asking(backbone, "`resolution`"):
            resolution: object = backbone.resolution
        if not isinstance(resolution, int) or resolution < 1:
            raise self.registry.wrong(
                backbone, f"`resolution` is {shown(resolution)}, not a number of pixels"
            )
        self._check_seconds(backbone, "seconds_per_evaluation")
        with asking(backbone, "`size`"):
            size: object = backbone.size
        if not isinstance(size, ModelSize | None):
            raise self.registry.wrong(backbone, f"`size` is {shown(size)}, not a bench.ModelSize")

    def _check_seconds(self, plugin: Plugin, name: str) -> None:
        with self.registry.asking(plugin, f"`{name}`"):
            seconds: object = getattr(plugin, name)
        good = isinstance(seconds, int | float) and 0 <= seconds < math.inf
        if not good:
            raise self.registry.wrong(plugin, f"`{name}` is {shown(seconds)}, not seconds from 0")

    def prompt_tables(self, texts: Sequence[str], limit: int | None) -> tuple[PromptTable, ...]:
        """The prompts of several sets, each cut to `limit`."""
        tables = []
        for text in texts:
            prompt_set: PromptSet = named_or_path(self.registry, "prompt_sets", text)
            name = _short(text)
            count = self._published(name, prompt_set)
            prompts = (
                contracts.prompts_of(prompt_set) if count is None else _placeholders(name, count)
            )
            if not prompts:
                raise BenchError(f"prompt set {text!r} holds no prompt")
            table = PromptTable.of(name, prompts)
            tables.append(stratified(table, limit) if limit else table)
        names = [t.name for t in tables]
        if len(set(names)) < len(names):
            raise BenchError(f"two prompt sets share one name: {', '.join(names)}")
        return tuple(tables)

    def _published(self, name: str, data: PromptSet | PreferenceSet) -> int | None:
        """The published count of a set that this plan would have to download, but may not."""
        count = None if self.download else contracts.published_count(data)
        if count is not None:
            self.absent.add(name)
        return count

    def preference_set(self) -> PreferenceSet:
        """The recipe's pairs, planning to make them where they are to be generated."""
        if self.recipe.pairs == GeneratedPairs.name:
            return self.generated()
        found: PreferenceSet = named_or_path(self.registry, "preference_sets", self.recipe.pairs)
        return found

    def generated(self) -> GeneratedPairs:
        """Sampling and scoring of the images that pairs are formed from, and the forming."""
        config = self.recipe.generate
        if config is None:
            raise BenchError(
                "the pairs are to be generated, but the recipe has no `generate` block that says "
                "from which prompts (generate.prompts)"
            )
        table = _merged(self.prompt_tables(config.prompts, config.limit))
        aggregation: Aggregation = self.registry.build("aggregations", config.label_with)
        scorers = {
            name: self._label_scorer(name)
            for name in contracts.label_scorers(aggregation, self.pool)
        }
        if not scorers:
            raise BenchError(
                f"generate.label_with: {config.label_with!r} reads no reward, and generated "
                f"images have no human label; name scorers, e.g. average[scorers=...], or give "
                f"label_scorers"
            )
        texts = config.backbones or (self.recipe.backbone,)
        backbones = [named_or_path(self.registry, "backbones", text) for text in texts]
        base = self.registry.build("methods", baseline(self.registry))
        samples = [
            self._keep(self._sample(spec_text(backbone), base, None, None, table, seed, backbone))
            for backbone in backbones
            for seed in range(config.images_per_prompt)
        ]
        scores = {
            name: tuple(self._keep(self._score(s, table, name, scorer)).key for s in samples)
            for name, scorer in scorers.items()
        }
        models = [spec_text(b) for b in backbones for _ in range(config.images_per_prompt)]
        keys = tuple(sample.key for sample in samples)
        data = {
            "stage": "pairs",
            "version": VERSIONS["pairs"],
            "prompts": table.sha256,
            "models": models,
            "samples": keys,
            "rewards": scores,
            "label_with": self._key_data(aggregation),
            "form": config.form,
        }
        stage = PairsStage(
            key=content_key(data),
            label=f"form pairs from images of {table.name}",
            inputs=(*keys, *(key for some in scores.values() for key in some)),
            prompts=table,
            models=tuple(models),
            samples=keys,
            rewards=scores,
            label_with=aggregation,
            form=config.form,
        )
        return GeneratedPairs(stage=self._keep(stage))

    @cached_property
    def set_count(self) -> int:
        return (
            contracts.pair_count(self.pairs)
            if self._published_pairs is None
            else self._published_pairs
        )

    @property
    def pair_count(self) -> int:
        return min(self.set_count, self.recipe.filters.max_pairs or self.set_count)

    @cached_property
    def _published_pairs(self) -> int | None:
        return self._published(self._pairs_name, self.pairs)

    @cached_property
    def _pairs_name(self) -> str:
        return _short(self.recipe.pairs)

    @cached_property
    def _pairs_data(self) -> dict[str, Any]:
        if isinstance(self.pairs, GeneratedPairs):
            return {"name": self.pairs.name, "fingerprint": self.pairs.fingerprint()}
        if self._published_pairs is not None:
            return {"name": self._pairs_name, "fingerprint": "absent"}
        return self._key_data(self.pairs)

    def _pairs_described(self) -> dict[str, Any]:
        """The pairs by what made them, not by how it is cached: results outlive stage keys."""
        config, describe = self.recipe.generate, self._describe
        if self._published_pairs is not None:
            return {"name": self._pairs_name, "fingerprint": "absent"}
        if not isinstance(self.pairs, GeneratedPairs) or config is None:
            return describe(self.pairs)
        stage, sampling = self.pairs.stage, self.recipe.sampling
        backbones = config.backbones or (self.recipe.backbone,)
        return {
            "name": self.pairs.name,
            "prompts": stage.prompts.sha256,
            "backbones": [
                describe(named_or_path(self.registry, "backbones", text)) for text in backbones
            ],
            "images_per_prompt": config.images_per_prompt,
            "sampling": sampling.model_dump(include={"scheduler", "steps", "guidance"}),
            "label_with": describe(stage.label_with),
            "scorers": {name: describe(self._label_scorer(name)) for name in stage.rewards},
            "form": config.form,
        }

    def cells(self) -> Iterator[Cell]:
        """The untouched backbone first, then methods by spec and seeds in order.

        Numbers in specs count as such: `[beta=500]` stands before `[beta=2000]`.
        """
        methods = {}
        for text in self.recipe.methods:
            method = self.registry.build("methods", text)
            methods[spec_text(method)] = method
        base = baseline(self.registry)
        if not any(is_baseline(method) for method in methods.values()):
            methods[base] = self.registry.build("methods", base)
        bases = [name for name, method in methods.items() if is_baseline(method)]
        if len(bases) > 1:
            raise BenchError(
                f"methods: {' and '.join(bases)} are both the untouched backbone, which every "
                f"win rate is measured against; leave one out"
            )
        for name, method in sorted(methods.items(), key=_baseline_first):
            if not contracts.trainable(method):
                yield self._cell(name, method, None)
            elif is_baseline(method):
                raise BenchError(
                    f"method {name!r} says that it is the untouched backbone, but is trained"
                )
            else:
                resolved = contracts.resolved(method, contracts.family_of(self.backbone))
                for seed in sorted(set(self.recipe.seeds)):
                    yield self._cell(name, resolved, seed)

    def _cell(self, name: str, method: Method, seed: int | None) -> Cell:
        labelling = contracts.label_scorers(method, self.pool)
        readings = tuple(self.registry.scorers_read(method, self.pool))
        read = self._refuse_held_out(f"method {name!r}", labelling, readings)
        train = None
        if seed is not None:
            needed = (r.spec for r in readings if r.how == "needed")
            labelling = tuple(dict.fromkeys((*labelling, *needed)))
            train = self._train(name, method, seed, labelling, tuple(read.values()))
            pairs = tuple(self.registry.scorers_read(self.pairs, self.pool))
            labelled_by = contracts.labelled_by(self.pairs)
            read |= self._refuse_held_out(
                f"the preference set {self._pairs_name!r}", labelled_by, pairs
            )
        if is_baseline(method) and read:
            raise BenchError(
                f"method {name!r} says that it is the untouched backbone, but reads the scorer "
                f"{next(iter(read))!r}"
            )
        samples = {
            (table.name, image_seed): self._sample(
                name, method, seed, train, table, image_seed, self.backbone, tuple(read.values())
            )
            for table in self.tables
            for image_seed in self.recipe.sampling.image_seeds
        }
        scores = {
            (table.name, image_seed, name): self._score(
                samples[table.name, image_seed], table, name, scorer
            )
            for name, scorer in self.scorers.items()
            for table in self.tables
            for image_seed in self.recipe.sampling.image_seeds
        }
        return Cell(
            method=name,
            resolved=method,
            seed=seed,
            in_loop=tuple(
                dict.fromkeys(
                    (*read, *(n for n, s in self.scorers.items() if s.name in read.values()))
                )
            ),
            train=train,
            samples=samples,
            scores=scores,
        )

    def _refuse_held_out(
        self, who: str, said: Sequence[str], readings: Sequence[Reading]
    ) -> dict[str, str]:
        """Spec -> plugin name of the scorers that a plugin reads, or pairs were labelled by.

        Args:
            who: for the message.
            said: specs that the plugin itself names; those that are no scorers here are kept.
            readings: what its options hold.

        Raises:
            BenchError: one of them is held out.
        """
        found: dict[str, tuple[type[Scorer] | None, str]] = {}
        for r in readings:
            found.setdefault(r.spec, (r.scorer, f"its option {r.option}"))
        for spec in said:
            found.setdefault(spec, (self.registry.scorer_class(spec), "its own word"))
        for spec, (scorer, source) in found.items():
            if scorer is not None and is_held_out(scorer):
                raise BenchError(
                    f"{who} reads the scorer {spec!r} by {source}, but that scorer is "
                    f"held out: it may rate finished images, never take part in making them; "
                    f"name another"
                )
        return {spec: spec if cls is None else cls.name for spec, (cls, _) in found.items()}

    @cached_property
    def _inspect(self) -> InspectStage:
        data = {
            "stage": "inspect",
            "version": VERSIONS["inspect"],
            "pairs": self._pairs_data,
            "filters": self.recipe.filters.model_dump(),
            "max_broken_share": self.recipe.max_broken_share,
        }
        stage = InspectStage(
            key=content_key(data),
            label=f"inspect {self._pairs_name}",
            inputs=(self.pairs.stage.key,) if isinstance(self.pairs, GeneratedPairs) else (),
            pairs=self.pairs,
            pair_count=self.set_count,
        )
        return self._keep(stage)

    @cached_property
    def _encode(self) -> EncodeStage:
        usable = self._inspect.key
        data = {
            "stage": "encode",
            "version": VERSIONS["encode"],
            "backbone": self._key_data(self.backbone),
            "pairs": usable,
            "framing": self.recipe.framing.model_dump(),
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
        scorer = self._label_scorers[name] = self._label_scorer(name)
        usable = self._inspect.key
        data = {
            "stage": "rewards",
            "version": VERSIONS["rewards"],
            "scorer": self._key_data(scorer),
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
            reads=(scorer.name, *(r.scorer.name for r in self.registry.scorers_read(scorer))),
        )
        return self._keep(stage)

    def _label_scorer(self, name: str) -> Scorer:
        # The pool's own object knows options that are not in its name.
        scorer = self._label_scorers.get(name) or self.registry.build("scorers", name)
        if is_held_out(type(scorer)):
            raise BenchError(
                f"scorer {name!r} is held out: it may score images but never label pairs; "
                f"take it out of label_scorers"
            )
        held = tuple(self.registry.scorers_read(scorer))
        self._refuse_held_out(f"scorer {name!r}, which labels pairs,", (), held)
        return scorer

    def _keep(self, stage: _Labelling) -> _Labelling:
        """The stage, once for all cells that need it."""
        self.labelling.setdefault(stage.key, stage)
        return stage

    def _train(
        self,
        name: str,
        method: Method,
        seed: int,
        labelling: Sequence[str],
        reads: tuple[str, ...],
    ) -> TrainStage:
        encode = self._encode
        rewards = {scorer: self._rewards(scorer).key for scorer in labelling}
        training = self.recipe.training
        budget = training.model_dump(exclude=SPEED_ONLY)
        data = {
            "stage": "train",
            "version": VERSIONS["train"],
            "method": self._key_data(method),
            "seed": seed,
            "encode": encode.key,
            "rewards": dict(sorted(rewards.items())),
            "budget": budget,
        }
        expected_nfe = contracts.method_nfe(method, training.steps * training.batch_size)
        return TrainStage(
            key=content_key(data),
            label=f"train {name}, seed {seed}",
            inputs=(encode.key, *rewards.values()),
            method=method,
            seed=seed,
            encode=encode.key,
            rewards=rewards,
            steps=training.steps,
            expected_nfe=expected_nfe,
            reads=reads,
        )

    def _sample(
        self,
        name: str,
        method: Method,
        seed: int | None,
        train: TrainStage | None,
        table: PromptTable,
        image_seed: int,
        backbone: Backbone,
        reads: tuple[str, ...] = (),
    ) -> SampleStage:
        sampling = self.recipe.sampling
        weights: Any = train.key if train else self._key_data(backbone)
        if not train and not is_baseline(method):
            weights = {"backbone": weights, "method": self._key_data(method)}
        data = {
            "stage": "sample",
            "version": VERSIONS["sample"],
            "weights": weights,
            "prompts": content_key({"texts": table.texts}),
            "image_seed": image_seed,
            "scheduler": sampling.scheduler,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
        }
        who = name if seed is None else f"{name}, seed {seed}"
        which = f", image seed {image_seed}" if image_seed else ""
        return SampleStage(
            key=content_key(data),
            label=f"sample {table.name} from {who}{which}",
            inputs=(train.key,) if train else (),
            backbone=backbone,
            method=method,
            checkpoint=train.key if train else None,
            prompts=table,
            image_seed=image_seed,
            steps=sampling.steps,
            guidance=sampling.guidance,
            reads=reads,
        )

    def _score(
        self, sample: SampleStage, table: PromptTable, name: str, scorer: Scorer
    ) -> ScoreStage:
        data = {
            "stage": "score",
            "version": VERSIONS["score"],
            "images": sample.key,
            "scorer": self._key_data(scorer),
        }
        return ScoreStage(
            key=content_key(data),
            label=sample.label.replace("sample ", f"score with {name}: ", 1),
            inputs=(sample.key,),
            sample=sample.key,
            prompts=table,
            scorer=scorer,
        )


def _baseline_first(named: tuple[str, Method]) -> tuple[bool, list[str | float], str]:
    name, method = named
    parts = _NUMBER.split(name)
    # What stands between numbers alternates with them, so like is compared with like.
    natural = [float(part) if i % 2 else part for i, part in enumerate(parts)]
    return not method.baseline, natural, name


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


def baseline(registry: Registry) -> str:
    """The name of the method that is the untouched backbone.

    Raises:
        BenchError: there is none, or more than one.
    """
    marked = [e for e in registry.entries("methods") if getattr(e.cls, "baseline", False) is True]
    # Another package's never takes the place of the project's own.
    own = [entry for entry in marked if entry.package == OWN_PACKAGE] or marked
    if len(own) > 1:
        raise BenchError(
            f"{' and '.join(f'{e.cls.name} of {e.package}' for e in own)} both say that they "
            f"are the untouched backbone; switch one off with {DISABLED_VARIABLE}=<package>"
        )
    if not own:
        raise BenchError("no method is marked as the untouched backbone (`baseline = True`)")
    return own[0].cls.name


def _placeholders(name: str, count: int) -> tuple[Prompt, ...]:
    """Stand for the prompts of a set that is not here."""
    return tuple(Prompt(f"prompt {i} of {name}", {}) for i in range(count))


def _merged(tables: Sequence[PromptTable]) -> PromptTable:
    """The distinct prompts of several sets as one."""
    groups = {text: table.groups[i] for table in tables for i, text in enumerate(table.texts)}
    return PromptTable(
        name="+".join(table.name for table in tables),
        texts=tuple(groups),
        groups=tuple(groups.values()),
    )


def _short(text: str) -> str:
    """What a named or located set is called in tables: of every path its last part."""
    if exists(Path(text)):
        return Path(text).name
    return re.sub(r"(?<==)[^,\[\]]*/(?=[^/,\[\]]+)", "", text)


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


def named_or_path(registry: Registry, kind: Kind, text: str) -> Any:
    """A plugin by its spec; an existing path goes to the plugin that reads such files."""
    known = {e.cls.name for e in registry.entries(kind)}
    named = re.split(r"[\[:]", text, maxsplit=1)[0] in known
    if named or not (exists(Path(text)) or "/" in text or Path(text).suffix):
        return registry.build(kind, text)
    return _reader(registry, kind, Path(text))


def _reader(registry: Registry, kind: Kind, path: Path) -> Any:
    if not exists(path):
        raise BenchError(
            f"{noun(kind)} {quoted(str(path))}: there is no such file or folder"
            f"{_hub_hint(registry, kind, str(path))}"
        )
    refuse_special(path)
    entries = sorted(registry.entries(kind), key=lambda e: e.package != OWN_PACKAGE)
    failures: list[BenchError] = []
    for entry in entries:
        if not issubclass(entry.cls, Backbone | PromptSet | PreferenceSet):
            continue
        try:
            with registry.asking(entry.cls, "`reads`"):
                reads = bool(entry.cls.reads(path))
        except BenchError as error:
            # It may have failed at a file that is another plugin's.
            failures.append(error)
            continue
        if reads:
            return registry.build(kind, Spec(entry.cls.name, {"path": str(path)}))
    near = (e.cls.refusal(path) for e in entries if issubclass(e.cls, Backbone))
    reason = next(filter(None, near), "no plugin reads such files")
    why = "".join(f"; {error}" for error in failures)
    raise BenchError(f"{noun(kind)} {quoted(str(path))}: {reason}{why}")


def _hub_hint(registry: Registry, kind: Kind, text: str) -> str:
    """How a Hub id is given, where the text could be one."""
    hub = [e for e in registry.entries(kind) if "revision" in e.cls.__dataclass_fields__]
    if not hub or text.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return ""
    names = listed(f"{e.cls.name}[path={text}]" for e in hub)
    return f"; a Hub id is given with the {noun(kind)} that reads it: {names}"
