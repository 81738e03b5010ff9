from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from bench.lib.errors import BenchError
from bench.statistics import model
from bench.statistics.power import (
    POWER,
    Spread,
    Study,
    effective_prompts,
    half_width,
    head_to_head,
    measured,
    widest,
)

ALIKE = Spread(prompt=0.49, residual=0.1, seed=0.02)
MIXED = Spread(prompt=0.3, residual=0.38, seed=0.03)


def distinct(prompts: int) -> model.Design:
    return model.design([f"prompt {i}" for i in range(prompts)], ["set"] * prompts)


def outcomes(
    rng: np.random.RandomState, spread: Spread, methods: int, seeds: int, prompts: int
) -> np.ndarray:
    """[methods, seeds, prompts] of normal outcomes about 0."""
    return (
        spread.prompt * rng.standard_normal((methods, 1, prompts))
        + spread.seed * rng.standard_normal((methods, seeds, 1))
        + spread.residual * rng.standard_normal((methods, seeds, prompts))
    )


def found(
    study: Study, effect: float, prompts: int, seeds: int, *, repeats: int, seed: int
) -> float:
    """How often the model's own test finds the difference of the first comparison."""
    rng, design, methods = np.random.RandomState(seed), distinct(prompts), study.methods
    hits = 0
    for _ in range(repeats):
        values = outcomes(rng, study.spread, methods, seeds, prompts)
        df = None
        if study.pairs:
            values /= math.sqrt(2)
            values[0] += effect
            values = np.stack([values[a] - values[b] for a, b in combinations(range(methods), 2)])
            df = (methods - 1.0) * (seeds - 1)
        else:
            values[0] += effect
        compared = [model.components(0.5 + one[:, :, None], design) for one in values]
        rate = model.win_rate(compared[0], model.seed_variances(compared, df=df)[0])
        low, high = rate.ends(1 - study.alpha, family=methods > 1)
        hits += not low <= 0.5 <= high
    return hits / repeats


@pytest.mark.parametrize(
    ("study", "prompts", "seeds"),
    [
        (Study(spread=ALIKE, methods=1), 320, 3),
        (Study(spread=ALIKE, methods=3), 320, 3),
        (Study(spread=MIXED, methods=3), 320, 3),
        (Study(spread=MIXED, methods=2), 400, 5),
        (Study(spread=head_to_head(ALIKE), methods=2, pairs=True), 800, 2),
        (Study(spread=head_to_head(MIXED), methods=3, pairs=True), 320, 3),
        (Study(spread=head_to_head(MIXED), methods=4, pairs=True), 100, 5),
    ],
)
def test_the_model_finds_what_is_called_detectable_in_80_of_100_studies(
    study: Study, prompts: int, seeds: int
) -> None:
    effect = study.detectable(prompts, seeds)
    power = found(study, effect, prompts, seeds, repeats=500, seed=prompts + seeds)
    assert power == pytest.approx(POWER, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("prompts", [50, 320, 1600])
def test_power_of_many_studies(prompts: int, seeds: int, pairs: bool) -> None:
    study = Study(spread=head_to_head(MIXED) if pairs else MIXED, methods=3, pairs=pairs)
    effect = study.detectable(prompts, seeds)
    power = found(study, effect, prompts, seeds, repeats=2_000, seed=prompts)
    assert power == pytest.approx(POWER, abs=0.03)


def test_wins_and_losses_spread_at_most_as_assumed() -> None:
    # Prompts are won below a level that moves with the training, by a draw that half of them share.
    prompts, seeds, study = 320, 3, Study(spread=widest(seed_sd=0.03), methods=3)
    effect = study.detectable(prompts, seeds)
    rng, design, hits = np.random.RandomState(1), distinct(prompts), 0
    for _ in range(500):
        draw = rng.standard_normal((3, 1, prompts)) + rng.standard_normal((3, seeds, prompts))
        level = 0.5 + 0.03 * rng.standard_normal((3, seeds, 1))
        level[0] += effect
        won = (draw < math.sqrt(2) * stats.norm.ppf(level)).astype(np.float64)
        compared = [model.components(one[:, :, None], design) for one in won]
        p_value = model.win_rates(compared)[0].p_value
        assert p_value is not None
        hits += p_value < study.alpha
    assert hits / 500 > POWER


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
@pytest.mark.parametrize("effect", [0.01, 0.05, 0.2])
def test_trainings_alone_have_the_power_of_a_t_test(seeds: int, effect: float) -> None:
    study = Study(spread=Spread(prompt=0.5, residual=0.3, seed=0.05), methods=1)
    limit, shift = stats.t.isf(0.025, seeds - 1), effect * math.sqrt(seeds) / 0.05
    exact = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
    assert study.power(effect, math.inf, seeds) == pytest.approx(exact, abs=0.002)


def test_trainings_alone_are_those_of_statsmodels() -> None:
    # statsmodels 0.15.0: TTestPower().solve_power(nobs=..., alpha=0.05, power=0.8).
    study = Study(spread=Spread(prompt=0.5, residual=0.0, seed=0.02), methods=1)
    for seeds, size in ((3, 3.264043552819638), (5, 1.6819970833232674), (10, 0.9960019107624178)):
        assert study.detectable(math.inf, seeds) == pytest.approx(0.02 * size, rel=0.002)


@pytest.mark.parametrize("prompts", [50, 320, 3200])
def test_prompts_alone_have_the_power_of_a_t_test(prompts: int) -> None:
    study = Study(spread=Spread(prompt=0.5, residual=0.0, seed=0.0), methods=1)
    shift = 0.07 * math.sqrt(prompts) / 0.5
    exact = stats.nct.sf(stats.t.isf(0.025, prompts), prompts, shift)
    # The win and the loss that are added cost a little.
    assert exact - 1.5 / prompts < study.power(0.07, prompts, 3) <= exact + 1e-9


def test_the_chance_of_finding_what_is_not_there_is_the_level() -> None:
    for seeds in (2, 4, 8):
        study = Study(spread=Spread(prompt=0.5, residual=0.3, seed=0.05), methods=1)
        assert study.power(0.0, math.inf, seeds) == pytest.approx(study.alpha, abs=0.002)


def test_more_methods_need_larger_differences_at_a_level_that_holds_for_all_pairs() -> None:
    found = [Study(spread=widest(), methods=n).detectable(320, 10) for n in (1, 2, 5, 10)]
    assert found == sorted(found)
    limit = stats.studentized_range.isf(0.05, 4, np.inf) / math.sqrt(2)
    assert Study(spread=widest(), methods=3).alpha == pytest.approx(
        2 * stats.norm.sf(limit), rel=0.02
    )


def test_prompts_needed_are_just_enough() -> None:
    study = Study(spread=MIXED, methods=4)
    needed = study.prompts_needed(0.05, 10)
    assert needed is not None
    assert study.power(0.05, needed, 10) >= POWER > study.power(0.05, 0.99 * needed - 1, 10)


def test_train_seeds_needed_are_just_enough() -> None:
    study = Study(spread=MIXED, methods=4)
    needed = study.seeds_needed(0.06, 800)
    assert needed is not None
    assert study.detectable(800, needed) <= 0.06
    assert all(study.detectable(800, fewer) > 0.06 for fewer in range(2, needed))


def test_prompts_do_not_replace_trainings_nor_trainings_prompts() -> None:
    study = Study(spread=MIXED, methods=4)
    for seeds in (3, 10):
        floor = study.prompts_floor(seeds)
        assert study.prompts_needed(0.95 * floor, seeds) is None
        assert study.prompts_needed(1.05 * floor, seeds) is not None
    assert study.seeds_needed(0.95 * study.seeds_floor(320), 320) is None
    assert study.detectable(320, 100) > study.seeds_floor(320)


def test_with_few_trainings_more_prompts_may_find_less() -> None:
    study = Study(spread=head_to_head(widest()), methods=2, pairs=True)
    assert study.detectable(1_600, 2) > study.detectable(320, 2) > 0.98 * study.prompts_floor(2)


def test_without_any_spread_everything_is_found() -> None:
    study = Study(spread=Spread(prompt=0.0, residual=0.0, seed=0.0), methods=2)
    assert study.detectable(10, 2) == 0.0


def test_one_training_finds_nothing_of_a_method() -> None:
    with pytest.raises(BenchError, match="one train seed cannot separate methods"):
        Study(spread=widest(), methods=2).detectable(320, 1)


@pytest.mark.parametrize(("methods", "pairs"), [(0, False), (1, True)])
def test_there_must_be_something_to_compare(methods: int, pairs: bool) -> None:
    with pytest.raises(BenchError, match="nothing to compare"):
        Study(spread=widest(), methods=methods, pairs=pairs)


def test_a_checkpoint_is_judged_as_its_interval_says() -> None:
    prompts = 400
    rng = np.random.RandomState(3)
    results = (rng.random_sample((1, prompts, 1)) < 0.5).astype(np.float64)
    rate = model.win_rates([model.components(results, distinct(prompts))])[0]
    assert half_width(widest(), prompts) == pytest.approx((rate.high - rate.low) / 2, rel=0.02)


def test_ties_narrow_the_spread() -> None:
    assert widest().prompt == 0.5
    assert widest(0.5).prompt == pytest.approx(math.sqrt(0.125))


@pytest.mark.parametrize("given", [(1.0, 0.02), (-0.1, 0.02), (0.0, -0.01), (0.0, 0.6)])
def test_spreads_out_of_range_are_refused(given: tuple[float, float]) -> None:
    with pytest.raises(BenchError, match="is not from 0 to"):
        widest(*given)


def test_a_small_prompt_set_limits_the_whole() -> None:
    design = model.design([f"prompt {i}" for i in range(100)], ["a"] * 10 + ["b"] * 90)
    assert effective_prompts(design) == pytest.approx(4 / (1 / 10 + 1 / 90))
    assert effective_prompts(distinct(50)) == pytest.approx(50)


def test_equal_prompts_count_once() -> None:
    design = model.design(["same", "same", *map(str, range(8))], ["a"] * 10)
    assert effective_prompts(design) == pytest.approx(1 / (0.2**2 + 8 * 0.1**2))


def test_measured_spreads_are_those_that_outcomes_have() -> None:
    rng, prompts = np.random.RandomState(7), 2_000
    values = outcomes(rng, MIXED, 12, 6, prompts)
    design = distinct(prompts)
    compared = [model.components(0.5 + one[:, :, None], design) for one in values]
    spread = measured(compared, effective_prompts(design))
    assert spread.prompt == pytest.approx(MIXED.prompt, rel=0.03)
    assert spread.residual == pytest.approx(MIXED.residual, rel=0.03)
    assert spread.seed == pytest.approx(MIXED.seed, rel=0.15)


def test_a_single_training_measures_no_spread() -> None:
    values = outcomes(np.random.RandomState(0), MIXED, 2, 1, 50)
    compared = [model.components(0.5 + one[:, :, None], distinct(50)) for one in values]
    with pytest.raises(BenchError, match="no method has two train seeds"):
        measured(compared, 50)
