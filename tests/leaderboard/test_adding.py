from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import adding, results
from bench.leaderboard import board as boards
from bench.leaderboard.protocol import Protocol
from bench.lib import files
from bench.lib.errors import BenchError
from tests.leaderboard import frozen_board, small_board
from tests.leaderboard.frozen_board import cell, forge, frozen, result, run, snapshot

Record = dict[str, Any]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return frozen(tmp_path / "board")


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in (folder / "results").glob("*.json"))


def test_a_run_joins_and_its_board_is_built(board: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo", lift=0.3), cell("smpo[beta=500]", lift=0.4))
    done = adding.add(made, board)
    assert len(done.files) == 3 + 2
    boards.check(board)
    for folder in ("results", "prompts"):
        for path in (made / folder).iterdir():
            assert (board / folder / path.name).read_bytes() == path.read_bytes()
    assert {row.method for row in boards.write(board).sections[0].rows} == {
        "base",
        "dpo",
        "smpo[beta=500]",
    }


def test_a_second_run_joins_the_first_and_nothing_comes_twice(board: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "first", cell("dpo", lift=0.3))
    adding.add(first, board)
    second = run(tmp_path / "second", cell("dpo", lift=0.3), cell("sft", lift=-0.2))
    done = adding.add(second, board)
    assert (len(done.files), done.known, done.notes) == (1, 2, ())
    assert names(board) == ["base", "dpo", "sft"]
    before = snapshot(board)
    assert adding.add(second, board).files == ()
    assert snapshot(board) == before
    boards.check(board)


def test_the_order_of_adding_does_not_matter(tmp_path: Path) -> None:
    one = run(tmp_path / "one", cell("dpo", lift=0.3))
    two = run(tmp_path / "two", cell("sft", lift=-0.2), cell("smpo[beta=500]", 1))
    left, right = frozen(tmp_path / "left"), frozen(tmp_path / "right")
    for folder, order in ((left, (one, two)), (right, (two, one))):
        for made in order:
            adding.add(made, folder)
    assert snapshot(left) == snapshot(right)


@pytest.mark.parametrize("method", ["dpo", "Diffusion-DPO"])
def test_one_method_joins_alone_with_the_base(board: Path, tmp_path: Path, method: str) -> None:
    labelled = cell("dpo", lift=0.3, label="Diffusion-DPO")
    made = run(tmp_path / "run", labelled, cell("sft", lift=-0.2))
    adding.add(made, board, [method])
    assert names(board) == ["base", "dpo"]
    with pytest.raises(BenchError, match=r"run: unknown method 'sfx'\. Did you mean 'sft'"):
        adding.add(made, board, ["sfx"])


def test_a_result_takes_the_place_of_its_failure_and_never_gives_way_to_one(
    board: Path, tmp_path: Path
) -> None:
    described = cell("sft").described
    failed = small_board.failure("sft", described=described)
    adding.add(run(tmp_path / "failed", cell("dpo"), failed), board)
    adding.add(run(tmp_path / "done", cell("sft", lift=0.1)), board)
    boards.check(board)
    kinds = {json.loads(p.read_text())["kind"] for p in (board / "results").iterdir()}
    assert kinds == {"result"}
    (note,) = adding.add(tmp_path / "failed", board).notes
    assert "is a failure; the board keeps" in note


def test_what_is_not_as_frozen_is_refused_or_marked(board: Path, tmp_path: Path) -> None:
    other = small_board.sampled(steps=50)
    base, dpo = (cell(method, evaluation=other) for method in ("base", "dpo"))
    made = small_board.save(tmp_path / "run", [base, dpo])
    message = r"run/results/base.*: not as 'Small' was frozen: evaluation\.sampling\.steps "
    before = snapshot(board)
    with pytest.raises(BenchError, match=message + r"\(50 against 20\); .*--as-deviation"):
        adding.add(made, board)
    assert snapshot(board) == before
    adding.add(run(tmp_path / "frozen", cell("dpo")), board)
    done = adding.add(made, board, as_deviation=True)
    assert set(done.deviations.values()) == {("evaluation.sampling.steps (50 against 20)",)}
    boards.check(board)
    text = (board / "README.md").read_text()
    assert "**Not all results are as frozen:**" in text
    assert "evaluation.sampling.steps (50 against 20)" in text
    # The consent is in the ledger; without it the same files are refused.
    ledger = json.loads((board / "ledger.json").read_text())
    (board / "ledger.json").write_text(json.dumps({**ledger, "deviations": []}))
    with pytest.raises(BenchError, match=r"not as 'Small' was frozen"):
        boards.check(board)


def test_each_method_must_have_its_train_seeds(tmp_path: Path) -> None:
    board = frozen(tmp_path / "board", min_train_seeds=2)
    one = run(tmp_path / "one", cell("dpo"))
    message = (
        r"one/results/dpo--seed0-.*: record\.seed: dpo has 1 train seed\(s\) \(0\), at least 2"
    )
    with pytest.raises(BenchError, match=message):
        adding.add(one, board)
    adding.add(run(tmp_path / "two", cell("dpo"), cell("dpo", 1)), board)
    assert names(board) == ["base", "dpo", "dpo"]


def test_one_training_is_not_two_train_seeds(tmp_path: Path) -> None:
    board = frozen(tmp_path / "board", min_train_seeds=2)
    first = cell("dpo", lift=0.3)
    made = run(tmp_path / "run", first, dataclasses.replace(first, seed=1))
    with pytest.raises(BenchError, match=r"dpo--seed1-.*: every score is that of .*dpo--seed0-"):
        adding.add(made, board)
    nothing = cell("sft", evaluations=cell("base").evaluations)
    adding.add(run(tmp_path / "idle", nothing, dataclasses.replace(nothing, seed=1)), board)


def test_who_may_be_added_is_for_the_board_to_say(tmp_path: Path) -> None:
    board = frozen(tmp_path / "board", methods=("dpo",), untrained=False)
    published = dataclasses.replace(cell("dpo"), training=None, pairs="")
    for made, message in (
        (cell("sft"), r"record\.method: sft is none of the methods that are admitted \(dpo;"),
        (published, r"record\.training: dpo was not trained here"),
    ):
        folder = run(tmp_path / made.method / str(made.training is None), made)
        with pytest.raises(BenchError, match=message):
            adding.add(folder, board)


def test_a_board_of_any_training_takes_all_budgets(tmp_path: Path) -> None:
    board = frozen(tmp_path / "board", Protocol(small_board.EVALUATION, None))
    budgets = [
        cell("dpo", training=small_board.steps(count), budget=dataclasses.replace(b, steps=count))
        for count in (3, 10)
        for b in (cell("dpo").budget,)
    ]
    budgets[0] = dataclasses.replace(
        budgets[0], budget=dataclasses.replace(budgets[0].budget, pairs_seen=24)
    )
    adding.add(run(tmp_path / "run", *budgets), board)
    assert len(boards.write(board).sections) == 2
    boards.check(board)


def scorer(record: Record) -> Record:
    described: Record = record["evaluation"]["scorers"]["gold"]
    return described


REFUSED: dict[str, tuple[Callable[[Record], object], str]] = {
    "other-guidance": (
        lambda r: r["evaluation"]["sampling"].update(guidance=9.0),
        r"evaluation\.sampling\.guidance \(9\.0 against 7\.5\)",
    ),
    "other-budget": (
        lambda r: r["training"]["options"].update(steps=99),
        r"training\.options\.steps \(99 against 10\)",
    ),
    "other-fingerprint-of-a-scorer": (
        lambda r: scorer(r).update(fingerprint="f" * 64),
        r"evaluation\.scorers\.gold\.fingerprint \(ffffffff against none\)",
    ),
    "other-version-of-a-scorer": (
        lambda r: scorer(r).update(version="2"),
        r"evaluation\.scorers\.gold\.version \(2 against 1\)",
    ),
    "other-weights": (
        lambda r: r["evaluation"]["backbone"].update(fingerprint="e" * 64),
        r"evaluation\.backbone\.fingerprint \(eeeeeeee against abc\)",
    ),
    "other-pairs": (
        lambda r: r["training"]["pairs"].update(fingerprint="e" * 64),
        r"training\.pairs\.fingerprint",
    ),
    "gold-not-held-out": (lambda r: r.update(held_out=[]), r"held_out \(none against gold\)"),
    "in-loop-hidden": (
        lambda r: r.update(label_scorers={"shape": {"name": "shape"}}),
        r"record\.in_loop lacks shape, whose rewards labelled its pairs",
    ),
    "in-loop-hidden-behind-another-spec": (
        lambda r: r.update(label_scorers={"shape[size=2]": {"name": "shape"}}),
        r"record\.in_loop lacks shape",
    ),
    "scores-of-fewer-scorers": (
        lambda r: r["evaluations"][1]["scores"].pop("shape"),
        r"record\.evaluations \(styles\)\.scores lacks shape",
    ),
    "under-another-method's-name": (
        lambda r: r["described"].update(name="sft"),
        r"record\.method is dpo, but described is of sft",
    ),
    "more-steps-than-allowed": (
        lambda r: r["budget"].update(steps=11),
        r"record\.budget\.steps is 11, training\.options\.steps allows 10",
    ),
    "more-pairs-than-allowed": (
        lambda r: r["budget"].update(pairs_seen=81),
        r"record\.budget\.pairs_seen is 81, training\.options allow 80",
    ),
    "negative-cost": (
        lambda r: r["cost"].update(train_seconds=-1.0),
        r"record\.cost\.train_seconds is -1\.0",
    ),
    "negative-seed": (lambda r: r.update(seed=-1), r"record\.seed is -1"),
    "nan": (
        lambda r: r["evaluations"][0]["scores"].update(gold=[float("nan")] * 80),
        r"cannot be read as JSON \(NaN is no number\)",
    ),
    "one-score-short": (
        lambda r: r["evaluations"][0]["scores"]["gold"].pop(),
        r"scores\.gold \(parti\) has 79, not 80 scores",
    ),
    "prompts-that-are-not-there": (
        lambda r: (
            r["evaluation"]["prompts"].update(parti="0" * 64),
            r["evaluations"][0].update(prompts_sha256="0" * 64),
        ),
        r"evaluation\.prompts\.parti \(00000000 against",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_place_and_nothing_done(board: Path, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    made = run(tmp_path / "run", cell("dpo", lift=0.3), cell("sft"))
    path = forge(result(made), change)
    before = snapshot(board)
    with pytest.raises(BenchError, match=message) as refused:
        adding.add(made, board)
    assert str(path) in str(refused.value)
    assert snapshot(board) == before


def test_another_schema_is_refused(board: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    path = result(made)
    path.write_text(re.sub(r'"schema": \d+', '"schema": 99', path.read_text()))
    with pytest.raises(BenchError, match=r"dpo--seed0-.*schema is 99, this version reads"):
        adding.add(made, board)


def test_missing_prompts_bases_and_duplicates_are_refused(board: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    without = tmp_path / "without"
    shutil.copytree(made, without)
    prompts = results.record_path(without, small_board.PARTI)
    prompts.unlink()
    message = r"base.*record\.evaluation\.prompts\.parti: neither .*without/prompts nor the board"
    with pytest.raises(BenchError, match=message):
        adding.add(without, board)

    baseless = tmp_path / "baseless"
    shutil.copytree(made, baseless)
    result(baseless, "base").unlink()
    message = r"dpo--seed0.*: there is no result of the untouched backbone"
    with pytest.raises(BenchError, match=message):
        adding.add(baseless, board)

    twice = tmp_path / "twice"
    shutil.copytree(made, twice)
    shutil.copy(result(twice), twice / "results" / "copy.json")
    with pytest.raises(BenchError, match=r"copy\.json and .*dpo.* describe the same cell"):
        adding.add(twice, board)


def test_the_same_cell_with_other_scores_is_refused(board: Path, tmp_path: Path) -> None:
    adding.add(run(tmp_path / "first", cell("dpo", lift=0.3)), board)
    again = run(tmp_path / "again", cell("dpo", lift=0.3))
    path = forge(
        result(again), lambda r: r["evaluations"][0]["scores"]["gold"].__setitem__(7, 99.0)
    )
    with pytest.raises(BenchError, match=r"scores\.gold\[7\]: 99\.0 against .* of the same cell"):
        adding.add(again, board)
    assert path.exists()


def base(by: float) -> results.CellResult:
    parts = tuple(frozen_board.moved(part, by) for part in cell("base").evaluations)
    return cell("base", evaluations=parts)


def test_a_base_of_another_device_stays_away_and_another_base_is_refused(
    board: Path, tmp_path: Path
) -> None:
    adding.add(run(tmp_path / "first", cell("dpo")), board)
    near = small_board.save(tmp_path / "near", [base(1e-6), cell("sft")])
    (note,) = adding.add(near, board).notes
    assert "scores a little differently than the board's base" in note
    boards.check(board)
    far = small_board.save(tmp_path / "far", [base(-0.5), cell("smpo")])
    with pytest.raises(BenchError, match=r"this base is not the board's"):
        adding.add(far, board)


def test_a_second_base_is_refused(board: Path, tmp_path: Path) -> None:
    adding.add(run(tmp_path / "first", cell("dpo")), board)
    worse = run(tmp_path / "worse")
    forge(result(worse, "base"), lambda r: r["described"]["options"].update(beta=1.0))
    with pytest.raises(BenchError, match=r"record\.base: a second untouched backbone"):
        adding.add(worse, board)


def test_a_board_that_was_touched_takes_nothing(board: Path, tmp_path: Path) -> None:
    adding.add(run(tmp_path / "first", cell("dpo", lift=0.3)), board)
    forge(result(board), lambda r: r["evaluations"][0]["scores"]["gold"].__setitem__(0, 9.0))
    message = r"board/results/dpo--seed0-.*\.json: was changed after it was added"
    for touch in (
        lambda: adding.add(run(tmp_path / "second", cell("sft")), board),
        lambda: boards.check(board),
        lambda: boards.write(board),
    ):
        with pytest.raises(BenchError, match=message):
            touch()


def test_what_was_laid_there_by_hand_is_refused(board: Path, tmp_path: Path) -> None:
    adding.add(run(tmp_path / "first", cell("dpo", lift=0.3)), board)
    path = results.save_record(board, cell("sft", lift=3.0))
    with pytest.raises(BenchError, match=rf"{path.name}: was not added by `bench leaderboard add`"):
        boards.check(board)
    path.unlink()
    result(board).unlink()
    with pytest.raises(BenchError, match=r"dpo.*: is in the ledger and not here"):
        boards.check(board)


@pytest.mark.parametrize("after", [1, 3, 8])
def test_a_disk_that_is_full_leaves_the_board_as_it_was(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    adding.add(run(tmp_path / "first", cell("dpo")), board)
    before = snapshot(board)
    made = run(tmp_path / "second", cell("sft"), cell("smpo"))
    written = 0

    def full(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == after:
            raise OSError(28, "No space left on device", str(path))
        files.write_atomic(path, data)

    monkeypatch.setattr(adding, "write_atomic", full)
    with pytest.raises(BenchError, match=r"No space left on device\); the board is as it was"):
        adding.add(made, board)
    assert snapshot(board) == before
    monkeypatch.undo()
    adding.add(made, board)
    boards.check(board)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_the_same_command_goes_on_where_it_was_killed(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = frozen(tmp_path / "whole")
    made = run(tmp_path / "run", cell("dpo"), cell("sft"))
    adding.add(made, whole)
    done: list[tuple[Path, bytes]] = []
    monkeypatch.setattr(adding, "write_atomic", lambda path, data: done.append((path, data)))
    adding.add(made, board)
    monkeypatch.undo()
    # What a process that is killed after so many files has left.
    for path, data in done[:after]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    adding.add(made, board)
    assert snapshot(board) == snapshot(whole)


def test_only_a_board_takes_results(board: Path, tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    with pytest.raises(BenchError, match=r"run: has no board\.yaml.*bench leaderboard freeze"):
        adding.add(board, made)
    with pytest.raises(BenchError, match=r"is the board itself"):
        adding.add(board, board)
