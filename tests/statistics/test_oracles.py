"""The model agrees with scipy and statsmodels where they have the same quantity, to 1e-9.

The win and the loss that it adds are given to them as data.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.statistics import model
from bench.statistics.model import Components, Floats


def parts(outcomes: Floats, texts: list[str] | None = None) -> Components:
    """Of [train seeds, prompts]."""
    prompts = outcomes.shape[1]
    design = model.design(texts or [str(i) for i in range(prompts)], [""] * prompts)
    return model.components(outcomes[:, :, None], design)


def with_added(outcomes: Floats) -> Floats:
    seeds = len(outcomes)
    return np.concatenate([outcomes, np.ones((seeds, 1)), np.zeros((seeds, 1))], axis=1)


@pytest.mark.parametrize("prompts", [2, 50, 1632])
def test_one_training_is_scipys_t_interval(prompts: int) -> None:
    outcomes = np.random.RandomState(prompts).choice([0.0, 0.5, 1.0], (1, prompts))
    found = model.win_rate(parts(outcomes), None)
    theirs = stats.ttest_1samp(with_added(outcomes)[0], 0.5)
    ends = theirs.confidence_interval(0.95)
    clipped = max(0.0, ends.low), min(1.0, ends.high)
    assert (found.low, found.high) == pytest.approx(clipped, rel=1e-9)
    assert abs(found.centre - 0.5) / found.standard_error == pytest.approx(
        abs(theirs.statistic), rel=1e-9, abs=1e-12
    )
    assert found.df == pytest.approx(theirs.df, rel=1e-9)


def layout() -> Floats:
    i = np.arange(30)
    return np.stack(
        [(i * 7) % 10 < 6, (i * 7 + i // 3) % 10 < 6, (i * 7 + i // 2) % 10 < 7]
    ).astype(np.float64)


def test_mean_squares_are_statsmodels() -> None:
    """anova_lm(ols("y ~ C(seed) + C(prompt)")) of statsmodels 0.15.0, the added prompts last."""
    ms_seed, ms_prompt, ss_residual = 0.16666666666666657, 0.26579301075268813, 13.666666666666666
    found = parts(layout())
    seeds, n = 3, 32
    assert found.prompt == pytest.approx(ms_prompt / (n * seeds), rel=1e-9)
    assert found.between == pytest.approx(ms_seed / n, rel=1e-9)
    # What is added is the same in all trainings, so the model leaves it out of the residual.
    of_added = 2 * (seeds - 1) * ms_seed / n
    ms_residual = (ss_residual - of_added) / ((seeds - 1) * (n - 1))
    assert found.residual == pytest.approx(ms_residual / n, rel=1e-9)


def test_mean_squares_are_a_naive_loops() -> None:
    y = with_added(layout())
    seeds, n = y.shape
    grand = sum(y[s, p] for s in range(seeds) for p in range(n)) / (seeds * n)
    rows = [sum(y[s, p] for p in range(n)) / n for s in range(seeds)]
    columns = [sum(y[s, p] for s in range(seeds)) / seeds for p in range(n)]
    residual = 0.0
    for s in range(seeds):
        for p in range(n - 2):
            residual += (y[s, p] - rows[s] - columns[p] + grand) ** 2
    found = parts(layout())
    assert found.centre == pytest.approx(grand, rel=1e-12)
    between = sum((row - grand) ** 2 for row in rows) / (seeds - 1)
    prompt = sum((column - grand) ** 2 for column in columns) / (n - 1) / n
    assert found.between == pytest.approx(between, rel=1e-9)
    assert found.prompt == pytest.approx(prompt, rel=1e-9)
    assert found.residual == pytest.approx(residual / (seeds - 1) / (n - 1) / n, rel=1e-9)


def test_repeated_texts_have_statsmodels_cluster_robust_error() -> None:
    """OLS(y, 1).fit(cov_type="cluster") of statsmodels 0.15.0; the win and the loss twice each."""
    i = np.arange(40)
    first = ((i * 7) % 10 < 6) * 1.0
    second = ((i * 3) % 8 < 5) * 0.5 + ((i * 5) % 9 < 3) * 0.5
    texts = [str(k) for k in i] * 2
    found = model.win_rate(parts(np.concatenate([first, second])[None], texts), None)
    assert found.centre == pytest.approx(0.5416666666666667, rel=1e-9)
    assert found.standard_error == pytest.approx(0.048133472802472176, rel=1e-9)
    assert found.df == pytest.approx(41, rel=1e-12)


def test_degrees_of_freedom_by_hand() -> None:
    """Half of the variance is the trainings': (1/2)^(8/6) of 1/4, and (1/2)^2 of 1/100."""
    assert model.degrees_of_freedom(1.0, 100, 1.0, 4) == pytest.approx(
        1 / (0.5 ** (4 / 3) / 4 + 0.0025), rel=1e-12
    )
    assert model.degrees_of_freedom(1.0, 100, 1.0, 4, family=True) == pytest.approx(
        1 / (0.5 ** (4 / 5) / 4 + 0.0025), rel=1e-12
    )
    # One part alone has its own; with many trainings they are Satterthwaite's.
    assert model.degrees_of_freedom(1.0, 100, 0.0, 4) == pytest.approx(100)
    assert model.degrees_of_freedom(1e-12, 100, 1.0, 4) == pytest.approx(4)
    satterthwaite = 3.0**2 / (1.0 / 400 + 4.0 / 300)
    assert model.degrees_of_freedom(1.0, 400, 2.0, 300) == pytest.approx(satterthwaite, rel=0.01)


def test_a_small_prompt_set_gives_the_degrees_of_freedom() -> None:
    """Sets weigh the same, so that of 10 and of 1,000 prompts the 10 decide."""
    outcomes = np.random.RandomState(0).choice([0.0, 1.0], (1, 1010))
    design = model.design([str(i) for i in range(1010)], ["few"] * 10 + ["many"] * 1000)
    found = model.win_rate(model.components(outcomes[:, :, None], design), None)
    assert 10 <= found.df <= 12
