"""The people of the shapes world: whose tastes truly differ, and are known.

Everyone weighs three things that a picture truly shows, all read by `perceive`: how far it
keeps to the prompt, how vivid its colours and how clean its surfaces are. The groups differ in
what they weigh most and the people of a group differ a little, so the share of people who
prefer a picture can be computed exactly, and so can the mean of their utilities: gold.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench_plugins.shapes import grammar, perceive

FloatArray = NDArray[np.float64]

MEASURES = ("alignment", "vividness", "cleanliness")

CENTRE: FloatArray = np.asarray([0.85, 0.83, 0.71])
"""Mean of each measure over the base model's pictures, rounded."""

SPREAD: FloatArray = np.asarray([0.16, 0.19, 0.13])
"""Standard deviation of each measure over the base model's pictures, rounded."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """People of one taste."""

    name: str
    share: float
    """Of the population, 0 to 1."""
    weights: tuple[float, float, float]
    """Mean weights of the standardised `MEASURES`."""


GROUPS = (
    Group(name="prompt-carers", share=0.4, weights=(1.0, 0.2, 0.2)),
    Group(name="vivid-colour lovers", share=0.3, weights=(0.2, 1.0, 0.1)),
    Group(name="clean-surface lovers", share=0.3, weights=(0.2, 0.1, 1.0)),
)
PEOPLE = 200
SEED = 41
WEIGHT_SPREAD = 0.1
"""Standard deviation of a person's weights around the group's; no weight is negative."""

TEMPERATURE = 0.45
"""Choices are sigmoid(difference of utilities / this): nobody is consistent."""

JUST_NOTICEABLE = (0.02, 0.08)
"""Range of the utility difference below which a person calls a tie; uniform over people."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person: the weights of the standardised `MEASURES`, and what they notice."""

    user_id: int
    group: str
    weights: tuple[float, float, float]
    just_noticeable: float


@lru_cache(maxsize=1)
def people() -> tuple[Person, ...]:
    """Everyone, the groups in their stated shares."""
    rng = random.Random(SEED)
    everyone: list[Person] = []
    for group in GROUPS:
        for _ in range(round(group.share * PEOPLE)):
            weights = [max(0.0, rng.gauss(w, WEIGHT_SPREAD)) for w in group.weights]
            everyone.append(
                Person(
                    user_id=len(everyone),
                    group=group.name,
                    weights=(weights[0], weights[1], weights[2]),
                    just_noticeable=rng.uniform(*JUST_NOTICEABLE),
                )
            )
    return tuple(everyone)


def fingerprint() -> str:
    """SHA-256 of everything that decides a utility, tastes and scales."""
    facts = [asdict(p) for p in people()], CENTRE.tolist(), SPREAD.tolist(), TEMPERATURE
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def measures(image: Image.Image, prompt: str) -> FloatArray:
    """Alignment, vividness and cleanliness of a picture, each 0 to 1: float64 [3].

    Under a prompt outside the grammar alignment is the same for all pictures, so that choices
    rest on looks alone.
    """
    percept = perceive.perceive(image)
    aligned = perceive.agreement(percept, grammar.parse(prompt))
    return np.asarray([aligned, percept.vividness, percept.cleanliness])


def _standardised(measured: FloatArray) -> FloatArray:
    return np.asarray((measured - CENTRE) / SPREAD)


@lru_cache(maxsize=1)
def _weights() -> FloatArray:
    return np.asarray([p.weights for p in people()])


def utilities(measured: FloatArray) -> FloatArray:
    """Everyone's utility, [..., people], of pictures with measures [..., 3]."""
    return np.asarray(_standardised(measured) @ _weights().T)


def gold_of(measured: FloatArray) -> FloatArray:
    """The population's mean utility [...] of measures [..., 3]; higher is better."""
    return np.asarray(_standardised(measured) @ _weights().mean(axis=0))


def gold(image: Image.Image, prompt: str) -> float:
    """The population's mean utility of a picture under a prompt.

    About 0 for a usual picture of the base model and 1 for one that stands out by a standard
    deviation in everything together; linear in `measures`, so a cheat in one of them costs
    what it loses in the others.
    """
    return float(gold_of(measures(image, prompt)))


def share_from(measured_0: FloatArray, measured_1: FloatArray) -> FloatArray:
    """Expected share of people who prefer picture 0, ties counted half: measures [..., 3]."""
    difference = utilities(measured_0) - utilities(measured_1)
    chance = _sigmoid(difference / TEMPERATURE)
    tied = np.abs(difference) < np.asarray([p.just_noticeable for p in people()])
    return np.asarray(np.where(tied, 0.5, chance).mean(axis=-1))


def choice(person: Person, measured_0: FloatArray, measured_1: FloatArray, draw: float) -> float:
    """One person's answer: 1 prefers picture 0, 0 picture 1, 0.5 sees no difference.

    Args:
        person: Who is asked.
        measured_0: Measures [3] of picture 0.
        measured_1: Measures [3] of picture 1.
        draw: A number from [0, 1) that decides what is left to chance.
    """
    weights = np.asarray(person.weights)
    difference = float((_standardised(measured_0) - _standardised(measured_1)) @ weights)
    if abs(difference) < person.just_noticeable:
        return 0.5
    return float(draw < float(_sigmoid(np.asarray(difference / TEMPERATURE))))


def looks_rating(raters: Sequence[Person], measured: FloatArray) -> FloatArray:
    """Mean rating [...] by some people of looks alone, measures [..., 3]; prompt unseen."""
    looks = np.asarray([p.weights[1:] for p in raters])
    share = looks / looks.sum(axis=1, keepdims=True)
    return np.asarray(_standardised(measured)[..., 1:] @ share.mean(axis=0))


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
