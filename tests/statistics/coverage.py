"""Measure what docs/statistics.md says: `python -m tests.statistics.coverage`.

It takes a quarter of an hour on one core; `python -m tests.statistics.coverage 100 null` measures
one table with 100 boards a cell.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr, ndtri, stdtrit
from scipy.stats import binom

from bench.statistics import model
from tests.statistics.simulation import (
    SEED,
    Board,
    Floats,
    Share,
    World,
    boards,
    covered,
    rankings,
    share,
)

PROMPTS = (50, 320, 1632, 3200)
SEEDS = (1, 2, 3, 5)
SEED_SDS = (0.0, 0.02, 0.05)
TIES = (0.0, 0.1, 0.5)
NULL = (0.5, 0.5)
BOARDS = 400
"""A cell, of five methods each."""


def cells(prompts: int, seeds: int, seed_sd: float) -> list[World]:
    """Worlds that differ in ties and duplicates."""
    return [
        World(prompts=prompts, seeds=seeds, seed_sd=seed_sd, ties=ties, duplicates=duplicates)
        for ties, duplicates in product(TIES, (False, True))
    ]


def grid_table(count: int) -> Iterator[str]:
    """Coverage of the interval, over true rates from 40 to 60%."""
    yield "| prompts | train seeds | seed sd 0 | 2 points | 5 points |"
    yield "|---|---|---|---|---|"
    for prompts, seeds in product(PROMPTS, SEEDS):
        found = [
            _span(
                [
                    share(covered(world, _fewer(count, prompts)))
                    for world in cells(prompts, seeds, sd)
                ]
            )
            for sd in SEED_SDS
        ]
        yield f"| {prompts} | {seeds} | " + " | ".join(found) + " |"


def _fewer(count: int, prompts: int) -> int:
    """Half of the boards where prompts are many, for the sake of time."""
    return count if prompts <= 320 else count // 2


def null_table(count: int) -> Iterator[str]:
    """How often the printed test of one method rejects, where its true rate is one half."""
    yield "| prompts | train seeds | seed sd 0 | 2 points | 5 points |"
    yield "|---|---|---|---|---|"
    for prompts, seeds in product(PROMPTS, SEEDS[1:]):
        found = []
        for sd in SEED_SDS:
            worlds = [
                World(prompts=prompts, seeds=seeds, seed_sd=sd, ties=ties, rates=NULL)
                for ties in (0.0, 0.5)
            ]
            found.append(_span([share(~covered(world, count)) for world in worlds]))
        yield f"| {prompts} | {seeds} | " + " | ".join(found) + " |"


def edge_table(count: int) -> Iterator[str]:
    """Coverage near 100%."""
    rates = (0.95, 0.99, 0.999)
    yield "| prompts | train seeds | " + " | ".join(f"{100 * r:g}%" for r in rates) + " |"
    yield "|---|---|---|---|---|"
    for prompts, seeds in product(PROMPTS, SEEDS):
        found = [
            _percent(share(covered(near_certain(prompts, seeds, rate), count))) for rate in rates
        ]
        yield f"| {prompts} | {seeds} | " + " | ".join(found) + " |"


def near_certain(prompts: int, seeds: int, rate: float) -> World:
    """Rates up to a quarter nearer to 100%, or farther, so that no grid of counts decides."""
    aside = (1 - rate) / 4
    return World(
        prompts=prompts, seeds=seeds, rates=(rate - aside, rate + aside), seed_sd=0.02, ties=0.1
    )


def family_table(count: int) -> Iterator[str]:
    """Five methods, the base and all pairs: any error at all, of tests and of rank sets."""
    yield "| prompts | train seeds | seed sd | any false positive | a pair alone | all intervals hold | all ranks in their sets |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|"
    for prompts, seeds, sd in ((320, 2, 0.05), (320, 3, 0.02), (320, 5, 0.05), (1632, 3, 0.02)):
        wrong, single = false_positives(
            World(prompts=prompts, seeds=seeds, seed_sd=sd, rates=NULL), count
        )
        hold, ranks = simultaneous(World(prompts=prompts, seeds=seeds, seed_sd=sd), count)
        yield (
            f"| {prompts} | {seeds} | {100 * sd:g} | "
            + " | ".join(_percent(each) for each in (wrong, single, hold, ranks))
            + " |"
        )


def false_positives(world: World, count: int, seed: int | None = None) -> tuple[Share, Share]:
    """Where nothing differs: boards with anything separated, and unadjusted tests of pairs."""
    family, single = [], []
    for _, found in rankings(world, count, seed):
        p_values = [pair.adjusted_p for pair in found.pairs]
        p_values += [standing.adjusted_p for standing in found.standings]
        family.append(any(p is not None and p < 0.05 for p in p_values))
        single.append(
            [pair.rate.p_value is not None and pair.rate.p_value < 0.05 for pair in found.pairs]
        )
    return share(family), share(single)


def simultaneous(world: World, count: int, seed: int | None = None) -> tuple[Share, Share]:
    """Boards all of whose head-to-head intervals, and all of whose rank sets, hold the truth."""
    intervals, ranks = [], []
    for board, found in rankings(world, count, seed):
        true = head_to_head(world, board)
        intervals.append(
            all(
                p.rate.low <= value <= p.rate.high
                for p, value in zip(found.pairs, true, strict=True)
            )
        )
        strengths = np.append(board.methods, 0.5)
        sets = [*(standing.rank_set for standing in found.standings), found.base_rank_set]
        ranks.append(
            all(
                low <= 1 + (strengths > own).sum()
                and len(strengths) - (strengths < own).sum() <= high
                for (low, high), own in zip((s for s in sets if s), strengths, strict=True)
            )
        )
    return share(intervals), share(ranks)


def head_to_head(world: World, board: Board) -> Floats:
    """[pairs]: true win rates between methods without ties, over train seeds and prompts."""
    nodes = (np.arange(100) + 0.5) / 100
    between = math.sqrt(2 * (1 - world.shared))
    mu = []
    for rate in board.methods:
        if world.seed_sd:
            nu = 0.25 / world.seed_sd**2 - 1
            mu.append(ndtri(betaincinv(rate * nu, (1 - rate) * nu, nodes)))
        else:
            mu.append(np.full(1, ndtri(rate)))
    return np.array(
        [
            ndtr((mu[i][:, None] - mu[j]) / between).mean()
            for i in range(len(mu))
            for j in range(i + 1, len(mu))
        ]
    )


def naive_table(count: int) -> Iterator[str]:
    """What others print, as intervals of the method, and their tests where it equals the base."""
    yield "| prompts | train seeds | seed sd | z over all comparisons | bootstrap of prompts and seeds | sign test rejects | this model |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|"
    for prompts, seeds, sd in ((3200, 1, 0.02), (3200, 3, 0.02), (320, 3, 0.05), (1632, 5, 0.05)):
        world = World(prompts=prompts, seeds=seeds, seed_sd=sd)
        null = World(prompts=prompts, seeds=seeds, seed_sd=sd, rates=NULL)
        found = [
            _percent(share(held(world, z_interval, count))),
            _percent(share(held(world, bootstrap, count // 5))),
            _percent(share([sign_tests(board) for board in boards(null, count)])),
            _percent(share(covered(world, count))) if seeds > 1 else "no claim",
        ]
        yield f"| {prompts} | {seeds} | {100 * sd:g} | " + " | ".join(found) + " |"


def held(
    world: World,
    interval: Callable[[Floats], tuple[float, float]],
    count: int,
    seed: int | None = None,
) -> npt.NDArray[np.bool_]:
    """[boards, methods]: whether an interval of [train seeds, prompts] holds the method's rate."""
    held = []
    for board in boards(world, count, seed):
        ends = [interval(each) for each in board.outcomes]
        held.append(
            [low <= true <= high for (low, high), true in zip(ends, board.methods, strict=True)]
        )
    return np.array(held)


def z_interval(outcomes: Floats) -> tuple[float, float]:
    """As if every comparison were a draw of its own."""
    reach = 1.96 * float(outcomes.std()) / math.sqrt(outcomes.size)
    return float(outcomes.mean()) - reach, float(outcomes.mean()) + reach


def bootstrap(outcomes: Floats, draws: int = 1000) -> tuple[float, float]:
    """Percentiles over resamples of prompts and of train seeds (Owen 2007)."""
    random = np.random.default_rng(SEED)
    rows, columns = (_resamples(n, draws, random) for n in outcomes.shape)
    low, high = np.quantile(((rows @ outcomes) * columns).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _resamples(n: int, draws: int, random: np.random.Generator) -> Floats:
    """[draws, n]: the weight of each of n units in each resample."""
    cells = random.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=draws * n).reshape(draws, n) / n


def sign_tests(board: Board) -> list[bool]:
    """Whether wins against losses over prompts differ from a fair coin's at 5%, a method each."""
    lead = np.sign(board.outcomes.mean(axis=1) - 0.5)
    wins, losses = (lead > 0).sum(axis=1), (lead < 0).sum(axis=1)
    tails = 2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5)
    return list(tails < 0.05)


def few_table(count: int) -> Iterator[str]:
    """What two train seeds cannot do: coverage where pooling helps little, or misleads."""
    yield "| board | train seeds | all methods | the last method |"
    yield "|---|---|---|---|"
    for words, seeds, methods, unequal in (
        ("one method", 2, 1, 1.0),
        ("one method", 3, 1, 1.0),
        ("two methods", 2, 2, 1.0),
        ("five, the last one's seed sd three times the others'", 2, 5, 3.0),
        ("five, the last one's seed sd three times the others'", 3, 5, 3.0),
        ("five, the last one's seed sd three times the others'", 5, 5, 3.0),
    ):
        world = World(prompts=1632, seeds=seeds, methods=methods, seed_sd=0.02, unequal=unequal)
        found = covered(world, count)
        yield f"| {words} | {seeds} | {_percent(share(found))} | {_percent(share(found[:, -1]))} |"


def exact_table(_: int) -> Iterator[str]:
    """Coverage of one training without ties between 90 and 100%: computed, not simulated."""
    yield "| prompts | least | mean | Clopper-Pearson: mean | Wilson: least |"
    yield "|---|---|---|---|---|"
    for prompts in PROMPTS:
        wins = np.arange(prompts + 1)
        ours = _coverage(wins, *_of_one_training(prompts))
        clopper = _coverage(
            wins,
            np.nan_to_num(betaincinv(np.maximum(wins, 1), prompts - wins + 1, 0.025)) * (wins > 0),
            np.where(
                wins < prompts, betaincinv(wins + 1, np.maximum(prompts - wins, 1), 0.975), 1.0
            ),
        )
        wilson = _coverage(wins, *_wilson(wins / prompts, prompts))
        found = (ours.min(), ours.mean(), clopper.mean(), wilson.min())
        yield f"| {prompts} | " + " | ".join(f"{100 * each:.1f}" for each in found) + " |"


def _of_one_training(prompts: int) -> tuple[Floats, Floats]:
    """The model's interval for each number of wins."""
    design = model.design([str(row) for row in range(prompts)], ["set"] * prompts)
    won = np.tri(prompts + 1, prompts, -1)
    rates = [model.win_rate(model.components(row[None, :, None], design), None) for row in won]
    return np.array([rate.low for rate in rates]), np.array([rate.high for rate in rates])


def _wilson(share: Floats, prompts: int) -> tuple[Floats, Floats]:
    z = float(ndtri(0.975))
    centre = (share + z**2 / (2 * prompts)) / (1 + z**2 / prompts)
    reach = np.sqrt(share * (1 - share) / prompts + z**2 / (4 * prompts**2))
    reach *= z / (1 + z**2 / prompts)
    return centre - reach, centre + reach


def _coverage(wins: npt.NDArray[np.int_], low: Floats, high: Floats) -> Floats:
    """How often intervals hold each of 4,000 true rates between 90 and 100%."""
    true = 0.9 + 0.1 * (np.arange(4000) + 0.5) / 4000
    return np.array([binom.pmf(wins, wins[-1], p)[(low <= p) & (p <= high)].sum() for p in true])


def df_table(_: int) -> Iterator[str]:
    """Coverage by two rules of degrees of freedom, over true shares of the trainings' variance."""
    yield "| f | Satterthwaite, k = 2 | here, k = 2 f / (f + 2) |"
    yield "|---|---|---|"
    random = np.random.default_rng(SEED)
    for f in (1, 2, 4, 10):
        found: tuple[list[float], list[float]] = ([], [])
        for true in (0.001, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99):
            # Of many prompts, whose own variance is known.
            trainings = true * random.chisquare(f, 400_000) / f
            variance = trainings + 1 - true
            satterthwaite = f / (trainings / variance) ** 2
            ours = model.degrees_of_freedom(1 - true, np.inf, trainings, f)
            for df, shares in zip((satterthwaite, ours), found, strict=True):
                reach = stdtrit(df, 0.975) * np.sqrt(variance)
                shares.append(100 * float((2 * ndtr(reach) - 1).mean()))
        yield f"| {f} | " + " | ".join(f"{min(s):.1f}-{max(s):.1f}" for s in found) + " |"


def _percent(one: Share) -> str:
    return f"{100 * one.value:.1f}"


def _span(shares: Sequence[Share]) -> str:
    """Mean over cells, and the extremes."""
    values = [100 * each.value for each in shares]
    return f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


TABLES = {
    "grid": grid_table,
    "null": null_table,
    "edge": edge_table,
    "family": family_table,
    "naive": naive_table,
    "few": few_table,
    "exact": exact_table,
    "df": df_table,
}

if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else BOARDS
    for name in sys.argv[2:] or TABLES:
        print(f"\n{name}: {count} boards a cell, level {100 * model.LEVEL:g}%\n")
        for line in TABLES[name](count):
            print(line, flush=True)
