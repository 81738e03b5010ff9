"""Which methods are separated, on scores whose truth is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bench.leaderboard.ranking import Player, Ranking, rank
from bench.statistics import model
from bench.statistics.model import Estimand

N = 300
DESIGN = model.design([f"prompt {i}" for i in range(N)], ["a"] * (N // 2) + ["b"] * (N // 2))


def player(name: str, lift: float, seeds: int, spread: float = 0.0, first: int = 0) -> Player:
    rng = np.random.RandomState(sum(map(ord, name)))
    scores = {
        seed: rng.normal(lift + rng.normal(0, spread), 1.0, (N, 1))
        for seed in range(first, first + seeds)
    }
    return Player(name, "", scores)


BASE = np.random.RandomState(0).normal(0.0, 1.0, (N, 1))


def ranked(*players: Player) -> Ranking:
    return rank(list(players), BASE, DESIGN)


def test_far_apart_methods_have_ranks_of_their_own() -> None:
    found = ranked(player("good", 1.0, 3), player("bad", -0.6, 3), player("fair", 0.5, 3))
    assert [s.rank_set for s in found.standings] == [(1, 1), (4, 4), (2, 2)]
    assert found.base_rank_set == (3, 3)
    assert [s.letters for s in found.standings] == ["a", "d", "b"]
    assert found.unranked_because == ""
    assert all(pair.separated for pair in found.pairs)


def test_equal_methods_share_ranks_and_letters() -> None:
    found = ranked(*(player(name, 0.0, 3) for name in "abc"))
    assert {s.rank_set for s in found.standings} == {(1, 4)}
    assert {s.letters for s in found.standings} == {"a"}
    assert found.best_of_many is not None
    assert 0.51 < found.best_of_many < 0.55


def test_every_pair_stands_once_and_by_direct_comparison() -> None:
    one, other = player("one", 0.5, 2), player("other", 0.2, 2)
    (pair,) = ranked(one, other).pairs
    wins = np.mean([one.scores[s] > other.scores[s] for s in (0, 1)])
    assert (pair.method, pair.other) == ("one", "other")
    assert pair.rate.win_rate == pytest.approx(wins)


def test_one_training_each_is_compared_but_neither_tested_nor_ranked() -> None:
    found = ranked(player("a", 1.0, 1), player("b", -1.0, 1))
    (pair,) = found.pairs
    assert pair.rate.estimand is Estimand.CHECKPOINT
    assert pair.adjusted_p is None
    assert not pair.separated
    assert pair.rate.low > 0.5
    assert [s.rank_set for s in found.standings] == [None, None]
    assert "trained once" in found.unranked_because


def test_methods_without_a_common_train_seed_have_no_head_to_head() -> None:
    found = ranked(player("a", 1.0, 2), player("b", 1.0, 2, first=5))
    assert found.pairs == ()
    assert [s.rank_set for s in found.standings] == [(1, 2), (1, 2)]


def test_adjusted_tests_and_simultaneous_intervals_agree() -> None:
    lifts = dict(zip("abcdef", np.linspace(-0.3, 0.3, 6), strict=True))
    found = ranked(*(player(name, lift, 3, 0.02) for name, lift in lifts.items()))
    assert len(found.pairs) == 15
    assert 0 < sum(pair.separated for pair in found.pairs) < 15
    for pair in found.pairs:
        assert pair.adjusted_p is not None
        assert pair.rate.p_value is not None
        assert pair.separated == (pair.adjusted_p <= 0.05)
        assert pair.adjusted_p >= pair.rate.p_value


def test_nobody_to_compare_says_why() -> None:
    assert "no scorer is held out for every method" in ranked().unranked_because


@pytest.mark.slow
def test_true_nulls_are_separated_in_at_most_one_family_of_twenty() -> None:
    """Five methods like the base, trainings that differ by 2 points: 300 boards."""
    rng = np.random.RandomState(1)
    wrong = 0
    for _ in range(300):
        base = rng.normal(size=(N, 1))
        players = [
            Player(
                str(i),
                "",
                {s: base + rng.normal(rng.normal(0, 0.05), 1.0, (N, 1)) for s in range(3)},
            )
            for i in range(5)
        ]
        sets = [s.rank_set for s in rank(players, base, DESIGN).standings]
        wrong += any(one != (1, 6) for one in sets)
    assert wrong / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_pairs_are_all_there() -> None:
    names = "abcd"
    found = ranked(*(player(name, 0.0, 2) for name in names))
    assert [(p.method, p.other) for p in found.pairs] == list(combinations(names, 2))
