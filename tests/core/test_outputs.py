"""What runs leave in a folder, one after the other and at once."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.console import Console

from bench.audit import compared, exporting
from bench.audit.findings import find
from bench.audit.votes import Vote
from bench.leaderboard import run_folder, tables
from bench.leaderboard.results import CellFailure, CellResult, load_cells
from bench.leaderboard.run_folder import RunFolder
from bench.lib.errors import BenchError
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.running import planning
from bench.running.plan import Plan
from bench.running.walk import RunOutcome, Walk, status
from bench.store.store import Store
from tests import toy
from tests.commands import Bench, in_folder

METHODS = ("dpo", "sft", "balanced[labels=majority_vote[ties=human]]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    """Every method at two budgets is finished."""
    store = Store(folder / "store")
    for steps in (1, 2):
        _run(_plan(folder, methods=list(METHODS), training={"steps": steps}), store)
    return store


def _plan(folder: Path, **changes: Any) -> Plan:
    changes = {"training": {"steps": 1}, "methods": ["dpo"], **changes}
    return planning.make(toy.recipe(folder, **changes), toy.registry())


def _run(plan: Plan, store: Store) -> RunOutcome:
    progress = Progress(Console(quiet=True))
    return Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)


def _write(plan: Plan, store: Store, out: Path, **told: Callable[[str], None]) -> tables.Tables:
    return writing.write(plan, store, out, _run(plan, store), **told)


def _shown(built: tables.Tables) -> list[tuple[str, list[str]]]:
    return [(s.heading, [row.method for row in s.rows]) for s in built.sections]


def test_budgets_neither_overwrite_each_other_nor_share_a_ranking(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    _write(_plan(folder), store, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    longer, said = _plan(folder, training={"steps": 2}), list[str]()
    built = _write(longer, store, tmp_path, say=said.append)
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(list((tmp_path / "results").glob("dpo--seed0-*.json"))) == 2
    # In which order is up to the images of random weights.
    assert [{*methods} for _, methods in _shown(tables.build(tmp_path))] == 2 * [{"base", "dpo"}]
    headings = [section.heading for section in tables.build(tmp_path).sections]
    assert headings[0].endswith("pairs of pairs.parquet, 1 steps")
    assert headings[1].endswith("pairs of pairs.parquet, 2 steps")
    # What is printed is what was run.
    assert [section.heading for section in built.sections] == headings[1:]
    assert any("1 of other protocols" in text for text in said)
    assert "differs from that of others here: 2 steps" in (tmp_path / "README.md").read_text()


def test_pair_files_of_one_name_make_two_sections(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "pairs.parquet"
    other.parent.mkdir()
    toy.write_pairs(other, count=15)
    _write(_plan(folder), store, tmp_path / "out")
    _write(_plan(folder, pairs=str(other)), store, tmp_path / "out")
    first, second = tables.build(tmp_path / "out").sections
    assert first.pairs == second.pairs == "pairs.parquet"
    assert first.heading != second.heading
    assert "pairs of pairs.parquet, pairs " in first.heading


def test_the_same_file_under_another_name_is_the_same_cell(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.parquet"
    shutil.copyfile(folder / "pairs.parquet", renamed)
    _write(_plan(folder), store, tmp_path / "out")
    _write(_plan(folder, pairs=str(renamed)), store, tmp_path / "out")
    (section,) = tables.build(tmp_path / "out").sections
    assert [row.seeds for row in section.rows if row.method == "dpo"] == [(0,)]


def test_the_pool_that_labels_is_part_of_a_method(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    """Two methods of one spec that were trained on other rewards stand beside each other."""
    method = [METHODS[2]]
    _write(_plan(folder, methods=method), store, tmp_path)
    _write(_plan(folder, methods=method, label_scorers=["channel"]), store, tmp_path)
    (section,) = tables.build(tmp_path).sections
    variants = {row.variant for row in section.rows if not row.base}
    assert len(variants) == 2
    assert "differ in label_scorers." in (tmp_path / "README.md").read_text()


def test_another_method_joins_and_a_smaller_run_takes_nothing_away(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    _write(_plan(folder), store, tmp_path)
    _write(_plan(folder, methods=list(METHODS[1:])), store, tmp_path)
    (section,) = tables.build(tmp_path).sections
    assert {row.method for row in section.rows} == {"base", *METHODS}
    large = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    built = _write(_plan(folder), store, tmp_path)
    assert {row.method for row in built.sections[0].rows} == {"base", *METHODS}
    # The recipe and the pictures are those of the last run; tables and figures are the same.
    changed = {p.name for p, data in large.items() if p.read_bytes() != data}
    assert changed <= {"recipe.yaml", "contact_sheet.png", run_folder.MARK}
    assert set(pd.read_parquet(tmp_path / "scores.parquet")["method"]) == {"base", *METHODS}


def test_a_cached_rerun_leaves_the_same_bytes(folder: Path, store: Store, tmp_path: Path) -> None:
    _write(_plan(folder), store, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    _write(_plan(folder), store, tmp_path)
    assert {path: path.read_bytes() for path in files} == before


def test_board_and_scores_hold_the_same_cells(folder: Path, store: Store, tmp_path: Path) -> None:
    _write(_plan(folder), store, tmp_path)
    _write(_plan(folder, training={"steps": 2}), store, tmp_path)
    frame = pd.read_parquet(tmp_path / "scores.parquet")
    cells = load_cells(tmp_path)
    assert set(frame["cell"]) == {path.stem[-12:] for path in cells}
    assert frame["protocol"].nunique() == 3
    for path, cell in cells.items():
        assert isinstance(cell, CellResult)
        mine = frame[(frame["cell"] == path.stem[-12:]) & (frame["scorer"] == "channel")]
        assert tuple(mine["score"]) == cell.evaluations[0].scores["channel"]
    assert frame[frame["method"] == "base"]["train_seed"].isna().all()


def test_a_failure_gives_way_to_a_result_and_never_the_other_way(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    plan, said = _plan(folder), list[str]()
    fine = _run(plan, store)
    (cell,) = (cell for cell in plan.cells if not cell.baseline)
    failed = RunOutcome(ran=(), failures={s.key: "killed" for s in cell.scores.values()})
    writing.write(plan, store, tmp_path, failed)
    assert [type(c) for c in load_cells(tmp_path).values()] == [CellResult, CellFailure]
    writing.write(plan, store, tmp_path, fine)
    assert [type(c) for c in load_cells(tmp_path).values()] == [CellResult, CellResult]
    writing.write(plan, store, tmp_path, failed, said.append)
    assert [type(c) for c in load_cells(tmp_path).values()] == [CellResult, CellResult]
    assert any("an earlier run of the same cell scored more images" in text for text in said)


def test_a_board_that_cannot_be_made_changes_nothing(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    _write(_plan(folder), store, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    plan = _plan(folder, methods=["sft"], sampling={"steps": 1})
    outcome = _run(plan, store)
    (base,) = (cell for cell in plan.cells if cell.baseline)
    failed = RunOutcome(ran=(), failures={s.key: "killed" for s in base.scores.values()})
    assert not outcome.failures
    with pytest.raises(BenchError, match="no result of the untouched backbone"):
        writing.write(plan, store, tmp_path, failed)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


class _Killed(BaseException):
    """What SIGKILL looks like from inside: nothing may catch it."""


@pytest.mark.parametrize(
    "at", [pytest.param(n, marks=[pytest.mark.slow] if n % 6 != 1 else []) for n in range(1, 24, 2)]
)
def test_killed_while_writing_the_board_is_whole_and_no_smaller(
    folder: Path, store: Store, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _write(_plan(folder), store, out)
    larger = _plan(folder, methods=list(METHODS))
    outcome, count, real = _run(larger, store), [0], os.replace

    def replace(*arguments: Any) -> None:
        count[0] += 1
        if count[0] == at:
            raise _Killed
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with suppress(_Killed):
            writing.write(larger, store, out, outcome)
    rows = {row.method for row in tables.build(out).sections[0].rows}
    assert {"base", "dpo"} <= rows
    RunFolder(out).check()
    writing.write(larger, store, out, outcome)
    assert {row.method for row in tables.build(out).sections[0].rows} == {"base", *METHODS}
    tables.check(out)
    assert not [path for path in out.rglob("*") if path.suffix in (".tmp", ".kept")]


def test_four_processes_add_to_one_folder_at_once(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    plans = [
        *(_plan(folder, methods=[method]) for method in METHODS),
        _plan(folder, training={"steps": 2}),
    ]
    outcomes = [_run(plan, store) for plan in plans]
    out, start = tmp_path / "out", time.time() + 0.5

    def process(plan: Plan, outcome: RunOutcome) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            time.sleep(max(0.0, start - time.time()))
            writing.write(plan, store, out, outcome)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    processes = [process(*pair) for pair in zip(plans, outcomes, strict=True)]
    assert [os.waitpid(pid, 0)[1] for pid in processes] == [0, 0, 0, 0]
    tables.check(out)
    first, second = tables.build(out).sections
    assert {row.method for row in first.rows} == {"base", *METHODS}
    assert {row.method for row in second.rows} == {"base", "dpo"}
    RunFolder(out).check()
    found = {path.name.split("-seed0")[0] for path in (out / "checkpoints").iterdir()}
    assert len(found) == len(METHODS)


@pytest.fixture
def bench(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    store: Store,
) -> Bench:
    """Runs commands in a folder with the toy recipe, everything cached."""
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    recipe = toy.recipe(folder, methods=["dpo"], training={"steps": 1})
    (tmp_path / "toy.yaml").write_text(recipe.to_yaml())
    run = in_folder(tmp_path, monkeypatch, capsys)

    def command(*arguments: str) -> tuple[int, str, str]:
        options = ("--device=cpu", f"--store={store.root}") if arguments[0] == "run" else ()
        return run(*arguments, *options)

    return command


NOTHING_RUNS = ("run", "--recipe=toy.yaml", "--set=training.steps=1000000000", "--methods=sft")
"""Would train for years."""


@pytest.mark.parametrize("kind", ["prompts", "board", "file", "link"])
def test_a_foreign_folder_is_refused_before_anything_is_trained(
    bench: Bench, tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    match kind:
        case "prompts":
            (out / "prompts").mkdir(parents=True)
            (out / "prompts" / "mine.txt").write_text("a red circle")
            (out / "README.md").write_text("mine")
        case "board":
            shutil.copytree(Path(__file__).parents[2] / "leaderboards" / "shapes", out)
        case "file":
            out.write_text("mine")
        case "link":
            out.symlink_to(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = bench(*NOTHING_RUNS, "--out=out")
    assert code == 1
    assert err.startswith("error: --out out ")
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    code, printed, _ = bench(*NOTHING_RUNS, "--out=out", "--dry-run")
    assert code == 0
    assert "not ready: --out out " in printed


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "..", "", "a\nb", "[red]x[/red]", "n" * 300, "=cmd|' /C calc'!A0"]
)
def test_a_recipes_name_stays_in_its_place(bench: Bench, tmp_path: Path, name: str) -> None:
    recipe = yaml.safe_load((tmp_path / "toy.yaml").read_text())
    (tmp_path / "work").mkdir()
    (tmp_path / "named.yaml").write_text(yaml.safe_dump({**recipe, "name": name}))
    os.chdir(tmp_path / "work")
    code, out, err = bench("run", "--recipe=../named.yaml")
    written = list(tmp_path.rglob(run_folder.MARK))
    if code:
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
        assert written == []
    else:
        (mark,) = written
        assert mark.parent.parent == tmp_path / "work" / "bench-runs"
        assert repr(name) in out.replace("\n", "")
    assert {path.name for path in tmp_path.iterdir()} <= {"toy.yaml", "named.yaml", "work"}


def test_words_of_ones_own_in_the_readme_are_kept(bench: Bench, tmp_path: Path) -> None:
    assert bench("run", "--recipe=toy.yaml", "--out=out")[0] == 0
    (tmp_path / "out" / "README.md").write_text("What I think of it.")
    code, out, _ = bench("run", "--recipe=toy.yaml", "--out=out")
    assert code == 0
    assert "kept out/README.md.kept" in out
    assert (tmp_path / "out" / "README.md.kept").read_text() == "What I think of it."
    assert (tmp_path / "out" / "README.md").read_text().startswith("# Leaderboard")


def test_a_board_that_is_built_again_is_still_the_runs(bench: Bench, tmp_path: Path) -> None:
    bench("run", "--recipe=toy.yaml", "--out=out")
    (tmp_path / "out" / "leaderboard.csv").unlink()
    assert bench("leaderboard", "build", "out")[0] == 0
    assert bench("leaderboard", "check", "out")[0] == 0
    code, out, _ = bench("run", "--recipe=toy.yaml", "--out=out")
    assert (code, "kept out/" in out) == (0, False)


def test_no_hand_written_readme_is_lost_to_a_board(bench: Bench, tmp_path: Path) -> None:
    bench("run", "--recipe=toy.yaml", "--out=out")
    for name in ("results", "prompts"):
        shutil.copytree(tmp_path / "out" / name, tmp_path / "board" / name)
    (tmp_path / "board" / "README.md").write_text("mine")
    code, _, err = bench("leaderboard", "build", "board")
    assert code == 1
    assert "README.md was not written by" in err
    assert (tmp_path / "board" / "README.md").read_text() == "mine"


def test_a_result_changed_by_hand_is_refused_before_the_run(bench: Bench, tmp_path: Path) -> None:
    bench("run", "--recipe=toy.yaml", "--out=out")
    path = next((tmp_path / "out" / "results").glob("dpo*"))
    document = json.loads(path.read_text())
    document["record"]["budget"]["steps"] = 7
    path.write_text(json.dumps(document))
    code, _, err = bench(*NOTHING_RUNS, "--out=out")
    assert code == 1
    assert path.name in err
    assert "was changed after a run wrote it" in err


def test_a_runs_images_can_be_audited(folder: Path, store: Store, tmp_path: Path) -> None:
    _write(_plan(folder), store, tmp_path)
    found = compared.load(tmp_path)
    assert [method.shown for method in found.methods] == ["dpo", "base"]
    audit = exporting.prepare(found, exporting.images_in(store.root, found), count=5)
    items = audit.key.items
    assert len(audit.files) == 1 + 2 * len(items)
    votes = [
        Vote(item=i, rater="me", choice="left" if item.first_left else "right", seconds=1.0)
        for i, item in enumerate(items)
    ]
    [pair] = find(audit.key, compared.of_key(tmp_path, audit.key), votes).pairs
    assert pair.human
    assert pair.human.win_rate == pytest.approx(1.0)
