"""`bench compare` from end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.leaderboard import tables
from bench.leaderboard.comparing import build
from bench.statistics import model
from tests import toy
from tests.commands import Bench
from tests.comparison.conftest import write_images
from tests.leaderboard import small_board
from tests.leaderboard.small_board import cell, save
from tests.tiny import save_tiny_pipeline

FOLDERS = ("compare", "a", "b", "--prompts=prompts.tsv", "--scorers=channel", "--device=cpu")


def _data(bench: Bench, *arguments: str) -> dict:
    code, out, err = bench(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def _refused(bench: Bench, *arguments: str) -> str:
    code, _, err = bench(*arguments)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_two_folders_win_tie_and_lose_as_their_images_do(bench: Bench, two: Path) -> None:
    data = _data(bench, *FOLDERS)
    (pair,) = data["pairs"]
    assert (pair["subject"], pair["other"]) == ("b", "a")
    assert pair["win_rate"] == pytest.approx((45 + 5 / 2) / 60)
    outcomes = np.array([1.0] * 45 + [0.0] * 10 + [0.5] * 5)[None, :, None]
    texts = [f"toy {i}" for i in range(60)]
    rate = model.win_rate(model.components(outcomes, model.design(texts, ["x"] * 60)), None)
    assert (pair["low"], pair["high"]) == pytest.approx((rate.low, rate.high))


def test_what_it_leaves_is_a_board(bench: Bench, two: Path) -> None:
    code, out, err = bench(*FOLDERS)
    assert code == 0, err
    assert "no p and no rank" in out
    assert "As trained" not in out
    folder = two / "bench-runs" / "compare" / "a-vs-b"
    tables.check(folder)
    (section,) = build(folder).sections
    assert [row.method for row in section.rows if row.base] == ["a"]
    assert (folder / "pairs.csv").read_text().startswith("subject,other,win_rate")
    assert r"\begin{tabular}" in (folder / "leaderboard.tex").read_text()
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 2 * 128
    code, out, err = bench("show", str(folder))
    assert code == 0, err


def test_nothing_is_scored_twice_and_an_earlier_comparison_is_replaced(
    bench: Bench, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(*FOLDERS)[0] == 0
    monkeypatch.setattr(toy.Channel, "score", None)
    assert bench(*FOLDERS)[0] == 0
    monkeypatch.undo()
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    monkeypatch.chdir(two)
    code, _, err = bench(*(a.replace("channel", "channel,truth") for a in FOLDERS))
    assert code == 0, err
    folder = two / "bench-runs" / "compare" / "a-vs-b"
    assert len([*(folder / "results").iterdir()]) == 2
    assert len(build(folder).sections) == 1


def test_another_base_turns_the_rates(bench: Bench, two: Path) -> None:
    data = _data(bench, *FOLDERS, "--base=b")
    assert data["base"] == "b"
    assert data["pairs"][0]["win_rate"] == pytest.approx(1 - (45 + 5 / 2) / 60)


def test_intervals_of_three_hold_for_all_pairs_at_once(bench: Bench, two: Path) -> None:
    write_images(two / "c", [100] * 60)
    alone = _data(bench, *FOLDERS)["pairs"][0]
    three = _data(bench, "compare", "c", *FOLDERS[1:])["pairs"]
    assert len(three) == 3
    same = next(pair for pair in three if (pair["subject"], pair["other"]) == ("b", "a"))
    assert same["win_rate"] == alone["win_rate"]
    assert same["low"] < alone["low"] < alone["high"] < same["high"]


def test_methods_of_a_run_are_compared_by_the_scores_that_they_have(
    bench: Bench, toy_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Channel, "score", None)
    data = _data(bench, "compare", "toy")
    assert data["subjects"] == ["base", "sft, seed 0", "sft, seed 1"]
    (one,) = _data(bench, "compare", "toy:base", "toy:sft[1]")["pairs"]
    pair = next(p for p in data["pairs"] if (p["subject"], p["other"]) == ("sft, seed 1", "base"))
    assert one["win_rate"] == pair["win_rate"]


def test_a_limit_takes_a_sample_of_every_prompt_set(bench: Bench, tmp_path: Path) -> None:
    save(tmp_path / "leaderboards" / "small", small_board.cells())
    assert bench("compare", "small:base", "small:dpo", "--limit=10")[0] == 0
    folder = tmp_path / "bench-runs" / "compare" / "small-base-vs-small-dpo"
    (section,) = build(folder).sections
    assert section.prompt_sets == {"parti": 10, "styles": 10}


def test_a_folder_is_compared_with_a_row_of_a_run(bench: Bench, toy_run: Path) -> None:
    (key,) = {
        path.parent.parent.name
        for path in (toy_run / "bench-runs" / "store" / "artefacts" / "sample").glob("*/images/*")
    } - _others(toy_run)
    images = toy_run / "bench-runs" / "store" / "artefacts" / "sample" / key / "images"
    shutil.copytree(images, toy_run / "mine")
    scorers = "--scorers=channel,truth[index=1]"
    data = _data(
        bench, "compare", "toy:base", "mine", scorers, "--prompts=prompts.tsv", "--device=cpu"
    )
    (pair,) = data["pairs"]
    # The very images of the base: every comparison is a tie.
    assert pair["win_rate"] == 0.5
    assert any("noise" in note for note in data["notes"])


def _others(folder: Path) -> set[str]:
    """Keys of samplings that are not the base's."""
    manifests = (folder / "bench-runs" / "store" / "artefacts" / "sample").glob("*/artefact.json")
    return {m.parent.name for m in manifests if json.loads(m.read_text())["inputs"]}


def test_a_checkpoint_is_sampled_by_a_recipe_and_not_trained(bench: Bench, toy_run: Path) -> None:
    save_tiny_pipeline(toy_run / "other", seed=1)
    scorers = ("--scorers=channel,truth[index=1]", "--prompts=prompts.tsv", "--device=cpu")
    data = _data(bench, "compare", "toy:base", "other", "base", "--recipe=toy.yaml", *scorers)
    rates = {(pair["subject"], pair["other"]): pair["win_rate"] for pair in data["pairs"]}
    assert len(data["subjects"]) == 3
    # The untouched backbone, sampled by the plan, is the run's own base.
    assert 0.5 in rates.values()
    artefacts = toy_run / "bench-runs" / "store" / "artefacts"
    assert len([*(artefacts / "train").iterdir()]) == 2
    message = _refused(bench, "compare", "toy:base", "other", *scorers)
    assert "--recipe" in message


def test_images_are_paired_by_prompt_and_what_is_not_in_all_is_named(
    bench: Bench, two: Path
) -> None:
    lines = ["image,prompt", *(f"b/{i:05d}.png,toy {i}" for i in range(10, 60))]
    (two / "list.csv").write_text("\n".join(reversed(lines[1:])).join(("image,prompt\n", "\n")))
    data = _data(
        bench,
        "compare",
        "a",
        "list.csv",
        "--prompts=prompts.tsv",
        "--scorers=channel",
        "--device=cpu",
    )
    assert data["pairs"][0]["win_rate"] == pytest.approx((35 + 5 / 2) / 50)
    assert any("10 of 60 prompts are left out" in note for note in data["notes"])


def test_the_first_images_count_where_not_all_have_several(bench: Bench, two: Path) -> None:
    for number, red in ((0, 200), (1, 0)):
        write_images(two / "c", [red] * 60, number)
    data = _data(bench, "compare", "a", "c", *FOLDERS[3:])
    assert data["pairs"][0]["win_rate"] == 1.0
    assert any("c has 2 images a prompt" in note for note in data["notes"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a",), "two or more"),
        (("a", "a"), "named twice"),
        (("a", "nowhere"), "nowhere"),
        (("a", "toy:sfd"), "sfd"),
        (("a", "toy:sft[7]"), "0, 1"),
        (("a", "b", "--base=c"), "unknown base 'c'"),
        (("a", "empty"), "holds no image"),
        (("a", "short"), "1 image missing"),
        (("a", "dpo"), "is a method that is trained"),
        (("a", "b", "--scorers=chanel"), "Did you mean 'channel'"),
        (("toy:base", "toy:sft", "--scorers=short"), "short"),
        (("toy:base", "toy:sft", "--base=toy:sft"), "name one of them"),
        (("toy:base", "toy:sft", "--recipe=toy.yaml"), "no checkpoint is named"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(
    bench: Bench, two: Path, toy_run: Path, arguments: tuple[str, ...], says: str
) -> None:
    toy.write_prompts(two / "sixty.tsv", 60)
    (two / "empty").mkdir()
    shutil.copytree(two / "a", two / "short")
    (two / "short" / "00003.png").unlink()
    run = any(argument.startswith("toy:") for argument in arguments[:1])
    extra = () if run else ("--prompts=sixty.tsv",)
    scorers = () if any("--scorers" in a for a in arguments) else ("--scorers=channel",)
    message = _refused(bench, "compare", *arguments, *extra, *scorers, "--device=cpu")
    assert says in message


def test_a_list_with_other_numbers_of_images_is_refused(bench: Bench, two: Path) -> None:
    lines = ["image,prompt", *(f"b/{i:05d}.png,toy {i // 2}" for i in range(59))]
    (two / "list.csv").write_text("\n".join(lines))
    message = _refused(bench, "compare", "list.csv", "a", *FOLDERS[3:])
    assert "list.csv: lists 2 images of most prompts, but 1 of 'toy 29'" in message


def test_what_shares_no_prompt_is_refused(bench: Bench, two: Path) -> None:
    (two / "list.csv").write_text("image,prompt\nb/00000.png,another")
    message = _refused(bench, "compare", "a", "list.csv", *FOLDERS[3:])
    assert "no prompt of which all have an image" in message


def test_scorers_that_a_training_has_read_do_not_decide(bench: Bench, tmp_path: Path) -> None:
    save(tmp_path / "leaderboards" / "small", small_board.cells())
    data = _data(bench, "compare", "small:base", "small:dpo", "small:smpo[0]")
    assert data["scorers"] == ["gold"]
    code, out, err = bench("compare", "small:base", "small:smpo[0]")
    assert code == 0, err
    assert "took part in its training" in out
    data = _data(bench, "compare", "small:smpo[0]", "small:sft", "--scorers=colour")
    assert data["scorers"] == ["colour"]
    assert any("every scorer took part" in note for note in data["notes"])


def test_scores_of_another_scorer_of_the_name_are_not_mixed(bench: Bench, tmp_path: Path) -> None:
    other = {"channel": {"name": "channel", "version": "0", "options": {}, "fingerprint": "old"}}
    evaluation = replace(small_board.EVALUATION, scorers=other)
    row = cell("dpo", held_out=())
    renamed = [replace(p, scores={"channel": p.scores["gold"]}) for p in row.evaluations]
    old = replace(row, evaluation=evaluation, evaluations=tuple(renamed))
    save(tmp_path / "leaderboards" / "old", [old])
    save(tmp_path / "leaderboards" / "small", [cell("base")])
    assert "no scorer has scored all of them" in _refused(bench, "compare", "old:dpo", "small:base")
    message = _refused(bench, "compare", "old:dpo", "small:base", "--scorers=channel")
    assert "was scored by another channel: " in message
    assert "fingerprint" in message


def test_images_of_a_run_are_scored_by_a_scorer_that_it_did_not_have(
    bench: Bench, toy_run: Path
) -> None:
    data = _data(
        bench, "compare", "toy:base", "toy:sft[0]", "--scorers=channel[index=2]", "--device=cpu"
    )
    assert data["scorers"] == ["channel[index=2]"]
    shutil.rmtree(toy_run / "bench-runs" / "store")
    message = _refused(bench, "compare", "toy:base", "toy:sft[0]", "--scorers=channel[index=1]")
    assert "--store" in message


def test_a_scorer_that_fails_leaves_the_others(bench: Bench, two: Path) -> None:
    broken = [a.replace("channel", "channel,faulty") for a in FOLDERS]
    code, out, err = bench(*broken)
    assert code == 1
    assert "score with faulty" in err
    assert "75.0%" not in err
    assert "79.2%" in out
    assert "score with faulty" in _refused(
        bench, *(a.replace("channel", "faulty") for a in FOLDERS)
    )


def test_scorers_are_asked_for_where_nothing_has_scores(bench: Bench, two: Path) -> None:
    message = _refused(bench, "compare", "a", "b", "--prompts=prompts.tsv")
    assert "--scorers" in message


def test_somebody_elses_folder_is_left_alone(bench: Bench, two: Path) -> None:
    (two / "mine").mkdir()
    (two / "mine" / "thesis.txt").write_text("all of it")
    assert "thesis.txt" in _refused(bench, *FOLDERS, "--out=mine")
