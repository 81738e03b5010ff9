"""A world whose truth is known, from which whole boards are drawn, to see what intervals do.

One image beats the base's where the latent margin

    z[m,s,p] = mu[m,s] + g[text p] + h[m, text p] + k[m,s, text p] + noise[m,s,p]

is above a band around 0; within the band they tie. g is what a prompt does to every method (the
base's own image among it), h what it does to one method whatever the train seed, k what it does
to one training. They are normal, and their variances and the noise's sum to 1, so that the rate
of a training is [Phi(mu - band) + Phi(mu + band)] / 2. That rate is drawn, from a beta
distribution whose mean is the method's rate and whose sd is the train seeds': both estimands are
known exactly, and no rate leaves [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from bench.statistics import model

Floats = npt.NDArray[np.float64]

SEED = 20250602


@dataclass(frozen=True, kw_only=True)
class World:
    """What boards are drawn from.

    The default variances give prompts 41% of an outcome's variance; the methods of
    leaderboards/shapes have 13 to 72%, half of them between 29 and 59%.
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
    own: float = 0.3
    training: float = 0.1
    """Variances of g, h and k; the noise has the rest."""

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
class Boards:
    """Boards drawn from a world, with what is true of them."""

    outcomes: npt.NDArray[np.float32]
    """[boards, methods, train seeds, prompts], each 0, 0.5 or 1."""
    methods: Floats
    """[boards, methods]: true macro win rate over train seeds and prompts."""
    checkpoints: Floats
    """[boards, methods, train seeds]: true macro win rate of each training over prompts."""


def boards(world: World, count: int, seed: int = SEED, at_once: int = 0) -> Iterator[Boards]:
    """Draw `count` boards, a few at once (64 MB of outcomes unless told)."""
    random = np.random.Generator(np.random.SFC64(seed))
    values = world.methods * world.seeds * world.prompts
    at_once = at_once or max(1, 16_000_000 // values)
    for start in range(0, count, at_once):
        yield _draw(world, min(at_once, count - start), random)


def _draw(world: World, count: int, random: np.random.Generator) -> Boards:
    texts, names = world.texts()
    text = np.unique(texts, return_inverse=True)[1]
    set_of = np.unique(names, return_inverse=True)[1]
    shape = (count, world.methods, world.seeds)
    methods = random.uniform(*world.rates, size=shape[:2])
    sd = np.full(world.methods, world.seed_sd)
    sd[-1] *= world.unequal
    checkpoints = _beta(methods[..., None], sd[None, :, None], shape, random)
    band = float(ndtri((1 + world.ties) / 2))
    harder = np.array([-0.02, 0.02]) if world.prompt_sets == 2 else np.zeros(1)
    mu = _margin(checkpoints[..., None] + harder, band).astype(np.float32)

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
    outcomes = 0.5 * (z > band) + 0.5 * (z > -band)
    return Boards(outcomes.astype(np.float32), methods, checkpoints)


def _beta(mean: Floats, sd: Floats, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Rates of a given mean in [0, 1] and variance 4 sd^2 mean (1 - mean)."""
    if not sd.any():
        return np.broadcast_to(mean, shape)
    nu = 0.25 / sd**2 - 1
    return random.beta(mean * nu, (1 - mean) * nu, size=shape)


def _margin(rate: Floats, band: float) -> Floats:
    """The mu at which a training has a rate, for a band: by a table, exact to 1e-6."""
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

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.1f}"


def share(happened: npt.ArrayLike) -> Share:
    """Of [boards, ...] whether it happened."""
    each = np.asarray(happened, np.float64)
    each = each.reshape(len(each), -1).mean(axis=1)
    return Share(float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))))


def components(
    world: World, count: int, seed: int = SEED
) -> Iterator[tuple[list[model.Components], Boards, int]]:
    """What the model makes of each method of each board, with the boards and the board's number."""
    design = model.design(*world.texts())
    for some in boards(world, count, seed):
        for number, board in enumerate(some.outcomes.astype(np.float64)):
            yield [model.components(each[:, :, None], design) for each in board], some, number


def covered(world: World, count: int, seed: int = SEED) -> npt.NDArray[np.bool_]:
    """[boards, methods]: whether the model's interval holds the truth that it speaks of."""
    found = []
    for parts, some, number in components(world, count, seed):
        truth = some.methods[number] if world.seeds > 1 else some.checkpoints[number, :, 0]
        rates = model.win_rates(parts)
        found.append([r.low <= true <= r.high for r, true in zip(rates, truth, strict=True)])
    return np.array(found)
