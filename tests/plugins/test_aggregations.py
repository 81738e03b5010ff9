from __future__ import annotations

import itertools

import numpy as np
import pytest
from bench_plugins.aggregations import (
    Average,
    Human,
    MajorityVote,
    RandomScorer,
    Smoothed,
    bench_aggregations,
)

from bench import (
    Aggregation,
    BenchError,
    Labels,
    PairRewards,
)


def pairs(human: list[float] | None = None, **differences: list[float]) -> PairRewards:
    """Pairs whose rewards differ by `differences`; image 1 always has reward 0."""
    rewards = {k: np.stack([np.array(v), np.zeros(len(v))], axis=1) for k, v in differences.items()}
    n = len(next(iter(differences.values()))) if differences else len(human or [])
    return PairRewards(human=np.array(human if human is not None else [0.5] * n), rewards=rewards)


def shown(labels: Labels) -> list[float | None]:
    """p of each pair, None where it is dropped."""
    return [float(p) if kept else None for p, kept in zip(labels.p, labels.kept, strict=True)]


def test_human() -> None:
    votes = pairs([1.0, 0.0, 0.5, 0.7])
    assert shown(Human().label(votes, 0)) == [1, 0, None, 1]
    assert shown(Human(ties="keep").label(votes, 0)) == [1, 0, 0.5, 1]
    assert Human().needs(()) == ()


def test_average_by_hand() -> None:
    # b's rewards are 100 times a's: raw, b alone decides.
    given = pairs(a=[1.0, -1.0, 1.0, 0.0], b=[-10.0, 100.0, -1.0, 0.0])
    assert shown(Average().label(given, 0)) == [0, 1, None, None]
    # min-max: a spans [-1, 1] and b [-10, 100]: 1/2 - 10/110 > 0, -1/2 + 100/110 > 0, ...
    assert shown(Average(normalise="minmax").label(given, 0)) == [1, 1, 1, None]
    assert shown(Average(scorers=("a",)).label(given, 0)) == [1, 0, 1, None]


def test_zscore_makes_scales_irrelevant() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 2))
    human = np.full(50, 0.5)
    z = Average(normalise="zscore")
    plain = z.label(PairRewards(human=human, rewards={"a": a, "b": b}), 0)
    scaled = z.label(PairRewards(human=human, rewards={"a": 7 * a + 3, "b": 0.01 * b - 5}), 0)
    assert shown(plain) == shown(scaled)
    expected = ((a - a.mean()) / a.std() + (b - b.mean()) / b.std()) @ [1, -1] > 0
    assert np.array_equal(plain.p == 1, expected)


@pytest.mark.parametrize("normalise", ["minmax", "zscore"])
def test_constant_scorer_says_nothing(normalise: str) -> None:
    given = pairs(a=[1.0, -2.0], constant=[0.0, 0.0])
    assert shown(Average(normalise=normalise).label(given, 0)) == [1, 0]


def test_smoothed_equals_the_softmax_of_normalised_rewards() -> None:
    rewards = np.array([[0.21, 0.18], [0.15, 0.25], [0.2, 0.2]])
    low, high = 0.11543526500463486, 0.28201571106910706
    exponents = np.exp((rewards - low) / (high - low))
    expected = exponents[:, 0] / exponents.sum(axis=1)
    given = PairRewards(human=np.full(3, 0.5), rewards={"pick": rewards})
    labels = Smoothed(low=low, high=high).label(given, 0)
    np.testing.assert_allclose(labels.p, expected, rtol=1e-14)
    assert labels.p[2] == 0.5
    assert labels.kept.all()


def test_smoothed_weight_is_gamma_tanh_of_half_the_difference() -> None:
    """gamma (2p - 1) = gamma tanh(dr' / 2), and the weights of SmPO's PickScore constants."""
    differences = np.array([0.001, 0.01, 0.02, 0.05, 0.16658])
    given = pairs(pick=list(differences))
    labels = Smoothed(low=0.0, high=0.16658).label(given, 0)
    weight = 10 * (2 * labels.p - 1)
    np.testing.assert_allclose(weight, 10 * np.tanh(differences / 0.16658 / 2), rtol=1e-12)
    np.testing.assert_allclose(weight, [0.03, 0.30, 0.60, 1.49, 4.62], atol=0.005)


def test_smoothed_bounds_are_the_data_sets_own_and_temperature_divides() -> None:
    given = pairs(a=[4.0, 1.0, 0.0])
    p = Smoothed().label(given, 0).p
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-np.array([1.0, 0.25, 0.0]))))
    half = Smoothed(temperature=0.5).label(given, 0).p
    np.testing.assert_allclose(half, 1 / (1 + np.exp(-np.array([2.0, 0.5, 0.0]))))
    assert Smoothed(temperature=1e-6).label(given, 0).p.tolist() == [1, 1, 0.5]


def test_smoothed_of_several_scorers_smooths_the_mean() -> None:
    given = pairs(a=[4.0, 0.0], b=[10.0, 5.0])
    p = Smoothed().label(given, 0).p
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-np.array([1.0, 0.25]))))


def test_smoothed_refuses_bounds_that_make_no_sense() -> None:
    with pytest.raises(BenchError, match="one scorer"):
        Smoothed(low=0.0).label(pairs(a=[1.0], b=[1.0]), 0)
    with pytest.raises(BenchError, match="low < high"):
        Smoothed(low=2.0).label(pairs(a=[1.0]), 0)


VOTES = [list(v) for v in itertools.product([1.0, -1.0, 0.0], repeat=3)]


def test_majority_vote_truth_table() -> None:
    given = pairs([1.0] * 27, **{n: [v[i] for v in VOTES] for i, n in enumerate("abc")})
    table = {tuple(v): p for v, p in zip(VOTES, shown(MajorityVote().label(given, 0)), strict=True)}
    assert table[1, 1, 1] == table[1, 1, -1] == table[1, 0, 0] == table[1, 1, 0] == 1
    assert table[-1, -1, 1] == table[-1, 0, 0] == table[0, -1, -1] == 0
    assert table[1, -1, 0] is table[0, 0, 0] is None
    for votes, p in table.items():
        total = sum(votes)
        assert p == (None if total == 0 else float(total > 0))


def test_majority_vote_counts_votes_and_not_rewards() -> None:
    given = pairs(a=[0.1], b=[0.1], c=[-1000.0])
    assert shown(MajorityVote().label(given, 0)) == [1]


def test_majority_vote_tie_rules() -> None:
    given = pairs(
        [1.0, 0.0, 0.5, 0.0, 1.0], a=[1.0, 1.0, 1.0, 0.0, 1.0], b=[-1.0, -1.0, -1.0, 0.0, 1.0]
    )
    assert shown(MajorityVote().label(given, 0)) == [None, None, None, None, 1]
    assert shown(MajorityVote(ties="human").label(given, 0)) == [1, 0, None, 0, 1]
    by_a = MajorityVote(ties="priority", priority="a").label(given, 0)
    assert shown(by_a) == [1, 1, 1, None, 1]
    by_b = MajorityVote(ties="priority", priority="b").label(given, 0)
    assert shown(by_b) == [0, 0, 0, None, 1]


def test_majority_vote_dead_zone_is_in_each_scorers_own_units() -> None:
    # Standard deviations: 1 for a, 1000 for b.
    given = pairs(a=[1.0, -1.0, 1.0, -1.0], b=[-1000.0, 1000.0, -1000.0, 1000.0])
    assert shown(MajorityVote().label(given, 0)) == [None] * 4
    unsure = pairs(a=[0.1, 5.0, -5.0], b=[-500.0, -500.0, 500.0])
    # std of a is 4.08, of b 471: within half of that a abstains on the first pair.
    assert shown(MajorityVote(dead_zone=0.5).label(unsure, 0)) == [0, None, None]
    # All abstain; the priority scorer's vote is an abstention too.
    everywhere = MajorityVote(dead_zone=10.0, ties="priority", priority="a")
    assert shown(everywhere.label(unsure, 0)) == [None] * 3


def test_majority_vote_priority_must_be_a_voter_and_have_an_effect() -> None:
    with pytest.raises(BenchError, match="one of the voters"):
        MajorityVote(ties="priority", priority="c").needs(["a", "b"])
    with pytest.raises(BenchError, match="no effect"):
        MajorityVote(priority="a").needs(["a", "b"])


def test_random_scorer_is_a_function_of_the_seed_and_fair() -> None:
    n = 4000
    given = pairs(a=[1.0] * n, b=[-1.0] * n)
    labels = RandomScorer().label(given, 0)
    assert np.array_equal(labels.p, RandomScorer().label(given, 0).p)
    assert not np.array_equal(labels.p, RandomScorer().label(given, 1).p)
    # Half of the pairs each; 4 standard errors.
    assert labels.p.mean() == pytest.approx(0.5, abs=4 * 0.5 / n**0.5)
    assert shown(RandomScorer(scorers=("a",)).label(given, 0)) == [1] * n
    assert shown(RandomScorer().label(pairs(a=[0.0], b=[0.0]), 0)) == [None]


ALL = [Average(), Average(normalise="zscore"), Smoothed(), MajorityVote(), RandomScorer()]


@pytest.mark.parametrize("aggregation", ALL)
def test_order_of_scorers_changes_nothing(aggregation: Aggregation) -> None:
    rng = np.random.default_rng(1)
    rewards = {name: rng.normal(size=(30, 2)) for name in ("a", "b[x=1]", "c")}
    human = np.full(30, 0.5)
    forth = aggregation.label(PairRewards(human=human, rewards=rewards), 0)
    back = dict(reversed(rewards.items()))
    assert shown(forth) == shown(aggregation.label(PairRewards(human=human, rewards=back), 0))


@pytest.mark.parametrize("aggregation", ALL)
def test_swapping_all_images_reverses_the_labels(aggregation: Aggregation) -> None:
    rng = np.random.default_rng(1)
    rewards = {name: rng.normal(size=(30, 2)) for name in "abc"}
    human = np.full(30, 0.5)
    forth = aggregation.label(PairRewards(human=human, rewards=rewards), 0)
    swapped = {name: r[:, ::-1] for name, r in rewards.items()}
    back = aggregation.label(PairRewards(human=human, rewards=swapped), 0)
    np.testing.assert_allclose(forth.p, 1 - back.p, atol=1e-15)
    assert np.array_equal(forth.kept, back.kept)


@pytest.mark.parametrize("aggregation", ALL)
def test_needs(aggregation: Aggregation) -> None:
    assert aggregation.needs(["b", "a"]) == ("b", "a")
    with pytest.raises(BenchError, match="label_scorers"):
        aggregation.needs([])


def test_named_scorers_stand_before_the_pool() -> None:
    assert MajorityVote(scorers=("x[k=1]", "y")).needs(["a"]) == ("x[k=1]", "y")


@pytest.mark.parametrize("aggregation", ALL)
def test_rewards_that_are_not_finite_are_refused(aggregation: Aggregation) -> None:
    with pytest.raises(BenchError, match="'b' gave rewards that are not finite for 1 pairs"):
        aggregation.label(pairs(a=[1.0, 2.0], b=[np.nan, 1.0]), 0)


def test_names() -> None:
    assert [cls.name for cls in bench_aggregations()] == [
        "human",
        "average",
        "smoothed",
        "majority_vote",
        "random_scorer",
    ]
