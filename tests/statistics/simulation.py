"""A world whose truth is known, from which whole boards are drawn, to see what intervals do.

The score of an image less that of the base's image of the same prompt and noise is

    z[m,s,p] = mu[m,s] + g[text p] + h[m, text p] + k[m,s, text p] + noise[m,s,p],

and 0, a tie, within a band around 0. g is what a prompt does to every method (the base's own image
among it), h what it does to one method whatever the train seed, k what it does to one training.
They are normal, and their variances and the noise's sum to 1, so that the true win rate of a
training is [Phi(mu - band) + Phi(mu + band)] / 2. That rate is drawn from a beta distribution
whose mean is the method's rate and whose sd is the train seeds': the truth of both estimands is
known exactly, and no rate leaves [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from bench.leaderboard.ranking import Player, Ranking, rank
from bench.statistics import model
from bench.statistics.model import Components, WinRate

Floats = npt.NDArray[np.float64]

SEED = 20250602
_AT_ONCE = 16_000_000
"""Scores drawn at once: 64 MB."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What boards are drawn from.

    The default variances give prompts 41% of an outcome's variance; the methods of
    leaderboards/shapes have 13 to 72%.
    """

    prompts: int
    seeds: int
    methods: int = 5
    rates: tuple[float, float] = (0.4, 0.6)
    """Each method's true win rate is uniform between these."""
    seed_sd: float = 0.0
    """Sd of the trainings' true rates around their method's, where that is one half; elsewhere
    smaller, as a binomial's sd is."""
    unequal: float = 1.0
    """The last method's `seed_sd` is this many times the others'."""
    ties: float = 0.0
    """Share of ties at a win rate of one half."""
    duplicates: bool = False
    """A fifth of the texts stand there 2 to 5 times, with other noise each time."""
    prompt_sets: int = 1
    """With two, the first holds a quarter of the rows, and is 4 points harder than the second."""
    shared: float = 0.3
    """Variance of g."""
    own: float = 0.3
    """Variance of h."""
    training: float = 0.1
    """Variance of k where texts repeat; else it is one with the noise."""

    def texts(self) -> tuple[list[str], list[str]]:
        """[prompts] texts and the names of their prompt sets."""
        random = np.random.default_rng(SEED)
        texts: list[str] = []
        while len(texts) < self.prompts:
            times = int(random.integers(2, 6)) if random.random() < 0.2 else 1
            texts += [f"prompt {len(texts)}"] * (times if self.duplicates else 1)
        first = self.prompts // 4 if self.prompt_sets == 2 else 0
        names = ["first"] * first + ["second"] * (self.prompts - first)
        return texts[: self.prompts], names


@dataclass(frozen=True)
class Board:
    """One draw, and what is true of it."""

    scores: Floats
    """[methods, train seeds, prompts], the base's being 0."""
    methods: Floats
    """[methods]: true win rate over train seeds and prompts, every prompt set alike."""
    trainings: Floats
    """[methods, train seeds]: true win rate of each training over prompts."""

    @property
    def outcomes(self) -> Floats:
        """[methods, train seeds, prompts] against the base, each 0, 0.5 or 1."""
        return 0.5 * (1.0 + np.sign(self.scores))


def boards(world: World, count: int, seed: int = SEED) -> Iterator[Board]:
    """Draw boards."""
    random = np.random.Generator(np.random.SFC64(seed))
    at_once = max(1, _AT_ONCE // (world.methods * world.seeds * world.prompts))
    for start in range(0, count, at_once):
        yield from _draw(world, min(at_once, count - start), random)


def _draw(world: World, count: int, random: np.random.Generator) -> Iterator[Board]:
    texts, names = world.texts()
    text = np.unique(texts, return_inverse=True)[1]
    set_of = np.unique(names, return_inverse=True)[1]
    shape = (count, world.methods, world.seeds)
    methods = random.uniform(*world.rates, size=shape[:2])
    sd = np.full(world.methods, world.seed_sd)
    sd[-1] *= world.unequal
    trainings = _beta(methods[..., None], sd[None, :, None], shape, random)
    band = float(ndtri((1 + world.ties) / 2))
    harder = np.array([-0.02, 0.02]) if world.prompt_sets == 2 else np.zeros(1)
    mu = _margin(trainings[..., None] + harder, band).astype(np.float32)

    def effects(variance: float, *of: int) -> npt.NDArray[np.float32]:
        drawn = random.standard_normal((*of, text.max() + 1), dtype=np.float32)
        return (math.sqrt(variance) * drawn)[..., text]

    z = effects(world.shared, count, 1, 1) + effects(world.own, count, world.methods, 1)
    noise = 1 - world.shared - world.own
    z = z + mu[..., set_of]
    if world.duplicates:
        noise -= world.training
        z += effects(world.training, *shape)
    z += math.sqrt(noise) * random.standard_normal((*shape, world.prompts), dtype=np.float32)
    z[np.abs(z) <= band] = 0.0
    for each in range(count):
        yield Board(z[each].astype(np.float64), methods[each], trainings[each])


def _beta(mean: Floats, sd: Floats, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Rates of a given mean in [0, 1] and variance 4 sd^2 mean (1 - mean)."""
    if not sd.any():
        return np.broadcast_to(mean, shape)
    nu = 0.25 / sd**2 - 1
    return random.beta(mean * nu, (1 - mean) * nu, size=shape)


def _margin(rate: Floats, band: float) -> Floats:
    """The mu at which a training has a rate, for a band: by a table, to 1e-6."""
    mu = np.linspace(-8, 8, 40_001)
    return np.interp(rate, (ndtr(mu - band) + ndtr(mu + band)) / 2, mu)


@dataclass(frozen=True)
class Share:
    """How often something happened."""

    value: float
    error: float
    """Its Monte-Carlo standard error; methods of a board share prompts, so boards are counted."""

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.error:.1f}%"


def share(happened: npt.ArrayLike) -> Share:
    """Of [boards] or [boards, methods] whether it happened."""
    each = np.asarray(happened, np.float64)
    each = each.reshape(len(each), -1).mean(axis=1)
    return Share(float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))))


def components(
    world: World, count: int, seed: int = SEED
) -> Iterator[tuple[Board, list[Components]]]:
    """Boards, and what the model makes of each method against the base."""
    design = model.design(*world.texts())
    for board in boards(world, count, seed):
        yield board, [model.components(each[:, :, None], design) for each in board.outcomes]


def truth(board: Board) -> Floats:
    """[methods]: what the model's estimand is with so many train seeds."""
    return board.methods if board.trainings.shape[1] > 1 else board.trainings[:, 0]


def covered(world: World, count: int, seed: int = SEED) -> npt.NDArray[np.bool_]:
    """[boards, methods]: whether the model's interval holds the truth that it speaks of."""
    return np.array(
        [
            _within(model.win_rates(parts), truth(board))
            for board, parts in components(world, count, seed)
        ]
    )


def _within(rates: list[WinRate], true: Floats) -> list[bool]:
    return [rate.low <= value <= rate.high for rate, value in zip(rates, true, strict=True)]


def rankings(world: World, count: int, seed: int = SEED) -> Iterator[tuple[Board, Ranking]]:
    """Boards, and how they rank."""
    design = model.design(*world.texts())
    base = np.zeros((world.prompts, 1))
    for board in boards(world, count, seed):
        players = [
            Player(f"method {i}", "", {s: row[:, None] for s, row in enumerate(each)})
            for i, each in enumerate(board.scores)
        ]
        yield board, rank(players, base, design)
