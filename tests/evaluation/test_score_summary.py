"""The figures that a table of scores comes to, against plain Python."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from bench.scoring.summary import benchmark, by_group, looks_like_cosines, summarise


def test_mean_median_and_population_deviation() -> None:
    scores = [0.2, 0.1, 0.4, 0.8, 0.1]
    summary = summarise(np.array(scores))
    assert summary.n == 5
    assert summary.mean == pytest.approx(statistics.fmean(scores), abs=1e-15)
    assert summary.median == 0.2
    assert summary.std == pytest.approx(statistics.pstdev(scores), abs=1e-15)


def test_groups_are_summarised_one_by_one() -> None:
    found = by_group(np.array([1.0, 2.0, 3.0, 9.0]), ["b", "a", "b", None])
    assert list(found) == ["a", "b"]
    assert (found["a"].n, found["a"].mean) == (1, 2.0)
    assert (found["b"].n, found["b"].mean, found["b"].std) == (2, 2.0, 1.0)


@pytest.mark.parametrize("counts", [{"anime": 800, "photo": 800}, {"a": 200, "b": 81, "c": 5}])
def test_the_benchmark_is_the_mean_of_groups_of_80(counts: dict[str, int]) -> None:
    """By the definition, in plain Python: groups in order, the last one shorter."""
    rng = np.random.default_rng(0)
    own = {style: rng.normal(0.28, 0.03, n).tolist() for style, n in counts.items()}
    # The styles' images are interleaved: what counts is the order within a style.
    places = [(i, style) for style, values in own.items() for i in range(len(values))]
    places.sort()
    scores = np.array([own[style][i] for i, style in places])
    found = benchmark(scores, [style for _, style in places])
    for style, values in own.items():
        groups = [values[i : i + 80] for i in range(0, len(values), 80)]
        means = [100 * sum(group) / len(group) for group in groups]
        assert found.styles[style].n == len(values)
        assert found.styles[style].mean == pytest.approx(statistics.fmean(means), abs=1e-11)
        assert found.styles[style].std == pytest.approx(statistics.pstdev(means), abs=1e-11)
    everything = [value for values in own.values() for value in values]
    assert found.average == pytest.approx(100 * statistics.fmean(everything), abs=1e-11)


def test_cosines_are_told_from_other_scales() -> None:
    assert looks_like_cosines(np.array([0.28, -0.1, 1.0]))
    assert not looks_like_cosines(np.array([21.7, 0.3]))
    assert not looks_like_cosines(np.array([0.3, -1.4]))
