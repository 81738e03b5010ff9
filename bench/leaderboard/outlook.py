"""What a study can show and what it takes: differences of win rates, passes and hours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.leaderboard import compared
from bench.leaderboard.names import shortened
from bench.leaderboard.ranking import against, duels
from bench.leaderboard.results import (
    CellResult,
    Cost,
    load_cells,
    load_prompts,
    record_path,
)
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from bench.statistics.power import (
    Spread,
    Study,
    effective_prompts,
    half_width,
    head_to_head,
    measured,
)

_SEEDS = (1, 2, 3, 5, 10)
"""Shown beside those that are planned."""
_ENOUGH_SEEDS = 3
"""From so many on, more prompts always help; also what halving starts from where one is planned."""
_MORE_PROMPTS = 4
"""So many times the prompts would halve a difference that prompts alone decide."""
_MOST_TRAIN_SEEDS = 20
"""Among these the cheapest number is sought."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Work."""

    nfe: float = 0.0
    """Denoiser evaluations."""
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Both."""
        return Spent(nfe=self.nfe + other.nfe, seconds=self.seconds + other.seconds)

    def times(self, factor: float) -> Spent:
        """So much of it."""
        return Spent(nfe=factor * self.nfe, seconds=factor * self.seconds)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What parts of a study take."""

    once: Spent
    """Whatever the number of prompts and train seeds."""
    images: Spent
    """The images of the base, and of what is not trained, on all prompts."""
    training: Spent
    """One train seed of every method."""
    sampling: Spent
    """Its images, on all prompts."""
    rough: bool
    """By stated rates, at least in part, rather than by measured ones."""

    def of(self, prompts: float, seeds: int) -> Spent:
        """Of so many times the prompts, and train seeds."""
        by_seed = self.training + self.sampling.times(prompts)
        return self.once + self.images.times(prompts) + by_seed.times(seeds)


@dataclass(frozen=True, kw_only=True)
class Option:
    """Prompts and train seeds that one could take."""

    train_seeds: int
    prompts: int | None
    """None: as many as serve best, which no number goes below."""
    against_base: float | None
    """Smallest difference of win rates that is found with 80% power; None where none is."""
    two_methods: float | None
    planned: bool
    spent: Spent | None


@dataclass(frozen=True, kw_only=True)
class Halved:
    """What finding half of the difference against the base takes."""

    train_seeds: int
    """Those of now; three where one is planned, which finds nothing."""
    difference: float
    """The half."""
    cheapest: Option | None
    """Of all prompts and train seeds that find it; None where no sensible number does."""
    by_prompts: Option | None
    """With no more train seeds; None where no number of prompts does."""
    by_train_seeds: Option | None
    """With no more prompts; None where no sensible number does."""
    prompts_floor: float
    """What no number of prompts goes below, with the train seeds of now."""
    train_seeds_floor: float
    """What no number of train seeds goes below, with the prompts of now."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A study before its scores, or what one like a board could show."""

    title: str
    methods: int
    """Trained ones."""
    prompts: int
    """Distinct texts."""
    effective: float
    """Equally weighted prompts that tell as much."""
    seeds: int
    """Train seeds of each method."""
    against_base: Spread
    two_methods: Spread
    basis: str
    """Where the spreads are from, a sentence."""
    costs: Costs

    @cached_property
    def base(self) -> Study | None:
        """All methods against the base; None where nothing is trained."""
        return Study(spread=self.against_base, methods=self.methods) if self.methods else None

    @cached_property
    def pairs(self) -> Study | None:
        """All pairs of methods; None where there is none."""
        if self.methods < 2:
            return None
        return Study(spread=self.two_methods, methods=self.methods, pairs=True)

    @property
    def checkpoint(self) -> float:
        """Half of the interval of one checkpoint's win rate."""
        return half_width(self.against_base, self.effective)

    def option(self, prompts: float, seeds: int) -> Option:
        """What so many times the prompts and train seeds show."""
        effective = prompts * self.effective

        def found(study: Study | None) -> float | None:
            return _sensible(study and seeds > 1 and study.detectable(effective, seeds))

        return Option(
            train_seeds=seeds,
            prompts=math.ceil(round(prompts * self.prompts, 6)),
            against_base=found(self.base),
            two_methods=found(self.pairs),
            planned=prompts == 1 and seeds == self.seeds,
            spent=self.costs.of(prompts, seeds),
        )

    def best(self, seeds: int) -> Option:
        """What no number of prompts goes below."""
        return Option(
            train_seeds=seeds,
            prompts=None,
            against_base=_sensible(self.base and self.base.prompts_floor(seeds)),
            two_methods=_sensible(self.pairs and self.pairs.prompts_floor(seeds)),
            planned=False,
            spent=None,
        )

    def options(self) -> list[Option]:
        """Some that are worth a thought, by prompts, then train seeds."""
        seeds = sorted({*_SEEDS, self.seeds})
        many = [n for n in seeds if n >= _ENOUGH_SEEDS or 1 < n == self.seeds]
        few = [self.option(1, n) for n in seeds]
        more = [self.option(_MORE_PROMPTS, n) for n in many]
        return [*few, *more, *(self.best(n) for n in many)]

    def halved(self) -> Halved | None:
        """What half of the difference against the base takes; None where none is found now."""
        now = self.seeds if self.seeds > 1 else _ENOUGH_SEEDS
        found = self.option(1, now).against_base
        if found is None or self.base is None:
            return None
        half = found / 2
        ways = [way for n in range(2, _MOST_TRAIN_SEEDS + 1) if (way := self._finding(half, n))]
        seeds = self.base.seeds_needed(half, self.effective)
        return Halved(
            train_seeds=now,
            difference=half,
            cheapest=min(ways, key=_cost, default=None),
            by_prompts=self._finding(half, now),
            by_train_seeds=None if seeds is None else self.option(1, seeds),
            prompts_floor=self.base.prompts_floor(now),
            train_seeds_floor=self.base.seeds_floor(self.effective),
        )

    def with_spreads(self, other: Outlook) -> Outlook:
        """The same study with spreads that another has measured."""
        return replace(
            self,
            against_base=other.against_base,
            two_methods=other.two_methods,
            basis=f"{other.basis} ({other.title})",
        )

    def _finding(self, difference: float, seeds: int) -> Option | None:
        """As many prompts as find a difference with so many train seeds."""
        assert self.base is not None
        prompts = self.base.prompts_needed(difference, seeds)
        return None if prompts is None else self.option(prompts / self.effective, seeds)


def _sensible(difference: float | Study | None) -> float | None:
    """A difference that a win rate can have; None where there is none."""
    return difference if isinstance(difference, float) and difference < 0.5 else None


def _cost(option: Option) -> tuple[float, float]:
    assert option.spent is not None
    return option.spent.seconds, option.spent.nfe


def of_board(board: Path, assumed: Spread) -> list[Outlook]:
    """What each section of a board could show, by the spreads and costs that it has measured.

    Outcomes are those of the scorers that are held out for every method of the section, as its
    ranking has them.

    Args:
        board: its folder.
        assumed: the spread against the base where no method has two train seeds.

    Raises:
        BenchError: a file is not valid, a base is missing, or nothing was trained.
    """
    cells = [cell for cell in load_cells(board).values() if isinstance(cell, CellResult)]
    prompts = load_prompts(board)
    sections: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.training:
            sections.setdefault(cell.protocol.digest, []).append(cell)
    if not sections:
        raise BenchError(
            f"{board}: nothing on it was trained, and only a method of two train seeds or more "
            f"can be told from others"
        )
    return [_of_section(board, mine, cells, prompts, assumed) for mine in sections.values()]


def _of_section(
    board: Path,
    trained: Sequence[CellResult],
    cells: Sequence[CellResult],
    prompts: Mapping[str, PromptTable],
    assumed: Spread,
) -> Outlook:
    first = trained[0]
    base = next(
        (c for c in cells if c.base and c.evaluation.digest == first.evaluation.digest), None
    )
    if base is None:
        raise BenchError(
            f"{board}: there is no result of the untouched backbone {first.backbone!r} that was "
            f"evaluated as {first.method!r} was"
        )
    design = compared.design_of(compared.prompt_tables(board, base, prompts))
    effective = effective_prompts(design)
    cells_of: dict[tuple[str, str], dict[Path, CellResult]] = {}
    for cell in trained:
        own = cells_of.setdefault((cell.method, cell.variant), {})
        own[record_path(board, cell)] = cell
    methods = {name: compared.compare(own, base) for name, own in cells_of.items()}
    seeds = min(len(entry.cells) for entry in methods.values())
    scorers = compared.common_held_out(methods.values())
    players, theirs = compared.players(methods, compared.untouched(base), scorers)
    parts = against(players, theirs, design)
    if not scorers:
        basis = f"no scorer is held out for every method; {assumption(assumed)}"
    elif not any(part.seeds > 1 for part in parts):
        basis = f"no method has two train seeds; {assumption(assumed)}"
    else:
        basis, assumed = f"measured by {', '.join(scorers)}", measured(parts, effective)
    pairs = list(duels(players, design).values())
    several = any(part.seeds > 1 for part in pairs)
    return Outlook(
        title=f"{board}: {shortened([first.backbone])[first.backbone]}, pairs of {first.pairs}",
        methods=len(methods),
        prompts=design.distinct,
        effective=effective,
        seeds=seeds,
        against_base=assumed,
        two_methods=measured(pairs, effective) if several else head_to_head(assumed),
        basis=basis,
        costs=_costs(trained, base, len(methods)),
    )


def assumption(spread: Spread) -> str:
    """What is assumed where nothing is measured, a clause."""
    return (
        f"assumed: at worst {100 * spread.prompt:.3g} points between prompts, and "
        f"{100 * spread.seed:.3g} between trainings of a method"
    )


def _costs(trained: Sequence[CellResult], base: CellResult, methods: int) -> Costs:
    """By cell, averaged over the train seeds, times the methods."""

    def images(cost: Cost) -> Spent:
        return Spent(nfe=cost.sample_nfe, seconds=cost.sample_seconds + cost.score_seconds)

    training, sampling = Spent(), Spent()
    for cell in trained:
        cost = cell.cost
        training += Spent(nfe=cost.train_nfe, seconds=cost.label_seconds + cost.train_seconds)
        sampling += images(cost)
    share = methods / len(trained)
    return Costs(
        once=Spent(),
        images=images(base.cost),
        training=training.times(share),
        sampling=sampling.times(share),
        rough=False,
    )
