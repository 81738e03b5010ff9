from __future__ import annotations

import math
import time
import tracemalloc
from itertools import combinations

import networkx
import numpy as np
import pytest
from scipy import integrate, stats

from bench.lib.errors import BenchError
from bench.statistics.ranking import (
    FAMILY,
    adjust,
    all_pairs,
    best_of_many,
    holm,
    letters,
    rank_sets,
    simultaneous,
)


def random_correlation(rng: np.random.RandomState, size: int, rank: int) -> np.ndarray:
    factor = rng.standard_normal((size, rank))
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    return factor @ factor.T


def against_one(methods: int) -> np.ndarray:
    """Differences to one base: Dunnett's case."""
    return 0.5 + 0.5 * np.eye(methods)


def one_pair(difference: float) -> np.ndarray:
    return np.array([[1.0, difference], [difference, 1.0]])


@pytest.mark.parametrize("methods", [3, 5, 8])
def test_all_pairs_are_adjusted_as_tukey_does(methods: int) -> None:
    correlation = all_pairs(methods)
    t = np.linspace(1.5, 4.5, len(correlation))
    adjusted, alpha = adjust(2 * stats.norm.sf(t), correlation)
    tukey = stats.studentized_range.sf(math.sqrt(2) * t, methods, np.inf)
    assert adjusted == pytest.approx(tukey, rel=0.06)
    limit = stats.studentized_range.ppf(1 - FAMILY, methods, np.inf) / math.sqrt(2)
    assert -stats.norm.ppf(alpha / 2) == pytest.approx(limit, rel=0.004)


@pytest.mark.parametrize("methods", [2, 6])
def test_differences_to_one_base_are_adjusted_as_dunnett_does(methods: int) -> None:
    def exceeds(limit: float) -> float:
        def density(base: float) -> float:
            reach = math.sqrt(2) * limit
            inside = stats.norm.cdf(base + reach) - stats.norm.cdf(base - reach)
            return float(stats.norm.pdf(base) * (1 - inside**methods))

        return float(integrate.quad(density, -9, 9)[0])

    t = np.linspace(1.0, 4.0, methods)
    adjusted, alpha = adjust(2 * stats.norm.sf(t), against_one(methods))
    assert adjusted == pytest.approx([exceeds(limit) for limit in t], rel=0.03)
    assert exceeds(-stats.norm.ppf(alpha / 2)) == pytest.approx(FAMILY, abs=0.001)


def test_independent_comparisons_are_adjusted_as_sidak_does() -> None:
    p = np.array([1e-6, 0.001, 0.01, 0.04, 0.3])
    adjusted, alpha = adjust(p, np.eye(5))
    assert adjusted == pytest.approx(1 - (1 - p) ** 5, rel=0.03)
    assert alpha == pytest.approx(1 - 0.95 ** (1 / 5), rel=0.03)


def test_comparisons_that_are_one_need_no_adjustment() -> None:
    p = np.array([0.001, 0.04, 0.3])
    adjusted, alpha = adjust(p, np.ones((3, 3)))
    assert adjusted == pytest.approx(p, rel=1e-9)
    assert alpha == pytest.approx(FAMILY, rel=1e-9)


@pytest.mark.parametrize("df", [1.7, 12.0, math.inf])
def test_one_comparison_is_itself_exactly(df: float) -> None:
    result = simultaneous([0.03], [0.011], [df], [[1.0]])
    assert result.alpha == FAMILY
    assert result.adjusted.tolist() == result.p_values.tolist()
    assert result.p_values[0] == pytest.approx(2 * stats.t.sf(0.03 / 0.011, df), rel=1e-8)
    low, high = stats.t.interval(1 - FAMILY, df, 0.03, 0.011)
    assert (result.low[0], result.high[0]) == pytest.approx((low, high), rel=1e-8)


def test_no_comparison_is_no_trouble() -> None:
    adjusted, alpha = adjust([], np.zeros((0, 0)))
    assert (adjusted.tolist(), alpha) == ([], FAMILY)


@pytest.mark.parametrize("rank", [1, 2, 5, 12])
def test_adjusted_p_and_simultaneous_interval_never_contradict(rank: int) -> None:
    rng = np.random.RandomState(rank)
    separated = 0
    for _ in range(15):
        size = rng.randint(2, 13)
        error = rng.uniform(0.01, 0.1, size)
        estimate = rng.normal(0, 2.5, size) * error
        df = rng.choice([2.0, 6.5, 30.0, 1000.0, math.inf], size)
        result = simultaneous(estimate, error, df, random_correlation(rng, size, rank))
        raw, adjusted = result.p_values, result.adjusted
        assert (raw <= adjusted).all()
        assert (adjusted <= np.minimum(1, size * raw)).all()
        order = np.argsort(raw)
        assert (np.diff(adjusted[order]) >= 0).all()
        excludes = (result.low > 0) | (result.high < 0)
        assert (excludes == (adjusted <= FAMILY)).all()
        assert (excludes == (raw < result.alpha)).all()
        assert FAMILY / size <= result.alpha <= FAMILY
        separated += int(excludes.sum())
    assert separated > 5


def test_p_on_either_side_of_the_level_fall_on_either_side_of_the_family_level() -> None:
    correlation = all_pairs(4)
    _, alpha = adjust(np.full(6, 0.5), correlation)
    near = alpha * np.array([0.9, 1 - 1e-9, 1 + 1e-9, 1.1, 1.2, 2.0])
    adjusted, again = adjust(near, correlation)
    assert again == alpha
    assert (adjusted <= FAMILY).tolist() == [True, True, False, False, False, False]


def test_the_choice_among_equal_eigenvectors_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, correlation = np.geomspace(1e-5, 0.2, 10), all_pairs(5)
    expected = adjust(p, correlation)
    decompose = np.linalg.eigh

    def turned(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = decompose(matrix)
        rng, vectors = np.random.RandomState(0), vectors.copy()
        for value in np.unique(values.round(6)):
            same = np.flatnonzero(values.round(6) == value)
            spin = np.linalg.qr(rng.standard_normal((len(same), len(same))))[0]
            vectors[:, same] = vectors[:, same] @ spin
        return values, vectors

    monkeypatch.setattr(np.linalg, "eigh", turned)
    adjusted, alpha = adjust(p, correlation)
    assert adjusted == pytest.approx(expected[0], rel=1e-10)
    assert alpha == pytest.approx(expected[1], rel=1e-10)


def test_a_correlation_that_cannot_be_is_brought_to_one_that_can() -> None:
    impossible = np.array([[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]])
    adjusted, alpha = adjust([0.001, 0.02, 0.5], impossible)
    assert (adjusted >= [0.001, 0.02, 0.5]).all()
    assert FAMILY / 3 <= alpha <= FAMILY


def test_two_methods_that_are_one_are_not_separated() -> None:
    result = simultaneous([0.0, 0.2], [0.0, 0.01], [5, 5], np.eye(2))
    assert result.p_values[0] == result.adjusted[0] == 1.0
    assert (result.low[0], result.high[0]) == (0.0, 0.0)
    assert result.adjusted[1] < FAMILY


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0.1], [0.0], [5], [[1]]), "comparison 0: an estimate of 0.1 with a standard error of 0"),
        (([math.nan], [0.1], [5], [[1]]), "comparison 0"),
        (([0.1], [0.1], [0], [[1]]), "0 degrees of freedom cannot be tested"),
        (([0.1, 0.2], [0.1], [5], [[1]]), "not of the same comparisons"),
        (([0.1, 0.2], [0.1, 0.1], [5, 5], [[1]]), "not one of 2 comparisons"),
        (([0.1, 0.2], [0.1, 0.1], [5, 5], one_pair(math.nan)), "finite numbers"),
        (([0.1, 0.2], [0.1, 0.1], [5, 5], [[1, 0.2], [0.1, 1]]), "same below the diagonal"),
        (([0.1, 0.2], [0.1, 0.1], [5, 5], [[1, 0.2], [0.2, 4]]), "1 on the diagonal"),
    ],
)
def test_what_cannot_be_tested_is_refused(given: tuple[object, ...], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        simultaneous(*given)  # type: ignore[arg-type]


def test_p_values_outside_0_to_1_are_refused() -> None:
    with pytest.raises(BenchError, match="from 0 to 1"):
        adjust([0.2, 1.2], np.eye(2))


@pytest.mark.parametrize(("methods", "units"), [(3, 8), (5, 40), (8, 400)])
def test_a_family_without_differences_shows_one_in_five_of_a_hundred(
    methods: int, units: int
) -> None:
    # Paired t tests of all pairs, each by its own standard error, over the same units.
    rng, families = np.random.RandomState(units), 3_000
    pairs = list(combinations(range(methods), 2))
    _, alpha = adjust(np.full(len(pairs), 0.5), all_pairs(methods))
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    false = 0
    for _ in range(families):
        values = rng.standard_normal((units, methods))
        differences = values[:, first] - values[:, second]
        t = differences.mean(axis=0) / (differences.std(axis=0, ddof=1) / math.sqrt(units))
        false += bool((2 * stats.t.sf(np.abs(t).max(), units - 1)) < alpha)
    assert FAMILY - 0.02 < false / families < FAMILY + 3 * math.sqrt(FAMILY * 0.95 / families)


@pytest.mark.slow
def test_fifty_methods_head_to_head_take_seconds_and_little_memory() -> None:
    rng = np.random.RandomState(0)
    correlation = all_pairs(50)
    p = rng.random_sample(len(correlation)) ** 4
    tracemalloc.start()
    began = time.process_time()
    adjusted, _ = adjust(p, correlation)
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()
    assert (adjusted >= p).all()


def test_holm_is_that_of_statsmodels() -> None:
    # multipletests(p, method="holm")[1] of statsmodels 0.15.0.
    p = [0.0123, 0.0004, 0.2, 0.031, 0.031, 0.97, 0.0049]
    assert holm(p) == pytest.approx([0.0615, 0.0028, 0.4, 0.124, 0.124, 0.97, 0.0294], abs=1e-12)
    assert holm([]) == []


def test_the_best_of_one_is_that_one() -> None:
    best = best_of_many([0.02], [[1.0]])
    assert best.expected == pytest.approx(0, abs=1e-15)
    assert best.high == pytest.approx(0.02 * stats.norm.ppf(0.95), rel=1e-9)


@pytest.mark.parametrize(
    ("methods", "expected"), [(2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))]
)
def test_the_best_of_several_by_chance_alone(methods: int, expected: float) -> None:
    best = best_of_many(np.full(methods, 0.02), np.eye(methods))
    assert best.expected == pytest.approx(0.02 * expected, rel=0.01)
    assert best.high == pytest.approx(0.02 * stats.norm.ppf(0.95 ** (1 / methods)), rel=0.01)
    # What all share with the base moves all alike, and helps none to be the best.
    related = best_of_many(np.full(methods, 0.02), against_one(methods))
    assert related.expected == pytest.approx(0.02 * expected * math.sqrt(0.5), rel=0.01)


def test_the_best_of_methods_that_are_one() -> None:
    best = best_of_many([0.02, 0.02, 0.02], np.ones((3, 3)))
    assert best.expected == pytest.approx(0, abs=1e-15)
    assert best.high == pytest.approx(0.02 * stats.norm.ppf(0.95), rel=1e-9)
    assert best_of_many([0.0, 0.0], np.eye(2)).high == 0.0


@pytest.mark.parametrize("errors", [[], [-0.1], [math.nan]])
def test_no_standard_error_has_no_best(errors: list[float]) -> None:
    with pytest.raises(BenchError, match="standard errors"):
        best_of_many(errors, np.eye(len(errors)))


def test_rank_sets_count_who_is_better_and_who_is_worse() -> None:
    separated = [("smpo", "base"), ("dpo", "base"), ("smpo", "sft")]
    methods = ["smpo", "dpo", "sft", "base"]
    assert rank_sets(methods, separated) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert rank_sets(methods, []) == [(1, 4)] * 4
    assert rank_sets([], []) == []


@pytest.mark.parametrize(
    "pairs", [[("a", "a")], [("a", "c")], [("a", "b"), ("b", "a")]], ids=["self", "who", "both"]
)
def test_pairs_that_make_no_order_are_refused(pairs: list[tuple[str, str]]) -> None:
    for display in (rank_sets, letters):
        with pytest.raises(BenchError, match="cannot be better than"):
            display(["a", "b"], pairs)


def test_true_ranks_lie_in_their_sets() -> None:
    rng, methods, families, missed = np.random.RandomState(1), 6, 400, 0
    truth = np.array([0.9, 0.5, 0.5, 0.2, 0.0, 0.0])
    pairs = list(combinations(range(methods), 2))
    _, alpha = adjust(np.full(len(pairs), 0.5), all_pairs(methods))
    limit = -stats.norm.ppf(alpha / 2) * math.sqrt(2) * 0.1
    for _ in range(families):
        seen = truth + 0.1 * rng.standard_normal(methods)
        found = [
            (a, b) if seen[a] > seen[b] else (b, a)
            for a, b in pairs
            if abs(seen[a] - seen[b]) > limit
        ]
        inside = [
            best <= 1 + (truth > own).sum() and methods - (truth < own).sum() <= worst
            for own, (best, worst) in zip(truth, rank_sets(range(methods), found), strict=True)
        ]
        missed += not all(inside)
    assert missed / families < FAMILY + 3 * math.sqrt(FAMILY * 0.95 / families)


def test_letters_of_a_chain() -> None:
    methods = ["smpo", "dpo", "sft", "base"]
    assert letters(methods, []) == ["a", "a", "a", "a"]
    assert letters(methods, [("smpo", "base")]) == ["a", "ab", "ab", "b"]
    assert letters(methods, [("smpo", "sft"), ("smpo", "base"), ("dpo", "base")]) == [
        "a",
        "ab",
        "bc",
        "c",
    ]
    assert letters(methods, list(combinations(methods, 2))) == ["a", "b", "c", "d"]
    assert letters([], []) == []


def test_after_z_letters_go_on() -> None:
    methods = list(range(54))
    shown = letters(methods, list(combinations(methods, 2)))
    assert [shown[i] for i in (0, 25, 26, 27, 52)] == ["a", "z", "a1", "b1", "a2"]


def shared(one: str, other: str) -> bool:
    return not set(one).isdisjoint(other)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_methods_share_a_letter_just_if_they_are_not_separated(share: float) -> None:
    rng = np.random.RandomState(int(100 * share))
    for _ in range(25):
        methods = list(range(rng.randint(2, 9)))
        pairs = [pair for pair in combinations(methods, 2) if rng.random_sample() < share]
        shown = letters(methods, pairs)
        assert all(shown)
        for a, b in combinations(methods, 2):
            assert shared(shown[a], shown[b]) == ((a, b) not in pairs)


def test_letters_of_intervals_are_their_maximal_cliques() -> None:
    rng = np.random.RandomState(5)
    for _ in range(20):
        centre = -np.sort(-rng.random_sample(12))
        pairs = [(a, b) for a, b in combinations(range(12), 2) if centre[a] - centre[b] > 0.25]
        together = networkx.Graph()
        together.add_nodes_from(range(12))
        together.add_edges_from(p for p in combinations(range(12), 2) if p not in pairs)
        cliques = {frozenset(clique) for clique in networkx.find_cliques(together)}
        shown = letters(range(12), pairs)
        groups = {
            frozenset(i for i in range(12) if letter in shown[i]) for letter in set("".join(shown))
        }
        assert groups == cliques
        assert shown[0].startswith("a")


def test_hard_patterns_take_no_time() -> None:
    # The complement of triangles has 3^15 maximal cliques; a few cover it.
    methods = list(range(45))
    pairs = [pair for pair in combinations(methods, 2) if pair[0] // 3 == pair[1] // 3]
    shown = letters(methods, pairs)
    for a, b in combinations(methods, 2):
        mine, other = (set(split_letters(shown[i])) for i in (a, b))
        assert bool(mine & other) == ((a, b) not in pairs)


def split_letters(text: str) -> list[str]:
    found: list[str] = []
    for character in text:
        if character.isdigit():
            found[-1] += character
        else:
            found.append(character)
    return found
