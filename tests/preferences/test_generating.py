"""Ranking and pairing in closed form, and the file that they end in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.api.kinds import Aggregation, PreferencePair
from bench.lib.images import decode, png
from bench.preferences.generating import compare, paired, rank, seated, write
from bench.registry.registry import default_registry
from tests import toy

PROMPTS = [f"a picture of number {i}" for i in range(40)]


def _aggregation(spec: str) -> Aggregation:
    built: Aggregation = default_registry().build("aggregations", spec)
    return built


def _rewards(images: int, scorers: Sequence[str] = ("s",), prompts: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(k, 1 + k, (prompts, images)) for k, name in enumerate(scorers)}


def test_which_image_is_shown_first_is_a_coin_toss_that_stays() -> None:
    first = [
        seated(prompt, i, j)[0] == i for prompt in PROMPTS for i, j in combinations(range(8), 2)
    ]
    # 1,120 tosses: within four standard deviations of a half.
    assert abs(np.mean(first) - 0.5) < 4 * 0.5 / np.sqrt(len(first))
    assert all(
        seated(prompt, i, j) == seated(prompt, j, i) and {*seated(prompt, i, j)} == {i, j}
        for prompt in PROMPTS
        for i, j in combinations(range(4), 2)
    )


@pytest.mark.parametrize("spec", ["average", "smoothed", "majority_vote", "random_scorer"])
def test_the_chances_of_a_pair_add_up_to_one(spec: str) -> None:
    chances = compare(PROMPTS, _rewards(5, ("s", "t")), _aggregation(spec))
    assert chances.shape == (40, 5, 5)
    assert np.array_equal(chances + chances.transpose(0, 2, 1), np.ones_like(chances))
    assert (chances[:, range(5), range(5)] == 0.5).all()


def test_one_scorer_prefers_the_higher_reward_and_ties_equal_ones() -> None:
    rewards = np.array([[1.0, 3.0, 3.0], [0.0, -1.0, 2.0]])
    chances = compare(PROMPTS[:2], {"s": rewards}, _aggregation("average"))
    assert np.array_equal(chances, (np.sign(rewards[:, :, None] - rewards[:, None]) + 1) / 2)


@pytest.mark.parametrize("normalise", ["minmax", "zscore"])
def test_normalisation_is_over_the_images_each_counted_once(normalise: str) -> None:
    rewards = _rewards(6, ("a", "b", "c"))
    scaled = []
    for values in rewards.values():
        if normalise == "minmax":
            scaled.append((values - values.min()) / (values.max() - values.min()))
        else:
            scaled.append((values - values.mean()) / values.std())
    mean = np.mean(scaled, axis=0)
    chances = compare(PROMPTS, rewards, _aggregation(f"average[normalise={normalise}]"))
    assert np.array_equal(chances, (np.sign(mean[:, :, None] - mean[:, None]) + 1) / 2)


def test_smoothed_labels_are_the_sigmoid_of_the_normalised_difference() -> None:
    rewards = _rewards(4)["s"]
    scaled = (rewards - rewards.min()) / (rewards.max() - rewards.min())
    expected = 1 / (1 + np.exp(-(scaled[:, :, None] - scaled[:, None])))
    chances = compare(PROMPTS, {"s": rewards}, _aggregation("smoothed"))
    assert np.abs(chances - expected).max() < 1e-15


def test_a_transitive_comparison_ranks_by_reward() -> None:
    rewards = _rewards(7)["s"]
    chances = compare(PROMPTS, {"s": rewards}, _aggregation("average"))
    for prompt, values, some in zip(PROMPTS, rewards, chances, strict=True):
        assert rank(prompt, some) == np.argsort(-values).tolist()


def test_a_cycle_is_ranked_by_its_mean_chances() -> None:
    """0 beats 1, 2, 3 but loses to 4, which loses to all others; 1 > 2 > 3 > 1."""
    beats = {(0, 1), (0, 2), (0, 3), (4, 0), (1, 4), (2, 4), (3, 4), (1, 2), (2, 3), (3, 1)}
    chances = np.full((5, 5), 0.5)
    for i, j in permutations(range(5), 2):
        chances[i, j] = float((i, j) in beats)
    ranking = rank("cycle", chances)
    assert ranking[0] == 0
    assert ranking[-1] == 4
    assert {*ranking[1:4]} == {1, 2, 3}


def test_images_that_stand_equal_are_ranked_by_lot_and_always_alike() -> None:
    equal = np.full((4, 4), 0.5)
    rankings = [tuple(rank(f"prompt {i}", equal)) for i in range(600)]
    assert rankings == [tuple(rank(f"prompt {i}", equal)) for i in range(600)]
    counts = [rankings.count(order) for order in permutations(range(4))]
    # 24 orders, 25 times each on average: chi-square with 23 degrees of freedom, p > 0.001.
    assert sum((count - 25) ** 2 / 25 for count in counts) < 49.7


def test_forms() -> None:
    assert paired([2, 0, 3, 1], "best-worst") == [(2, 1)]
    assert paired([2, 0, 3, 1], "adjacent") == [(2, 0), (0, 3), (3, 1)]
    assert paired([2, 0, 1], "all") == [(2, 0), (2, 1), (0, 1)]
    for form in ("best-worst", "adjacent", "all"):
        assert paired([1, 0], form) == [(1, 0)]


def _picture(prompt: int, image: int) -> bytes:
    """A small square of a colour of its own."""
    return png(Image.new("RGB", (8, 8), (prompt, image, 200)))


def _write(path: Path, rewards: dict[str, Any], form: str = "best-worst", **changes: Any) -> Any:
    (images,) = {values.shape[1] for values in rewards.values()}
    arguments: dict[str, Any] = {
        "prompts": PROMPTS[: len(next(iter(rewards.values())))],
        "image": _picture,
        "models": [f"model {i % 2}" for i in range(images)],
        "seeds": [10 + i for i in range(images)],
        "rewards": rewards,
        "label_with": _aggregation("average[normalise=zscore]"),
        "form": form,
        "sampling": {},
        "advance": lambda _: None,
    }
    return write(path, **{**arguments, **changes})


def _read(path: Path) -> list[PreferencePair]:
    return list(default_registry().build("preference_sets", f"pickapic[path={path}]").read())


def _shown(pair: PreferencePair) -> tuple[int, int, int]:
    """The numbers of prompt, image 0 and image 1, from the colours."""
    first, second = (decode(data).getpixel((0, 0)) for data in toy.encoded(pair))
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] == second[0]
    return first[0], first[1], second[1]


@pytest.mark.parametrize("form", ["best-worst", "adjacent", "all"])
def test_every_row_says_which_image_has_the_higher_reward(tmp_path: Path, form: str) -> None:
    rewards = _rewards(4)
    counts = _write(tmp_path / "pairs.parquet", rewards, form)
    pairs = _read(tmp_path / "pairs.parquet")
    expected = {"best-worst": 1, "adjacent": 3, "all": 6}[form] * 40
    assert counts == {"prompts": 40, "images": 160, "pairs": expected, "ties": 0}
    assert len(pairs) == expected
    ranks = np.argsort(np.argsort(-rewards["s"], axis=1), axis=1)
    for pair in pairs:
        prompt, first, second = _shown(pair)
        assert pair.caption == PROMPTS[prompt]
        assert toy.models(pair) == (f"model {first % 2}", f"model {second % 2}")
        assert pair.human == float(rewards["s"][prompt, first] > rewards["s"][prompt, second])
        gap = abs(int(ranks[prompt, first]) - int(ranks[prompt, second]))
        assert gap in {"best-worst": {3}, "adjacent": {1}, "all": {1, 2, 3}}[form]
    # Neither side wins by its place.
    assert 0.25 < np.mean([pair.human for pair in pairs]) < 0.75


def test_columns_hold_labels_and_the_rewards_of_the_images_beside_them(tmp_path: Path) -> None:
    rewards = _rewards(3, ("s", "t[x=1]"))
    _write(tmp_path / "pairs.parquet", rewards, "all")
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table["label_0"].to_pylist() == [1 - label for label in table["label_1"].to_pylist()]
    assert table["are_different"].to_pylist() == [True] * 120
    for row, pair in enumerate(_read(tmp_path / "pairs.parquet")):
        prompt, *images = _shown(pair)
        for name, values in rewards.items():
            for side, image in enumerate(images):
                assert pair.images[side].scores[name] == values[prompt, image]
                assert pair.images[side].seed == 10 + image
                assert table[f"reward_{side}.{name}"][row].as_py() == values[prompt, image]


def test_ties_and_dropped_pairs_are_written_as_ties_and_counted(tmp_path: Path) -> None:
    split = {"s": np.array([[1.0, 0.0], [1.0, 0.0]]), "t": np.array([[0.0, 1.0], [1.0, 0.0]])}
    vote = _aggregation("majority_vote")
    counts = _write(tmp_path / "vote.parquet", split, label_with=vote)
    assert counts == {"prompts": 2, "images": 4, "pairs": 2, "ties": 1}
    first, second = _read(tmp_path / "vote.parquet")
    assert first.human == 0.5
    assert second.human in (0.0, 1.0)
    equal = {"s": np.array([[2.0, 2.0, 2.0], [1.0, 2.0, 2.0]])}
    counts = _write(tmp_path / "equal.parquet", equal, "all", label_with=_aggregation("smoothed"))
    assert (counts["pairs"], counts["ties"]) == (6, 4)


def test_a_pair_is_labelled_by_its_own_comparison_not_by_rank(tmp_path: Path) -> None:
    """Image 0 beats 1, 2 and 3; 4 beats 0 alone; 1 > 2 > 3 > 1: first 0, last 4, and 4 wins."""
    orders = ([0, 1, 2, 3, 4], [4, 0, 2, 3, 1], [3, 1, 2, 4, 0])
    votes = {f"voter {k}": -np.argsort([order]).astype(float) for k, order in enumerate(orders)}
    _write(tmp_path / "pairs.parquet", votes, label_with=_aggregation("majority_vote"))
    (pair,) = _read(tmp_path / "pairs.parquet")
    _, first, second = _shown(pair)
    assert {first, second} == {0, 4}
    assert pair.human == float(first == 4)


def test_two_images_are_one_pair_in_every_form(tmp_path: Path) -> None:
    forms = ("best-worst", "adjacent", "all")
    for form in forms:
        _write(tmp_path / f"{form}.parquet", _rewards(2), form)
    best, adjacent, every = (_read(tmp_path / f"{form}.parquet") for form in forms)
    assert best == adjacent == every
    assert len(best) == 40


def test_the_same_input_gives_the_same_bytes_and_says_where_it_comes_from(tmp_path: Path) -> None:
    rewards = _rewards(4, ("s", "t"))
    for name in ("one", "two"):
        _write(tmp_path / f"{name}.parquet", rewards, "all", sampling={"steps": 25})
    one, two = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("one", "two"))
    assert one == two
    metadata = pq.read_schema(tmp_path / "one.parquet").metadata
    provenance = json.loads(metadata[b"provenance"])
    assert provenance["models"] == ["model 0", "model 1"] * 2
    assert provenance["scorers"] == ["s", "t"]
    assert provenance["label_with"] == "average[normalise=zscore]"
    assert provenance["form"] == "all"
    assert provenance["prompts"] == 40
    assert provenance["sampling"] == {"steps": 25}
    assert metadata[b"provenance"].decode() == json.dumps(provenance, sort_keys=True)


def test_more_prompts_leave_the_pairs_of_the_others_as_they_are(tmp_path: Path) -> None:
    rewards = _rewards(4)
    raw = _aggregation("average")
    _write(tmp_path / "all.parquet", rewards, "all", label_with=raw)
    few = {"s": rewards["s"][:7]}
    _write(tmp_path / "few.parquet", few, "all", label_with=raw)
    assert _read(tmp_path / "few.parquet") == _read(tmp_path / "all.parquet")[: 7 * 6]


def test_an_image_is_read_once_and_only_if_it_is_paired(tmp_path: Path) -> None:
    read: list[tuple[int, int]] = []

    def image(prompt: int, number: int) -> bytes:
        read.append((prompt, number))
        return _picture(prompt, number)

    _write(tmp_path / "all.parquet", _rewards(4), "all", image=image)
    assert len(read) == len(set(read)) == 160
    read.clear()
    _write(tmp_path / "two.parquet", _rewards(4), "best-worst", image=image)
    assert len(read) == len(set(read)) == 80
