from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.api.kinds import Prompt
from bench.leaderboard import comparing, results, tables
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from tests.leaderboard import small_board

OLD = Path(__file__).with_name("old")
"""Boards as earlier versions wrote them."""
OLD_BOARDS = sorted(OLD.iterdir())


def edit(path: Path, change: Any, *, sign: bool = True) -> None:
    """Change a file's record; `sign` renews its checksum."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document["record"])
    if sign:
        text = json.dumps(document["record"], sort_keys=True, separators=(",", ":"))
        document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(document), encoding="utf-8")


def _in_first(**fields: Any) -> Any:
    """Change the record's first evaluation."""
    return lambda record: record["evaluations"][0].update(fields)


def _known(cell: results.CellResult) -> results.CellResult:
    """The cell with all that may be known of its images and training."""
    evaluations = tuple(
        dataclasses.replace(
            part,
            samples=("0" * 20, "1" * 20),
            facts={"saturation": tuple(i / 100 for i in range(2 * part.prompts))},
            diversity=tuple(i / 10 for i in range(part.prompts)),
        )
        for part in cell.evaluations
    )
    curve = {"step": (1.0, 5.0, 10.0), "loss": (0.7, 0.6, 0.5)}
    return dataclasses.replace(cell, evaluations=evaluations, weight_distance=0.01, curve=curve)


def test_what_is_known_of_images_and_training_survives_the_round_trip(tmp_path: Path) -> None:
    cell = _known(small_board.cell("dpo"))
    path = results.save_record(tmp_path, cell)
    assert results.load_cell(path) == cell
    # The cell is the same one, of which more is known.
    assert cell.identity == small_board.cell("dpo").identity
    assert path == results.record_path(tmp_path, small_board.cell("dpo"))


def test_the_base_has_no_training_to_tell_of() -> None:
    base = small_board.cell("base")
    with pytest.raises(BenchError, match="weight_distance must be null for the base"):
        dataclasses.replace(base, weight_distance=0.0)
    with pytest.raises(BenchError, match="curve must be empty without training"):
        dataclasses.replace(base, curve={"step": (1.0,)})


def _scores_in(path: Path) -> list[dict[str, list[float]]]:
    record = json.loads(path.read_text(encoding="utf-8"))["record"]
    return [part["scores"] for part in record.get("evaluations", ())]


@pytest.mark.parametrize("folder", OLD_BOARDS, ids=lambda folder: folder.name)
def test_old_files_load_and_give_the_same_figures(tmp_path: Path, folder: Path) -> None:
    cells, prompts = results.load_cells(folder), results.load_prompts(folder)
    for path, cell in cells.items():
        if isinstance(cell, results.CellResult):
            loaded = [{k: list(v) for k, v in p.scores.items()} for p in cell.evaluations]
            assert loaded == _scores_in(path)
        # Written anew they are the same cells, of which no more is known.
        results.save_record(tmp_path, cell)
    for table in prompts.values():
        results.save_record(tmp_path, table)
    anew = results.load_cells(tmp_path)
    assert list(anew.values()) == list(cells.values())
    figures = tables.render(comparing.compare(cells, prompts))
    assert figures == tables.render(comparing.compare(anew, results.load_prompts(tmp_path)))
    assert "dpo" in figures["leaderboard.csv"]


def test_cells_of_the_second_schema_keep_their_identity() -> None:
    """It names files and is referred to: new fields must not change it."""
    for path, cell in results.load_cells(OLD / "schema2").items():
        assert results.record_path(OLD / "schema2", cell) == path


def test_a_result_of_the_first_schema_says_what_it_was_made_by() -> None:
    base, dpo = results.load_cells(OLD / "schema1").values()
    assert isinstance(dpo, results.CellResult)
    assert (base.base, base.training, base.pairs) == (True, None, "")
    assert (dpo.base, dpo.pairs, dpo.label) == (False, "shapes", "Diffusion-DPO")
    assert base.evaluation == dpo.evaluation
    assert dpo.evaluation.image_seeds == (0, 1)
    assert dpo.evaluation.sampling == {"scheduler": "ddim", "steps": 20, "guidance": 7.5}
    assert dpo.evaluation.prompts == small_board.EVALUATION.prompts
    assert dpo.evaluation.scorers == small_board.EVALUATION.scorers
    assert dpo.training is not None
    assert dpo.training.options == small_board.TRAINING.options
    assert dpo.label_scorers == {"colour": dpo.evaluation.scorers["colour"]}
    # The same draw as today's board of seeds.
    today = small_board.cell("dpo", lift=0.3)
    assert [part.scores for part in dpo.evaluations] == [part.scores for part in today.evaluations]
    assert (dpo.cost, dpo.budget) == (today.cost, today.budget)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("sampling"), "no result of schema 1 without 'sampling'"),
        (lambda r: r.update(evaluations=3), "no result of schema 1 .*not iterable"),
        (lambda r: r.update(colour=1), r"record\.colour: "),
        (lambda r: r["configuration"].pop("scorers"), "no result of schema 1 without 'scorers'"),
        (
            lambda r: r["evaluations"][0]["scores"]["gold"].pop(),
            r"scores\.gold \(parti\) has 79, not 80 scores",
        ),
    ],
)
def test_a_bad_result_of_the_first_schema_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    old = next((OLD / "schema1" / "results").glob("dpo*"))
    path = Path(shutil.copy(old, tmp_path / "x.json"))
    edit(path, change)
    with pytest.raises(BenchError, match=message) as caught:
        results.load_cell(path)
    assert str(caught.value).startswith(str(path))


def test_a_failure_of_the_first_schema_says_to_go(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema": 1, "kind": "failure", "record": {"method": "a"}, "sha256": ""}')
    with pytest.raises(BenchError, match="does not say its protocol; remove the file"):
        results.load_cell(path)


def test_an_old_file_and_a_new_one_of_the_same_cell_are_two_of_one(tmp_path: Path) -> None:
    board = Path(shutil.copytree(OLD / "schema2", tmp_path / "board"))
    path = next((board / "results").glob("dpo*"))
    cell = results.load_cell(path)
    assert isinstance(cell, results.CellResult)
    path.rename(path.with_name("older.json"))
    results.save_record(board, _known(cell))
    with pytest.raises(BenchError, match=r"older\.json describe the same cell; remove one"):
        results.load_cells(board)


@pytest.mark.parametrize("folder", OLD_BOARDS, ids=lambda folder: folder.name)
def test_a_change_of_an_old_file_is_noticed(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "x.json"
    old = next((folder / "results").glob("dpo*"))
    text = old.read_text(encoding="utf-8")
    path.write_text(text.replace('"label": "Diffusion-DPO"', '"label": "DPO"'), encoding="utf-8")
    with pytest.raises(BenchError, match="sha256 does not match"):
        results.load_cell(path)


def test_records_survive_the_round_trip_and_files_are_stable(tmp_path: Path) -> None:
    for cell in small_board.cells():
        path = results.save_record(tmp_path, cell)
        text = path.read_bytes()
        loaded = results.load_cell(path)
        assert results.save_record(tmp_path, loaded).read_bytes() == text
        assert text.endswith(b"}\n")
        if isinstance(cell, results.CellResult) and isinstance(loaded, results.CellResult):
            assert loaded.evaluations == cell.evaluations
            assert (loaded.cost, loaded.budget) == (cell.cost, cell.budget)


def test_prompts_survive_the_round_trip(tmp_path: Path) -> None:
    table = PromptTable.of("näme", [Prompt("a ‘red’ fox", {"category": "Animals"})])
    path = results.save_record(tmp_path, table)
    assert path.name == f"n-me-{table.sha256[:12]}.json"
    assert results.load_prompts(tmp_path) == {table.sha256: table}


def test_prompt_hash_knows_texts_and_groups_but_not_the_name() -> None:
    table = small_board.PARTI
    assert dataclasses.replace(table, name="other").sha256 == table.sha256
    assert dataclasses.replace(table, groups=table.groups[::-1]).sha256 != table.sha256
    assert dataclasses.replace(table, texts=table.texts[::-1]).sha256 != table.sha256


def test_a_later_result_replaces_the_failure(tmp_path: Path) -> None:
    cell = small_board.cell("dpo")
    failure = small_board.failure("dpo")
    assert results.save_record(tmp_path, failure) == results.save_record(tmp_path, cell)
    assert next(iter(results.load_cells(tmp_path).values())).method == "dpo"


def test_different_specs_never_share_a_file(tmp_path: Path) -> None:
    specs = ("a[b=1]", "a[b:1]", "a" * 70, "a" * 71)
    assert len({results.record_path(tmp_path, small_board.cell(spec)) for spec in specs}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["budget"].update(steps="ten"), r"record\.budget\.steps: .*integer"),
        (lambda r: r["evaluation"].pop("sampling"), r"record\.evaluation\.sampling: .*required"),
        (lambda r: r.update(colour=1), r"record\.colour: "),
        (lambda r: r["budget"].update(colour=1), r"record\.budget\.colour: .*keyword"),
        (lambda r: r["evaluation"].update(colour=1), r"record\.evaluation\.colour: .*keyword"),
        (lambda r: r["budget"].update(steps=10.0), r"record\.budget\.steps: .*integer"),
        (
            lambda r: r["evaluations"][0]["scores"]["gold"].__setitem__(3, math.nan),
            "cannot be read as JSON .NaN is no number",
        ),
        (
            lambda r: r["evaluations"][0]["scores"]["gold"].pop(),
            r"scores\.gold \(parti\) has 79, not 80 scores",
        ),
        (lambda r: r["in_loop"].append("gold"), "in_loop names the held-out gold"),
        (lambda r: r["evaluations"].pop(0), "evaluations are of other prompts than evaluation"),
        (
            lambda r: r["evaluation"].update(image_seeds=[0, 2]),
            r"evaluations \(parti\) has other image seeds",
        ),
        (
            lambda r: r["evaluation"]["scorers"].pop("shape"),
            r"evaluations \(parti\) has scores of shape, not in evaluation\.scorers",
        ),
        (lambda r: r.update(base=True), "training must be null for the base"),
        (lambda r: r.update(training=None), "pairs must be '' without training"),
        (_in_first(samples=["a" * 20]), r"samples \(parti\) needs a key a seed"),
        (_in_first(samples=["a" * 20, "a" * 20]), r"samples \(parti\) needs a key a seed"),
        (_in_first(samples=["a" * 20, "../../home"]), r"samples \(parti\) has what is no key"),
        (
            _in_first(facts={"saturation": [0.5] * 79}),
            r"facts\.saturation \(parti\) has 79, not 80",
        ),
        (_in_first(facts={"saturation": [0.5, "x"] * 40}), r"facts\.saturation\.1: .*number"),
        (_in_first(diversity=[0.5] * 39), r"diversity \(parti\) has 39, not 40 values"),
        (_in_first(diversity=[-0.5] * 40), r"diversity \(parti\) has a negative distance"),
        (lambda r: r.update(weight_distance=-1.0), "weight_distance must be finite and not neg"),
        (lambda r: r.update(curve={"loss": [1.0]}), r"curve\.step needs 1 to 200 steps"),
        (
            lambda r: r.update(curve={"step": [float(i) for i in range(201)]}),
            r"curve\.step needs 1 to 200 steps",
        ),
        (lambda r: r.update(curve={"step": [2.0, 1.0]}), r"curve\.step must ascend"),
        (
            lambda r: r.update(curve={"step": [1.0, 2.0], "loss": [1.0]}),
            r"curve\.loss has 1, not 2 values",
        ),
        (lambda r: r.update(towers={"bliss": "clip"}), r"towers names bliss, not in evaluation"),
        (lambda r: r.update(towers={"gold": 7}), r"towers\.gold: .*string"),
    ],
)
def test_a_bad_field_is_named_with_its_file(tmp_path: Path, change: Any, message: str) -> None:
    path = results.save_record(tmp_path, small_board.cell("dpo"))
    edit(path, change)
    with pytest.raises(BenchError, match=message) as caught:
        results.load_cell(path)
    assert str(caught.value).startswith(str(path))


def test_a_score_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    path = results.save_record(tmp_path, small_board.cell("dpo"))
    edit(path, lambda r: r["evaluations"][0]["scores"]["gold"].__setitem__(0, 9.0), sign=False)
    with pytest.raises(BenchError, match="sha256 does not match"):
        results.load_cell(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is no result file"),
        ('{"schema": 99, "kind": "result", "record": {}, "sha256": ""}', "made by a newer version"),
        ('{"schema": 0, "kind": "result", "record": {}, "sha256": ""}', "schema is 0, .* reads"),
        ('{"schema": 2, "kind": "prompts", "record": {}, "sha256": ""}', "kind is 'prompts'"),
        ('{"schema": true, "kind": "result", "record": {}, "sha256": ""}', "schema is True"),
        ('{"schema": 2, "schema": 2}', "the key 'schema' is there twice"),
        ('{"schema": NaN}', "NaN is no number"),
        ('{"schema": 1e999}', "1e999 is no finite number"),
        ('{"schema": ' + 5000 * "9" + "}", "cannot be read as JSON"),
        (100_000 * "[", "nested too deeply"),
        (
            '{"schema": 2, "kind": "result", "sha256": "", "record": '
            + 400 * '{"a":'
            + "1"
            + 400 * "}"
            + "}",
            "record",
        ),
        ('{"schema": 2, "kind": "result", "sha256": "", "record": "\\ud800"}', "half of a char"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=message):
        results.load_cell(path)


def test_an_empty_board_and_a_cell_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no result files"):
        results.load_cells(tmp_path)
    path = results.save_record(tmp_path, small_board.cell("dpo"))
    copy = path.with_name("copy.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(BenchError, match="describe the same cell") as caught:
        results.load_cells(tmp_path)
    assert str(copy) in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["results", "prompts"])
def test_a_board_holds_its_own_files(tmp_path: Path, name: str) -> None:
    """What is linked can change without the board, and a pipe would be waited for."""
    load = {"results": results.load_cells, "prompts": results.load_prompts}[name]
    other = small_board.save(tmp_path / "other", small_board.cells())
    linked = small_board.save(tmp_path / "linked", small_board.cells())
    shutil.rmtree(linked / name)
    (linked / name).symlink_to(other / name)
    with pytest.raises(BenchError, match=f"{name} is a link to .*other"):
        load(linked)
    mixed = small_board.save(tmp_path / "mixed", small_board.cells())
    (mixed / name / "x.json").symlink_to(next((other / name).iterdir()))
    with pytest.raises(BenchError, match=r"x\.json is no regular file"):
        load(mixed)
    (mixed / name / "x.json").unlink()
    os.mkfifo(mixed / name / "x.json")
    with pytest.raises(BenchError, match=r"x\.json is no regular file"):
        load(mixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_seeds": (0, 0)}, "image_seeds must be distinct"),
        ({"prompts": 0}, "prompts must be positive"),
        ({"scores": {"gold": (math.nan,) * 80}}, "80 scores that are not finite"),
        ({"facts": {"clipping": (math.inf, -math.inf) * 40}}, "80 values that are not finite"),
        ({"diversity": (math.nan,) * 40}, "40 values that are not finite"),
        ({"diversity": (0.5,) * 40, "image_seeds": (0,), "scores": {}}, "two image seeds or more"),
    ],
)
def test_a_record_that_contradicts_itself_cannot_be_made(
    changes: dict[str, Any], message: str
) -> None:
    scores = small_board.cell("dpo").evaluations[0]
    with pytest.raises(BenchError, match=message):
        dataclasses.replace(scores, **changes)


def test_writing_and_rendering_need_neither_torch_nor_pandas() -> None:
    code = "import sys, bench.leaderboard.tables; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "pandas", "rich", "PIL"} & set(done.stdout.split())
