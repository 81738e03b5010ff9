"""Intervals of people's rates hold the truth as often as they say; the large version is slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_plugins.shapes import population
from PIL import Image

from bench.audit import exporting
from bench.audit.compared import Compared
from bench.audit.findings import find
from bench.audit.records import Method
from bench.audit.votes import Vote
from bench.leaderboard.results import CellResult, PromptSetScores
from bench.lib.images import png
from bench.recipe.prompt_table import PromptTable
from tests.audit import coverage as simulated
from tests.audit.coverage import ALIKE, BETTER, BLIND, CLOSE, FAR_BETTER, LOOSE
from tests.leaderboard import small_board


def test_votes_are_the_populations() -> None:
    first, second = simulated.pictures((BETTER, ALIKE), 20_000, np.random.default_rng(0))
    given = simulated.votes(first, second, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    who, draws = rng.integers(0, population.PEOPLE, 20_000), rng.random(20_000)
    for i in range(500):
        person = population.people()[who[i]]
        assert given[i] == population.choice(person, first[i], second[i], draws[i])
    expected = population.share_from(first, second).mean()
    assert given.mean() == pytest.approx(float(expected), abs=4 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("count", [30, 100, 300])
def test_intervals_cover(count: int) -> None:
    """Four standard errors of 400 audits about 95%."""
    found = simulated.coverage(BETTER, CLOSE, 1000, count, 400)
    assert 0.906 < found.alone < 0.994
    assert 0.906 < found.powered < 0.994
    assert found.powered_width < 0.96 * found.alone_width


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
@pytest.mark.parametrize("noise", [CLOSE, LOOSE, BLIND])
@pytest.mark.parametrize("shift", [ALIKE, BETTER])
def test_intervals_cover_94_to_96(shift: tuple[float, ...], noise: float, count: int) -> None:
    """Within two standard errors of 4,000 audits, 0.7 points, of the bar."""
    found = simulated.coverage(shift, noise, 1632, count, 4000)
    print(shift[0], noise, count, found)
    assert 0.933 < found.alone < 0.967
    assert 0.933 < found.powered < 0.967
    # What scorers cannot tell costs nothing.
    assert found.powered_width < (0.96 if noise == CLOSE else 1.0) * found.alone_width


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_where_several_vote_scorers_help_more(count: int) -> None:
    """The mean of five votes has less chance in it, so scorers explain more of what is left."""
    found = simulated.coverage(BETTER, CLOSE, 1632, count, 4000, people=5)
    print("five people", count, found)
    assert 0.933 < found.alone < 0.967
    assert 0.933 < found.powered < 0.967
    assert found.powered_width < 0.86 * found.alone_width


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_far_from_half_they_cover_at_least_as_often(count: int) -> None:
    """Where 86% prefer one, the added win and loss err on the safe side."""
    found = simulated.coverage(FAR_BETTER, LOOSE, 1632, count, 4000)
    print("far", count, found)
    assert 0.94 < found.powered < 0.985


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_ranks_are_rarely_wrong(count: int) -> None:
    """At most 5% in a family of three pairs, with two standard errors of 2,000 audits."""
    share = simulated.wrong_ranks(CLOSE, 1632, count, 2000)
    print("ranks", count, share)
    assert share < 0.06


def _asked(rng: np.random.Generator) -> tuple[Compared, dict[str, np.ndarray]]:
    """Two methods of two trainings on two prompt sets of other sizes and rates, and what people
    truly think of each comparison: prompt set -> chances [prompts, image seeds, train seeds]."""
    chances, tables = {}, {}
    for name, prompts, middle in (("large", 300, 0.8), ("small", 100, -0.4)):
        # Prompts differ much, and so do the images of one prompt.
        better = middle + rng.normal(0, 1, (prompts, 1, 1)) + rng.normal(0, 1, (prompts, 2, 2))
        chances[name] = 1 / (1 + np.exp(-better))
        texts = tuple(f"{name} {row}" for row in range(prompts))
        tables[name] = PromptTable(name=name, texts=texts, groups=({},) * prompts)
    evaluation = replace(
        small_board.EVALUATION, prompts={name: table.sha256 for name, table in tables.items()}
    )
    noise = {name: rng.normal(0, 0.3, (2, *chance.shape)) for name, chance in chances.items()}

    def cell(method: str, seed: int) -> CellResult:
        parts = []
        for name, table in tables.items():
            known = np.log(chances[name] / (1 - chances[name])) + noise[name]
            values = known[:, :, :, seed] if method == "dpo" else 0 * known[:, :, :, seed]
            scores = {small_board.SCORERS[i]: tuple(values[i].ravel().tolist()) for i in (0, 1)}
            part = PromptSetScores(
                prompt_set=name,
                prompts_sha256=table.sha256,
                prompts=len(table.texts),
                image_seeds=(0, 1),
                scores=scores,
            )
            parts.append(part)
        made = small_board.cell(method, seed=seed)
        return replace(made, evaluation=evaluation, evaluations=tuple(parts), held_out=())

    cells = {(method, seed): cell(method, seed) for method in ("dpo", "sft") for seed in (0, 1)}
    methods = tuple(
        Method(
            method=name,
            variant="",
            shown=name,
            base=False,
            cells={str(seed): f"{name}{seed}" for seed in (0, 1)},
        )
        for name in ("dpo", "sft")
    )
    by_name = {f"{name}{seed}": (Path(name), made) for (name, seed), made in cells.items()}
    return Compared("p", methods, by_name, tables, (0, 1)), chances


@pytest.mark.slow
@pytest.mark.parametrize("count", [30, 100, 300])
def test_the_whole_way_covers(count: int, tmp_path: Path) -> None:
    """From an export to its import: sets of other sizes, trainings, noise, two people an item."""
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(Image.new("RGB", (1, 1))))
    rng = np.random.Generator(np.random.PCG64(5))
    better = np.concatenate([m + 2**0.5 * rng.normal(0, 1, 10**6) for m in (0.8, -0.4)])
    true = float(np.mean(1 / (1 + np.exp(-better))))
    inside, repetitions = np.zeros(2), 500
    for number in range(repetitions):
        compared, chances = _asked(rng)
        audit = exporting.prepare(compared, lambda *_: picture, count=count, seed=number)
        votes = []
        for place, item in enumerate(audit.key.items):
            chance = chances[item.prompt_set][item.row, item.image_seed, item.train_seed]
            for rater in ("a", "b"):
                side = "left" if (rng.random() < chance) == item.first_left else "right"
                votes.append(Vote(item=place, rater=rater, choice=side, seconds=1.0))
        [pair] = find(audit.key, compared, votes).pairs
        for kind, found in enumerate((pair.human, pair.powered)):
            assert found
            inside[kind] += found.low <= true <= found.high
    print("whole way", count, inside / repetitions)
    # Three standard errors of 500 audits about the bar.
    assert (inside / repetitions > 0.911).all()
    assert (inside / repetitions < 0.989).all()
