from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.leaderboard import adding, freezing, results, standings
from bench.leaderboard import board as boards
from bench.leaderboard.protocol import Protocol
from bench.lib.errors import BenchError
from bench.recipe import recipe as recipes
from bench.registry.registry import default_registry
from bench.running import planning
from tests.leaderboard import frozen_board, small_board
from tests.leaderboard.frozen_board import cell, frozen, run, snapshot


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return frozen(tmp_path / "board")


def edit(board: Path, old: str, new: str) -> None:
    text = (board / "board.yaml").read_text()
    assert old in text
    (board / "board.yaml").write_text(text.replace(old, new, 1))


def test_what_was_frozen_reads_back(board: Path) -> None:
    file = boards.load_file(board)
    assert file.protocol.section == frozen_board.PROTOCOL
    assert file.protocol.section.digest == frozen_board.PROTOCOL.digest
    assert file.frozen.digest == file.protocol.digest
    assert (file.title, file.frozen.results_then) == ("Small", 0)
    assert file.to_yaml() == (board / "board.yaml").read_text()


def test_a_board_is_frozen_before_there_is_any_score(board: Path) -> None:
    boards.check(board)
    text = (board / "README.md").read_text()
    assert text.startswith("# Small\n")
    assert "Of \\*seeds\\*.\n\nTwice.\n" in text
    assert "frozen from a recipe, before the board held any score" in text
    assert "- Sampling: guidance 7.5, image seeds 0+1, scheduler ddim, steps 20.\n" in text
    assert "- Held out: gold.\n" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 20", "steps: 21", r"protocol: was changed after it was frozen \(its digest is"),
        ("- gold", "- shape", r"protocol: was changed after it was frozen"),
        ("- gold", "- taste", r"protocol\.held_out: taste is none of its scorers"),
        ("title:", "titel:", r"titel: unknown key 'titel'\. Did you mean 'title'\?"),
        (
            "min_train_seeds",
            "min_seeds",
            r"admits\.min_seeds: unknown key 'min_seeds'\. Did you mean 'min_train_seeds'",
        ),
        (
            "image_seeds",
            "image_sedes",
            r"protocol\.evaluation\.image_sedes: .*Did you mean 'image_seeds'",
        ),
        ("untrained: true", "untrained: 1", r"admits\.untrained: .*boolean"),
        ("min_train_seeds: 1", "min_train_seeds: 0", r"admits\.min_train_seeds: .*greater than"),
        ("schema: 1", "schema: 2", r"schema: input should be 1"),
        ("what: evaluation and training", "what: evaluation", r"frozen\.what: is 'evaluation'"),
        ("title: Small", "title: [", r"not valid YAML: line"),
        ("title: Small", "title: ''", r"title: string should have at least 1 character"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(board: Path, old: str, new: str, message: str) -> None:
    edit(board, old, new)
    with pytest.raises(BenchError, match=message) as refused:
        boards.check(board)
    assert str(refused.value).startswith(str(board / "board.yaml"))


def test_title_description_and_admits_are_for_people(board: Path) -> None:
    edit(board, "title: Small", "title: Large")
    edit(board, "methods: any", "methods: [dpo]")
    with pytest.raises(BenchError, match=r"README\.md not as the result files give"):
        boards.check(board)
    boards.write(board)
    boards.check(board)
    text = (board / "README.md").read_text()
    assert text.startswith("# Large\n")
    assert "Admitted: only dpo, with 1 or more train seeds." in text


def test_markup_in_a_title_stays_text(board: Path) -> None:
    edit(board, "title: Small", "title: '<b>[x](y)</b>'")
    boards.write(board)
    assert (board / "README.md").read_text().startswith("# &lt;b&gt;\\[x\\](y)&lt;/b&gt;\n")


def test_what_is_frozen_stays_so(board: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"board\.yaml: is there, and what is frozen stays so"):
        frozen(board)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".bench-run.json").write_text("{}")
    with pytest.raises(BenchError, match=r"is the folder that a run writes to"):
        frozen(folder)


def test_results_give_their_protocol(tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    cells = results.load_cells(made)
    assert freezing.of_results(made, cells) == (frozen_board.PROTOCOL, ("gold",))
    other = cell("sft", training=small_board.steps(3))
    cells = results.load_cells(small_board.save(made, [other]))
    with pytest.raises(BenchError, match=r"results of 2 protocols: .*3 steps.*--protocol"):
        freezing.of_results(made, cells)
    found, _ = freezing.of_results(made, cells, other.protocol.digest[:8])
    assert found == other.protocol


def test_results_that_disagree_on_what_is_held_out_give_none(tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo", held_out=()))
    with pytest.raises(BenchError, match=r"record\.held_out: (none|gold) against (none|gold) in"):
        freezing.of_results(made, results.load_cells(made))


def test_a_board_in_place_keeps_its_results_and_none_that_differ(tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    before = snapshot(made)
    frozen(made)
    assert {name: made.joinpath(name).read_bytes() for name in before} == before
    boards.check(made)
    mixed = run(tmp_path / "mixed", cell("dpo"), cell("sft", training=small_board.steps(3)))
    with pytest.raises(BenchError, match=r"training\.options\.steps \(3 against 10\)"):
        frozen(mixed)
    assert not (mixed / "board.yaml").exists()


def test_a_recipe_freezes_the_protocol_that_its_results_will_have() -> None:
    from bench.outputs.writing import protocol_of

    registry = default_registry()
    recipe = recipes.load(registry, "shapes", {"methods": "sft"})
    planned = protocol_of(planning.make(recipe, registry))
    board = Path(__file__).parents[2] / "leaderboards" / "shapes"
    assert planned == boards.load_file(board).protocol.section


def test_a_ledger_that_is_none(board: Path) -> None:
    (board / "ledger.json").write_text('{"schema": 1, "files": {"results/x.json": "abc"}}')
    with pytest.raises(BenchError, match=r"ledger\.json: files\.results/x\.json: string should"):
        boards.check(board)
    (board / "ledger.json").write_text("{")
    with pytest.raises(BenchError, match=r"ledger\.json: cannot be read as JSON"):
        boards.check(board)


def test_an_unmarked_folder_is_checked_as_before(tmp_path: Path) -> None:
    made = run(tmp_path / "run", cell("dpo"))
    boards.write(made)
    boards.check(made)
    assert (made / "README.md").read_text().startswith("# Leaderboard\n")
    assert not re.search("frozen", (made / "README.md").read_text())


def test_all_rendered_files_come_back_to_the_byte(board: Path, tmp_path: Path) -> None:
    adding.add(run(tmp_path / "run", cell("dpo", lift=0.3), cell("dpo", 1)), board)
    before = snapshot(board)
    for name in boards.render(boards.load(board)):
        (board / name).unlink()
    boards.write(board)
    assert snapshot(board) == before


def test_without_training_only_the_evaluation_is_frozen(tmp_path: Path) -> None:
    board = frozen(tmp_path / "board", Protocol(small_board.EVALUATION, None))
    file = boards.load_file(board)
    assert file.frozen.what == "evaluation"
    assert file.deviations(cell("dpo", training=small_board.steps(3))) == ()
    assert file.deviations(cell("dpo", evaluation=small_board.sampled(steps=3))) == (
        "evaluation.sampling.steps (3 against 20)",
    )


def test_every_key_is_documented() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "boards.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(schema.*?)```", docs, flags=re.DOTALL)
    for model in (boards.BoardFile, boards.Admission, boards.Freeze):
        for name, field in model.model_fields.items():
            assert re.search(rf"^ *{field.alias or name}:", block, flags=re.MULTILINE), name


def test_rooms_above_may_make_more_of_a_board(board: Path, tmp_path: Path) -> None:
    def page(of: boards.Board, built: standings.Tables) -> dict[str, str]:
        assert of.file
        return {"page.html": f"<h1>{of.file.title}</h1>{len(built.sections)}"}

    adding.add(run(tmp_path / "run", cell("dpo")), board, more=[page])
    assert (board / "page.html").read_text() == "<h1>Small</h1>1"
    boards.check(board, [page])
    (board / "page.html").write_text("")
    boards.check(board)
    with pytest.raises(BenchError, match=r"page\.html not as"):
        boards.check(board, [page])
