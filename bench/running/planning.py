"""From a recipe to the ordered stages that it needs, each with its key. No torch, no writing.

A stage's key hashes what changes its bytes: resolved plugins with their options, fingerprints and
code (`bench.registry.source_code`), the inputs' keys, and the stage's own version. Batch sizes
chosen for speed, paths and devices are left out.
"""

from __future__ import annotations

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
    Method,
    Plugin,
    PreferenceSet,
    Prompt,
    PromptSet,
    Scorer,
    is_baseline,
    is_held_out,
)
from bench.lib.errors import BenchError, PluginError
from bench.lib.reading import exists
from bench.recipe.prompt_table import PromptTable, merged, stratified
from bench.recipe.recipe import Recipe
from bench.registry.location import baseline, named_or_path, reader
from bench.registry.registry import (
    Reading,
    Registry,
    classes_affecting_results,
    spec_text,
)
from bench.running.plan import Cell, Plan
from bench.stages.describe import DescribeStage
from bench.stages.encode import EncodeStage
from bench.stages.generated import GeneratedPairs
from bench.stages.inspect import InspectStage
from bench.stages.pairs import PairsStage
from bench.stages.rewards import RewardsStage
from bench.stages.sample import SampleStage
from bench.stages.score import ScoreStage
from bench.stages.stage import Stage
from bench.stages.train import TrainStage

STAGES: Mapping[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        PairsStage,
        InspectStage,
        EncodeStage,
        RewardsStage,
        TrainStage,
        SampleStage,
        DescribeStage,
        ScoreStage,
    )
}
"""Every kind of stage, by name, in the order of the flow."""
_NUMBER = re.compile(r"((?:(?<==)-)?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")


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
        if recipe.pairs is not None:
            # Named, it is there and can be read, whatever needs it.
            builder.pairs  # noqa: B018
        builder.scorers = {
            spec_text(s): s for s in (registry.build("scorers", t) for t in recipe.scorers)
        }
        builder.tables = builder.prompt_tables(recipe.prompts, recipe.limit)
        cells = tuple(builder.cells())
        # Pairs that would be generated are of no use where nothing is trained on them.
        labelling = builder.labelling if any(cell.train for cell in cells) else {}
        return builder.plan(cells, _ordered(cells, labelling))


def make_generation(
    recipe: Recipe, registry: Registry, *, download: bool = True
) -> tuple[Plan, PairsStage]:
    """The stages that make the recipe's generated pairs, and nothing else; the last makes them.

    Raises:
        BenchError: as `make`, or the recipe has no `generate` block.
    """
    builder = _Builder(recipe, registry, download)
    stage = builder.generated_stage()
    return builder.plan((), tuple(builder.labelling.values())), stage


def unavailable_reasons(stages: Sequence[Stage], finished: frozenset[str]) -> tuple[str, ...]:
    """Why scorers that are still to be run cannot be loaded, each with its remedy."""
    needed = (
        stage.scorer
        for stage in stages
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

    scorers: Mapping[str, Scorer] = MappingProxyType({})
    tables: Sequence[PromptTable] = ()

    def __init__(self, recipe: Recipe, registry: Registry, download: bool) -> None:
        self.recipe, self.registry, self.download = recipe, registry, download
        self.absent: set[str] = set()
        self.backbone = self._backbone(recipe.backbone)
        label_scorers = [registry.build("scorers", text) for text in recipe.label_scorers]
        self._label_scorers: dict[str, Scorer] = {spec_text(s): s for s in label_scorers}
        self.pool = tuple(self._label_scorers)
        for name in self.pool:
            self._label_scorer(name)
        self.labelling: dict[str, Stage] = {}
        self._described: dict[int, tuple[Plugin, dict[str, Any]]] = {}
        self._code: dict[type[Plugin], str] = {}

    def _backbone(self, text: str) -> Backbone:
        """A backbone of which plans and estimates may read all that they ask."""
        backbone: Backbone = named_or_path(self.registry, "backbones", text)
        for name in ("family", "resolution", "seconds_per_evaluation", "size"):
            contracts.fact(backbone, name, self.registry.called(backbone))
        return backbone

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
            absent=frozenset(self.absent),
        )

    def _describe(self, plugin: Plugin) -> dict[str, Any]:
        """What a plugin is, asked once: fingerprints may read whole files of weights."""
        # The plugin is kept as well, so that its id stays its own.
        known = self._described.setdefault(id(plugin), (plugin, {}))[1]
        if not known:
            known |= self.registry.describe(plugin)
            if isinstance(plugin, Scorer):
                for name in ("seconds_per_image", "tower"):
                    contracts.fact(plugin, name, self.registry.called(plugin))
        return known

    def _key_data(self, plugin: Plugin) -> dict[str, Any]:
        """As `Registry.key_data`, with each plugin described and each class's code read once."""
        classes = list(classes_affecting_results(plugin))
        for cls in classes:
            if cls not in self._code:
                self._code[cls] = self.registry.code(cls)
        return {"plugin": self._describe(plugin), "code": [self._code[cls] for cls in classes]}

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

    @cached_property
    def pairs(self) -> PreferenceSet:
        """The recipe's pairs, planning to make them where they are to be generated."""
        name = self.recipe.pairs
        if name is None:
            raise BenchError("the recipe names no preference pairs (pairs: ...)")
        if name == GeneratedPairs.name:
            return self.generated()
        pairs: PreferenceSet = named_or_path(self.registry, "preference_sets", name)
        return pairs

    def generated(self) -> GeneratedPairs:
        """The pairs that the run itself makes."""
        stage = self.generated_stage()
        return GeneratedPairs(
            stage=stage,
            pair_count=stage.pair_count,
            scorers=tuple(stage.rewards),
            reader=lambda path: reader(self.registry, "preference_sets", path),
        )

    def generated_stage(self) -> PairsStage:
        """Sampling and scoring of the images that pairs are formed from, and the forming."""
        config = self.recipe.generate
        if config is None:
            raise BenchError(
                "the pairs are to be generated, but the recipe has no `generate` block that says "
                "from which prompts (generate.prompts)"
            )
        table = merged(self.prompt_tables(config.prompts, config.limit))
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
        backbones = [self._backbone(text) for text in texts]
        base = self.registry.build("methods", baseline(self.registry))
        samples = tuple(
            self._keep(self._sample(spec_text(backbone), base, None, None, table, seed, backbone))
            for backbone in backbones
            for seed in range(config.images_per_prompt)
        )
        stage = PairsStage(
            label=f"form pairs from images of {table.name}",
            plugins={"label_with": self._key_data(aggregation)},
            prompts=table,
            models=tuple(spec_text(b) for b in backbones for _ in range(config.images_per_prompt)),
            samples=samples,
            rewards={
                name: tuple(self._keep(self._score(s, name, scorer)) for s in samples)
                for name, scorer in scorers.items()
            },
            label_with=aggregation,
            form=config.form,
            sampling=self.recipe.sampling,
        )
        return self._keep(stage)

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
        return _short(self.recipe.pairs or "")

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
        stage = self.pairs.stage if isinstance(self.pairs, GeneratedPairs) else None
        if not isinstance(stage, PairsStage) or config is None:
            return describe(self.pairs)
        sampling = self.recipe.sampling
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
                resolved = contracts.resolved(method, contracts.fact(self.backbone, "family"))
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
                samples[table.name, image_seed], name, scorer
            )
            for name, scorer in self.scorers.items()
            for table in self.tables
            for image_seed in self.recipe.sampling.image_seeds
        }
        descriptions = {table.name: self._describe_images(samples, table) for table in self.tables}
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
            descriptions=descriptions,
        )

    def _refuse_held_out(
        self, who: str, specs: Sequence[str], readings: Sequence[Reading]
    ) -> dict[str, str]:
        """Spec -> plugin name of the scorers that a plugin reads, or pairs were labelled by.

        Args:
            who: for the message.
            specs: those that the plugin itself names; those that are no scorers here are kept.
            readings: what its options hold.

        Raises:
            BenchError: one of them is held out.
        """
        sources: dict[str, tuple[type[Scorer] | None, str]] = {}
        for r in readings:
            sources.setdefault(r.spec, (r.scorer, f"its option {r.option}"))
        for spec in specs:
            sources.setdefault(spec, (self.registry.scorer_class(spec), "its own word"))
        for spec, (scorer, source) in sources.items():
            if scorer is not None and is_held_out(scorer):
                raise BenchError(
                    f"{who} reads the scorer {spec!r} by {source}, but that scorer is "
                    f"held out: it may rate finished images, never take part in making them; "
                    f"name another"
                )
        return {spec: spec if cls is None else cls.name for spec, (cls, _) in sources.items()}

    @cached_property
    def _inspect(self) -> InspectStage:
        stage = InspectStage(
            label=f"inspect {self._pairs_name}",
            plugins={"pairs": self._pairs_data},
            pairs=self.pairs,
            pair_count=self.set_count,
            filters=self.recipe.filters,
            max_broken_share=self.recipe.max_broken_share,
        )
        return self._keep(stage)

    @cached_property
    def _encode(self) -> EncodeStage:
        stage = EncodeStage(
            label=f"encode {self._pairs_name} for {self.backbone.name}",
            plugins={"backbone": self._key_data(self.backbone)},
            backbone=self.backbone,
            inspect=self._inspect,
            pairs=self.pairs,
            pair_count=self.pair_count,
            framing=self.recipe.framing,
        )
        return self._keep(stage)

    def _rewards(self, name: str) -> RewardsStage:
        scorer = self._label_scorers[name] = self._label_scorer(name)
        stage = RewardsStage(
            label=f"label {self._pairs_name} with {name}",
            plugins={"scorer": self._key_data(scorer)},
            inspect=self._inspect,
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
        training = self.recipe.training
        for block, given in (("pairs", self.recipe.pairs), ("training", training)):
            if given is None:
                raise BenchError(
                    f"recipe {self.recipe.name!r}: method {name!r} is trained, but there is no "
                    f"`{block}`; give it, or name only methods that are not trained"
                )
        assert training is not None
        return TrainStage(
            label=f"train {name}, seed {seed}",
            plugins={"method": self._key_data(method)},
            backbone=self.backbone,
            method=method,
            seed=seed,
            encode=self._encode,
            rewards={scorer: self._rewards(scorer) for scorer in labelling},
            training=training,
            expected_nfe=contracts.method_nfe(method, training.steps * training.batch_size),
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
        plugins = {} if train else {"backbone": self._key_data(backbone)}
        if not train and not is_baseline(method):
            plugins["method"] = self._key_data(method)
        who = name if seed is None else f"{name}, seed {seed}"
        which = f", image seed {image_seed}" if image_seed else ""
        return SampleStage(
            label=f"sample {table.name} from {who}{which}",
            plugins=plugins,
            backbone=backbone,
            method=method,
            train=train,
            prompts=table,
            image_seed=image_seed,
            sampling=self.recipe.sampling,
            reads=reads,
        )

    def _describe_images(
        self, samples: Mapping[tuple[str, int], SampleStage], table: PromptTable
    ) -> DescribeStage:
        seeds = sorted(self.recipe.sampling.image_seeds)
        of_table = tuple(samples[table.name, seed] for seed in seeds)
        who = of_table[0].label.removeprefix("sample ").partition(", image seed ")[0]
        return DescribeStage(label=f"describe images of {who}", samples=of_table)

    def _score(self, sample: SampleStage, name: str, scorer: Scorer) -> ScoreStage:
        return ScoreStage(
            label=sample.label.replace("sample ", f"score with {name}: ", 1),
            plugins={"scorer": self._key_data(scorer)},
            images=sample,
            prompts=sample.prompts.texts,
            prompts_name=sample.prompts.name,
            scorer=scorer,
            spec=name,
        )


def _baseline_first(named: tuple[str, Method]) -> tuple[bool, list[str | float], str]:
    name, method = named
    parts = _NUMBER.split(name)
    # What stands between numbers alternates with them, so like is compared with like.
    natural = [float(part) if i % 2 else part for i, part in enumerate(parts)]
    return not method.baseline, natural, name


def _ordered(cells: Sequence[Cell], labelling: Mapping[str, Stage]) -> tuple[Stage, ...]:
    """Labelling, then each cell's training and sampling, then what is said of the images.

    That is their descriptions, then all scoring by scorer.
    """
    stages: dict[str, Stage] = dict(labelling)
    for cell in cells:
        if cell.train:
            stages[cell.train.key] = cell.train
        stages |= {s.key: s for s in cell.samples.values()}
    stages |= {s.key: s for cell in cells for s in cell.descriptions.values()}
    by_scorer = sorted(
        (s for cell in cells for s in cell.scores.values()), key=lambda s: s.scorer.name
    )
    stages |= {s.key: s for s in by_scorer}
    return tuple(stages.values())


def _placeholders(name: str, count: int) -> tuple[Prompt, ...]:
    """Stand for the prompts of a set that is not here."""
    return tuple(Prompt(f"prompt {i} of {name}", {}) for i in range(count))


def _short(text: str) -> str:
    """What a named or located set is called in tables: of every path its last part."""
    if exists(Path(text)):
        return Path(text).name
    return re.sub(r"(?<==)[^,\[\]]*/(?=[^/,\[\]]+)", "", text)
