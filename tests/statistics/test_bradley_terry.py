from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_expit

from bench.lib.errors import BenchError
from bench.statistics.bradley_terry import PSEUDO_WINS, count, fit, standard_errors
from bench.statistics.model import Design, Floats, design

WON = np.array(
    [
        [0, 12, 7, 30, 5],
        [9, 0, 11, 14, 6],
        [15, 8, 0, 21, 10],
        [4, 9, 3, 0, 2],
        [16, 13, 9, 18, 0],
    ],
    float,
)
TIED = np.array(
    [[0, 3, 0, 5, 0], [3, 0, 1, 0, 0], [0, 1, 0, 0, 4], [5, 0, 0, 0, 2], [0, 0, 4, 2, 0]], float
)
CHOIX = (0.0, -0.09079656967927777, 0.4606136369727843, -1.1965739006686913, 0.6939114305139908)
"""`choix.ilsr_pairwise_dense(WON + TIED / 2, alpha=0, max_iter=1000, tol=1e-13)` of choix 0.4.1,
minus its first."""
EVALICA = (0.0, -0.0907965696793057, 0.4606136369727786, -1.1965739006687006, 0.6939114305139864)
"""Logarithms of `evalica.bradley_terry(xs, ys, winners, weights=counts, tolerance=1e-15,
limit=100000).scores` of evalica 0.4.2, minus the first: each win as `Winner.X`, each tie as
`Winner.Draw`."""


def distinct(n: int) -> Design:
    return design([f"prompt {i}" for i in range(n)], ["a"] * n)


def simulated(
    seed: int, theta: Floats, lam: Floats, prompts: int, seeds: int = 1, taste: float = 0.0
) -> Floats:
    """Scores whose comparisons follow the model; `taste`: what a prompt makes all judges think."""
    rng = np.random.RandomState(seed)
    noise = rng.gumbel(size=(len(lam), seeds, len(theta), prompts, 1))
    strength = theta[:, None] + taste * rng.standard_normal((seeds, len(theta), prompts))
    return noise + (lam[:, None, None, None] * strength)[..., None]


def test_two_players_by_hand() -> None:
    found = fit(np.array([[[0.0, 30.0], [10.0, 0.0]]]), base=1)
    assert found is not None
    assert found.strength == pytest.approx((math.log(3), 0.0), abs=1e-12)
    assert found.discrimination == (1.0,)
    assert found.log_likelihood == pytest.approx(30 * math.log(0.75) + 10 * math.log(0.25))
    assert found.pseudo_wins == 0.0


@pytest.mark.parametrize("reference", [CHOIX, EVALICA])
def test_plain_strengths_are_those_of_other_libraries(reference: tuple[float, ...]) -> None:
    found = fit((WON + TIED / 2)[None])
    assert found is not None
    assert found.strength == pytest.approx(reference, abs=1e-9)


def test_another_base_shifts_all() -> None:
    first, second = fit((WON + TIED / 2)[None]), fit((WON + TIED / 2)[None], base=3)
    assert first is not None
    assert second is not None
    shifted = [value - first.strength[3] for value in first.strength]
    assert second.strength == pytest.approx(shifted, abs=1e-10)


def test_counts_by_hand() -> None:
    # Player 0 beats 1 and ties with 2; in the second prompt all tie.
    scores = np.array([[2.0, 5.0], [1.0, 5.0], [2.0, 5.0]])[None, None, :, :, None]
    found = count(scores, distinct(2))
    assert found.wins.tolist() == [[[0, 1.5, 1], [0.5, 0, 0.5], [1, 1.5, 0]]]
    assert found.victories[0, 0].tolist() == [[1.5, 1], [0, 1], [1.5, 1]]
    assert found.games[0, 0].tolist() == [[0, 2, 2], [2, 0, 2], [2, 2, 0]]


def test_counts_are_those_of_every_pair() -> None:
    rng = np.random.RandomState(0)
    scores = rng.randint(0, 4, (2, 3, 4, 6, 2)).astype(float)
    scores[1, :, 2] = np.nan
    scores[:, 2, 3] = np.nan
    two = design(list("abcdef"), ["x", "x", "y", "y", "y", "y"])
    found = count(scores, two)
    wins = np.zeros((2, 4, 4))
    weight = np.array([1.5, 1.5, 0.75, 0.75, 0.75, 0.75]) / 2
    for k, s, i, j in np.ndindex(2, 3, 4, 4):
        if i != j and np.isfinite(scores[k, s, [i, j]]).all():
            lead = scores[k, s, i] - scores[k, s, j]
            wins[k, i, j] += ((lead > 0) + 0.5 * (lead == 0)).sum(axis=1) @ weight
    assert found.wins == pytest.approx(wins)
    assert found.victories.sum(axis=(1, 3)) == pytest.approx(wins.sum(axis=2))
    assert found.games.sum(axis=1) == pytest.approx(wins + wins.transpose(0, 2, 1))


def test_scores_in_part_are_refused() -> None:
    scores = np.zeros((1, 1, 2, 3, 1))
    scores[0, 0, 1, 2, 0] = np.nan
    with pytest.raises(BenchError, match="not finite"):
        count(scores, distinct(3))
    with pytest.raises(BenchError, match="design of 4"):
        count(scores, distinct(4))


def test_judges_are_found_as_by_another_search() -> None:
    theta, lam = np.array([0.0, 0.5, -0.4, 1.0]), np.array([0.4, 1.0, 1.6])
    wins = count(simulated(0, theta, lam, 300), distinct(300)).wins
    found = fit(wins)
    assert found is not None

    def loss(free: Floats) -> float:
        # Other parameters: a judge of discrimination 1, and strengths that sum to 0.
        strength, judges = np.append(free[:3], -free[:3].sum()), np.append(1.0, free[3:])
        gap = strength[:, None] - strength
        return -float((wins * log_expit(judges[:, None, None] * gap)).sum())

    start = np.append(theta[:3] - theta.mean(), [1.0, 1.0])
    other = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-4})
    strength, judges = np.append(other.x[:3], -other.x[:3].sum()), np.append(1.0, other.x[3:])
    scale = judges.mean()
    assert found.discrimination == pytest.approx(judges / scale, abs=1e-4)
    assert found.strength == pytest.approx((strength - strength[0]) * scale, abs=1e-4)
    assert found.log_likelihood == pytest.approx(-other.fun, abs=1e-6)
    assert np.mean(found.discrimination) == pytest.approx(1.0, abs=1e-12)


def test_a_judge_that_contradicts_the_others_gets_a_negative_discrimination() -> None:
    theta, lam = np.array([0.0, 0.8, 1.6]), np.array([1.5, 1.5, -0.6])
    found = fit(count(simulated(1, theta, lam, 1500), distinct(1500)).wins)
    assert found is not None
    assert found.discrimination[2] < 0 < found.discrimination[0]
    assert found.strength == pytest.approx(theta * lam.mean(), abs=0.15)


def test_judges_that_agree_on_no_order_give_none() -> None:
    # The second judge says the opposite of the first: strengths 0, and no peak to measure.
    scores = simulated(2, np.array([0.0, 1.0]), np.array([1.0]), 50)
    compared = count(np.concatenate([scores, -scores]), distinct(50))
    found = fit(compared.wins)
    assert found is not None
    assert found.strength == pytest.approx((0.0, 0.0), abs=1e-9)
    assert standard_errors(found, compared, distinct(50)) is None


def test_who_always_wins_gets_a_finite_strength_and_it_is_said() -> None:
    found = fit(np.array([[[0.0, 0.0], [40.0, 0.0]]]))
    assert found is not None
    assert found.pseudo_wins == PSEUDO_WINS
    assert found.strength[1] == pytest.approx(math.log(40.5 / 0.5))
    # One judge alone who sees but wins is enough.
    one_sided = np.array([[[0.0, 10.0], [30.0, 0.0]], [[0.0, 0.0], [40.0, 0.0]]])
    other = fit(one_sided)
    assert other is not None
    assert other.pseudo_wins == PSEUDO_WINS
    logits = np.array([math.log(30.5 / 10.5), math.log(40.5 / 0.5)])
    assert np.array(other.discrimination) * other.strength[1] == pytest.approx(logits)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BenchError, match="without any comparison"):
        fit(np.zeros((1, 2, 2)))
    apart = np.zeros((1, 4, 4))
    apart[0, 0, 1] = apart[0, 1, 0] = apart[0, 2, 3] = apart[0, 3, 2] = 5.0
    with pytest.raises(BenchError, match="compared with no other"):
        fit(apart)


def test_error_of_one_pair_by_hand() -> None:
    n, p = 40, 0.75
    values = np.array([[1.0] * 10 + [0.0] * 30, [0.5] * 40])[None, None, :, :, None]
    compared = count(values, distinct(n))
    found = fit(compared.wins)
    assert found is not None
    errors = standard_errors(found, compared, distinct(n))
    assert errors is not None
    assert errors.strength == pytest.approx((0.0, 1 / math.sqrt((n - 1) * p * (1 - p))))
    assert errors.discrimination == pytest.approx((0.0,), abs=1e-12)


@pytest.mark.parametrize("repeated", [1, 3])
def test_errors_are_those_of_leaving_prompts_out(repeated: int) -> None:
    theta, lam, n = np.array([0.0, 0.6, -0.5]), np.array([0.7, 1.3]), 120
    once = simulated(3, theta, lam, n, taste=0.8)
    scores = np.tile(once, (1, 1, 1, repeated, 1))
    copies = design([f"p{i % n}" for i in range(n * repeated)], ["a"] * n * repeated)
    compared = count(scores, copies)
    found = fit(compared.wins)
    assert found is not None
    errors = standard_errors(found, compared, copies)
    assert errors is not None
    left_out = []
    for i in range(n):
        without = fit(count(np.delete(once, i, axis=3), distinct(n - 1)).wins)
        assert without is not None
        left_out.append(without.strength + without.discrimination)
    jackknife = np.sqrt((n - 1) ** 2 / n * np.var(left_out, axis=0, ddof=1))
    assert errors.strength + errors.discrimination == pytest.approx(jackknife, rel=0.05, abs=1e-9)


def test_trainings_that_differ_widen_the_errors() -> None:
    theta, lam, n = np.array([0.0, 0.6]), np.array([1.0, 1.0]), 400
    rng = np.random.RandomState(4)
    scores = simulated(5, theta, lam, n, seeds=4)
    moved = scores.copy()
    moved[:, :, 1] += 0.5 * rng.standard_normal((4, 1, 1))
    errors = []
    for values in (scores, moved):
        compared = count(values, distinct(n))
        found = fit(compared.wins)
        assert found is not None
        error = standard_errors(found, compared, distinct(n))
        assert error is not None
        errors.append(error.strength[1])
    assert errors[1] > 2 * errors[0]


def test_errors_cover_the_truth() -> None:
    theta, lam, n = np.array([0.0, 0.5, 0.9]), np.array([0.6, 1.4]), 150
    off = []
    for seed in range(150):
        compared = count(simulated(100 + seed, theta, lam, n), distinct(n))
        found = fit(compared.wins)
        assert found is not None
        error = standard_errors(found, compared, distinct(n))
        assert error is not None
        off.append(
            [
                (found.strength[1] - theta[1]) / error.strength[1],
                (found.strength[2] - theta[2]) / error.strength[2],
                (found.discrimination[0] - lam[0]) / error.discrimination[0],
            ]
        )
    # Standardised deviations of 150 draws: 1, with a standard error of 0.06.
    assert np.std(off, axis=0) == pytest.approx(np.ones(3), abs=0.2)
