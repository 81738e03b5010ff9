from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics.correlation import HIGH, dependent, spearman, warnings


def test_by_hand_with_a_tie() -> None:
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: centred -1.5, 0, 0, 1.5 and -1.5, 0.5, -0.5, 1.5.
    found = spearman(
        {"a": np.array([[0.0, 1.0, 1.0, 9.0]]), "b": np.array([[-4.0, 2.0, 0.0, 3.0]])}
    )
    assert found.spearman[0][1] == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert found.spearman[0][0] == pytest.approx(1.0)
    assert found.effective == pytest.approx(4 / (2 + 2 * 4.5 / np.sqrt(4.5 * 5.0)))


def test_one_method_is_scipys_rho() -> None:
    rng = np.random.RandomState(0)
    a = rng.randint(0, 9, 80).astype(float)
    b = a + rng.randint(0, 9, 80)
    found = spearman({"a": a[None], "b": b[None]})
    assert found.spearman[1][0] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_better_methods_do_not_make_scorers_alike() -> None:
    rng = np.random.RandomState(0)
    level = np.arange(20.0)[:, None] * 10
    found = spearman({name: level + rng.standard_normal((20, 50)) for name in "ab"})
    rho = found.spearman[0][1]
    assert rho is not None
    assert abs(rho) < 0.1
    assert found.effective == pytest.approx(2.0, abs=0.2)


def test_methods_are_pooled_by_their_ranks() -> None:
    rng = np.random.RandomState(1)
    a = rng.standard_normal((3, 40))
    b = a + rng.standard_normal((3, 40))
    ranks = [np.concatenate([stats.rankdata(row) for row in of]) for of in (a, b)]
    found = spearman({"a": a, "b": b})
    assert found.spearman[0][1] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_a_scorer_that_sees_nothing_has_no_correlation() -> None:
    seen = np.arange(5.0)[None]
    found = spearman({"blind": np.zeros((1, 5)), "a": seen, "twin": seen**3})
    assert found.spearman[0] == (None, None, None)
    assert found.spearman[1][2] == pytest.approx(1.0)
    assert found.effective == pytest.approx(1.0)
    assert spearman({"blind": np.zeros((1, 5))}).effective == 0.0
    assert spearman({}).scorers == ()


def test_opposed_scorers_count_no_more_than_their_number() -> None:
    seen = np.arange(5.0)[None]
    assert spearman({"a": seen, "b": -seen}).effective == 2.0


def test_other_prompts_are_refused() -> None:
    with pytest.raises(BenchError, match="same methods and prompts"):
        spearman({"a": np.zeros((1, 5)), "b": np.zeros((1, 6))})


def test_pairs_that_are_no_two_judges() -> None:
    rng = np.random.RandomState(2)
    a = rng.standard_normal((1, 200))
    noise = rng.standard_normal((2, 1, 200))
    near, far = a + 0.3 * noise[0], noise[1]
    found = spearman({"a": a, "near": near, "far": far, "blind": np.zeros_like(a)})
    rho = found.spearman[0][1]
    assert rho is not None
    assert rho > HIGH
    towers = {frozenset(("a", "far")): "clip", frozenset(("far", "blind")): "blip"}
    pairs = dependent(found, towers)
    assert [(p.first, p.second, p.tower) for p in pairs] == [
        ("a", "near", ""),
        ("a", "far", "clip"),
        ("far", "blind", "blip"),
    ]
    near_by, shared, unknown = warnings(pairs)
    assert near_by.startswith(
        f"a and near see nearly the same differences (rank correlation {rho:.2f})"
    )
    assert "a and far stand on one network (clip; rank correlation" in shared
    assert unknown == "far and blind stand on one network (blip): what it cannot see counts twice"
