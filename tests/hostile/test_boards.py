"""Boards that somebody has edited, mixed or broken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import adding, freezing, results
from tests.hostile.harness import OUT, RUN, Case, Prepare, World, judge, sample
from tests.leaderboard.frozen_board import forge

BUILD, CHECK = f"leaderboard build {OUT}", f"leaderboard check {OUT}"
Data = dict[str, Any]


def result(here: Path, method: str = "dpo") -> Path:
    return next(
        path
        for path in sorted((here / OUT / "results").glob("*.json"))
        if json.loads(path.read_text())["record"]["method"] == method
    )


def prompts(here: Path) -> Path:
    return sorted((here / OUT / "prompts").glob("*.json"))[0]


def written(find: Callable[[Path], Path], data: str | bytes) -> Prepare:
    """A file of the board that holds something else."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return lambda here: find(here).write_bytes(raw) and None


def forged(change: Callable[[Data], object], *, signed: bool = True) -> Prepare:
    """A record that was edited and, if signed, given the right checksum again."""

    def make(here: Path) -> None:
        path = result(here)
        held = json.loads(path.read_text())
        change(held["record"])
        if signed:
            for name, value in held.items():
                if name.endswith("sha256"):
                    text = json.dumps(held["record"], sort_keys=True, separators=(",", ":"))
                    held[name] = hashlib.sha256(text.encode()).hexdigest() if value else value
        path.write_text(json.dumps(held, indent=1, sort_keys=True))

    return make


def refused(name: str, prepare: Prepare, *says: str, command: str = BUILD) -> Case:
    """A board that no table may be made of; its files are as they were."""
    return Case(id=name, command=command, prepare=prepare, ends="refused", says=says)


def harmed(name: str, find: Callable[[Path], Path], harm: Callable[[Path], object]) -> Case:
    return refused(name, lambda here: harm(find(here)) and None)


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.json")


TEXTS: dict[str, str | bytes] = {
    "empty": "",
    "cut": '{"record": {"method": "dpo"',
    "a-list": "[]",
    "nothing": "null",
    "a-number": "1e999",
    "not-text": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "surrogate": '{"record": "\\ud800"}',
    "nan": '{"record": {"scores": [NaN]}}',
    "duplicate-keys": '{"record": 1, "record": 2}',
}

FORGERIES: dict[str, Callable[[Data], object]] = {
    "method-climbs": lambda r: r.update(method="../../x"),
    "method-markup": lambda r: r.update(method="[red]dpo[/red]"),
    "method-formula": lambda r: r.update(method="=cmd|'/c calc'!A1"),
    "method-html": lambda r: r.update(method="<script>alert(1)</script>"),
    "method-newline": lambda r: r.update(method="dpo\n| forged | 100% |"),
    "seed-negative": lambda r: r.update(seed=-1),
    "seed-a-word": lambda r: r.update(seed="zero"),
    "seed-huge": lambda r: r.update(seed=2**80),
    "steps-negative": lambda r: r["budget"].update(steps=-1),
    "cost-negative": lambda r: r["cost"].update(train_seconds=-1.0),
    "cost-missing": lambda r: r.pop("cost"),
    "key-unknown": lambda r: r.update(stranger=1),
    "held-out-a-word": lambda r: r.update(held_out="truth"),
    "in-loop-emptied-and-fewer-scores": lambda r: r["evaluations"][0]["scores"].popitem(),
    "scores-one-short": lambda r: [v.pop() for v in r["evaluations"][0]["scores"].values()],
    "scores-words": lambda r: r["evaluations"][0]["scores"].update(channel=["a"] * 5),
    "prompts-of-others": lambda r: r["evaluations"][0].update(prompts_sha256="0" * 64),
    "no-evaluations": lambda r: r.update(evaluations=[]),
    "image-seeds-twice": lambda r: r["evaluations"][0].update(image_seeds=[0, 0]),
    "backbone-other": lambda r: r.update(backbone="other"),
    "fingerprint-other": lambda r: r.update(backbone_fingerprint="0" * 64),
    "sampling-other": lambda r: r["evaluation"]["sampling"].update(guidance=99.0),
    "scorer-version-other": lambda r: r["evaluation"]["scorers"]["channel"].update(version="9"),
    "scorer-fingerprint-other": lambda r: r["evaluation"]["scorers"]["channel"].update(
        fingerprint="9"
    ),
}


def without_base(here: Path) -> None:
    result(here, "base").unlink()


def twice(here: Path) -> None:
    path = result(here)
    shutil.copy2(path, path.with_name("copy.json"))


def other_protocol(here: Path) -> None:
    """A second board beside, made with another guidance."""
    shutil.copytree(here / OUT, here / "second")


MINE = Path("mine")
ADD, SHOW = f"leaderboard add {OUT} {MINE}", f"leaderboard show {MINE}"


def frozen(then: Prepare | None = None, *, filled: bool = False) -> Prepare:
    """A board beside the run, with the protocol of its results, and what was done then."""

    def make(here: Path) -> None:
        cells = results.load_cells(here / OUT)
        freezing.freeze(
            here / MINE, *freezing.of_results(here / OUT, cells), title="Mine", results_then=1
        )
        if filled:
            adding.add(here / OUT, here / MINE)
        if then:
            then(here)

    return make


def board_file(here: Path) -> Path:
    return here / MINE / "board.yaml"


def ledger(here: Path) -> Path:
    return here / MINE / "ledger.json"


def added(here: Path) -> Path:
    return sorted((here / MINE / "results").iterdir())[0]


def papers(text: str) -> Prepare:
    def make(here: Path) -> None:
        (here / MINE).mkdir()
        (here / MINE / "published.yaml").write_text(text)

    return make


FROZEN = [
    Case(id="freeze", command=f"leaderboard freeze {OUT} {MINE}", ends="well"),
    Case(
        id="freeze-where-a-file-is",
        command=f"leaderboard freeze {OUT} notes.txt",
        ends="refused",
        says=("notes.txt",),
    ),
    Case(id="freeze-of-nothing", command=f"leaderboard freeze gone {MINE}", ends="refused"),
    Case(
        id="freeze-twice",
        command=f"leaderboard freeze {OUT} {MINE}",
        prepare=frozen(),
        ends="refused",
        says=("board.yaml", "stays so"),
    ),
    Case(
        id="freeze-the-run-itself",
        command=f"leaderboard freeze {OUT}",
        ends="refused",
        says=("folder that a run writes to",),
    ),
    Case(
        id="freeze-a-recipe",
        command=f"leaderboard freeze --recipe recipe.yaml {MINE}",
        ends="well",
    ),
    Case(id="add", command=ADD, prepare=frozen(), ends="well", own=(f"{MINE}/",)),
    Case(id="add-again", command=ADD, prepare=frozen(filled=True), ends="well"),
    Case(id="add-to-nothing", command=ADD, ends="refused", says=("mine",)),
    Case(
        id="add-a-stranger",
        command=f"{ADD} --method dpp",
        prepare=frozen(),
        ends="refused",
        says=("Did you mean 'dpo'",),
    ),
    *(
        Case(
            id=f"add-signed-{name}",
            command=ADD,
            prepare=frozen(forged(change)),
            ends="refused",
            says=("results/dpo--seed0",),
        )
        for name, change in FORGERIES.items()
        # What a start model is called decides nothing.
        if name != "backbone-other"
    ),
    *(
        refused(f"add-result-{name}", frozen(written(result, text)), "dpo--seed0", command=ADD)
        for name, text in TEXTS.items()
    ),
    *(
        refused(
            f"{file.__name__}-{name}",
            frozen(written(file, text), filled=True),
            file(Path()).name,
            command=command,
        )
        for file, command in ((board_file, ADD), (ledger, f"leaderboard check {MINE}"))
        for name, text in TEXTS.items()
    ),
    *(
        refused(
            f"added-{harm.__name__}",
            frozen(lambda here, harm=harm: harm(added(here)) and None, filled=True),
            "results/",
            command=f"leaderboard check {MINE}",
        )
        for harm in (Path.unlink, to_pipe, to_folder, to_dead_link)
    ),
    refused(
        "added-score-changed-everywhere-but-in-the-ledger",
        frozen(
            lambda here: forge(added(here), lambda r: r.update(label="better")) and None,
            filled=True,
        ),
        "was changed after it was added",
        command=SHOW,
    ),
    Case(id="show", command=SHOW, prepare=frozen(filled=True), ends="well", says=("dpo",)),
    Case(
        id="compare",
        command=f"leaderboard compare {OUT} {MINE}",
        prepare=frozen(filled=True),
        ends="well",
        says=("no difference",),
    ),
    Case(
        id="compare-with-papers-that-are-not-there",
        command=f"leaderboard compare --published {OUT}",
        ends="refused",
        says=("published.yaml",),
    ),
    *(
        refused(
            f"papers-{name}",
            papers(text),
            "published.yaml",
            command=f"leaderboard build {MINE}",
        )
        for name, text in {
            "empty": "",
            "a-list": "- 1",
            "no-tables": "papers: {}",
            "a-tag": "papers: !!python/object:os.system {}",
            "anchors": "papers: &a {}\ntables: *a",
        }.items()
    ),
]

CASES = [
    Case(id="build-as-it-is", command=BUILD, ends="well"),
    Case(id="check-as-it-is", command=CHECK, ends="well"),
    *(
        refused(f"result-{name}", written(result, text), command=command)
        for name, text in TEXTS.items()
        for command in (BUILD,)
    ),
    *(refused(f"prompts-{name}", written(prompts, text)) for name, text in TEXTS.items()),
    *(
        refused(f"unsigned-{name}", forged(change, signed=False))
        for name, change in FORGERIES.items()
    ),
    *(
        Case(id=f"signed-{name}", command=BUILD, prepare=forged(change))
        for name, change in FORGERIES.items()
    ),
    harmed("result-a-pipe", result, to_pipe),
    harmed("result-a-folder", result, to_folder),
    harmed("result-a-dead-link", result, to_dead_link),
    harmed("prompts-gone", prompts, Path.unlink),
    refused("results-gone", lambda here: shutil.rmtree(here / OUT / "results")),
    refused(
        "results-empty",
        lambda here: (shutil.rmtree(here / OUT / "results"), (here / OUT / "results").mkdir())[0],
    ),
    refused("no-base", without_base, "untouched backbone"),
    refused("a-cell-twice", twice),
    refused(
        "table-edited", written(lambda here: here / OUT / "README.md", "# 100%\n"), command=CHECK
    ),
    refused(
        "csv-edited", written(lambda here: here / OUT / "leaderboard.csv", "a,b\n"), command=CHECK
    ),
    refused(
        "json-edited", written(lambda here: here / OUT / "leaderboard.json", "{}"), command=CHECK
    ),
    refused("json-gone", lambda here: (here / OUT / "leaderboard.json").unlink(), command=CHECK),
    Case(id="board-gone", command="leaderboard build gone", ends="refused", says=("gone",)),
    Case(
        id="board-a-file",
        command="leaderboard build notes.txt",
        ends="refused",
        says=("notes.txt",),
    ),
    Case(id="board-markup", command="leaderboard build '[/red]'", ends="refused"),
    Case(id="board-long", command=f"leaderboard check {'b' * 5000}", ends="refused"),
    Case(id="board-none", command="leaderboard check", ends="refused"),
    Case(id="another-method-joins", command=f"{RUN} --methods sft", ends="well", joins=True),
    Case(id="another-seed-joins", command=f"{RUN} --seeds 0,1", ends="well", joins=True),
    Case(id="another-budget", command=f"{RUN} --set training.steps=3"),
    Case(id="another-guidance", command=f"{RUN} --set sampling.guidance=3.0"),
    Case(id="other-prompts", command=f"{RUN} --limit 2"),
    Case(id="fewer-scorers", command=f"{RUN} --scorers channel"),
    Case(
        id="a-stranger-among-results",
        command=BUILD,
        prepare=written(lambda here: here / OUT / "results" / "notes.txt", "x"),
    ),
    Case(
        id="a-stranger-in-the-board",
        ends="well",
        prepare=written(lambda here: here / OUT / "thesis.tex", "x"),
        check=lambda here: _there(here / OUT / "thesis.tex"),
    ),
    Case(
        id="marker-gone",
        prepare=lambda here: (
            [path.unlink() for path in (here / OUT).glob(".*") if path.is_file()] and None
        ),
    ),
    Case(id="a-table-gone", prepare=lambda here: (here / OUT / "README.md").unlink(), ends="well"),
    Case(
        id="sheet-junk",
        prepare=written(lambda here: here / OUT / "contact_sheet.png", b"x"),
        ends="well",
    ),
    Case(id="scores-junk", prepare=written(lambda here: here / OUT / "scores.parquet", b"x")),
    Case(id="result-cut-before-a-run", prepare=written(result, '{"record": ')),
    Case(
        id="full-disk-while-the-board-is-built",
        command=f"{RUN} --set sampling.steps=2",
        where="fork",
        before=lambda: _small_files(12_000),
        prepare=lambda here: shutil.rmtree(here / OUT),
        ends="refused",
        says=("cannot write",),
    ),
    Case(
        id="full-disk-over-an-old-board",
        where="fork",
        before=lambda: _small_files(12_000),
    ),
    Case(
        id="full-disk-while-rebuilding",
        command=BUILD,
        where="fork",
        before=lambda: _small_files(600),
    ),
]

CASES += FROZEN


def _there(path: Path) -> None:
    assert path.exists()


def _small_files(size: int) -> None:
    """From now on no file can grow beyond so many bytes, as on a full disk."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("case", sample(CASES))
def test_board(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
