"""Whoever changes a stage's code is asked whether its bytes change: see `stage_code`."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.core import stage_code
from tests.core.stage_code import REPOSITORY, digests, problems, versions

VERSIONS = versions()
_ACCEPTED = json.loads(stage_code.ACCEPTED.read_text(encoding="utf-8"))


def test_no_stage_has_other_code_under_the_same_version() -> None:
    said = problems(_ACCEPTED, VERSIONS, digests())
    assert not said, "\n".join(said)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "bench", tmp_path / "bench")
    return tmp_path


def _changed(copy: Path) -> set[str]:
    before, after = digests(), digests(copy)
    return {stage for stage in before if before[stage] != after[stage]}


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_an_equal_copy_has_equal_code(copy: Path) -> None:
    assert not _changed(copy)


def _first_statement(file: Path, function: str) -> None:
    """Put a statement at the start of a function, behind its docstring."""
    text = file.read_text(encoding="utf-8")
    node = next(
        n
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.FunctionDef) and n.name == function
    )
    lines = text.split("\n")
    line = lines[node.body[-1].lineno - 1]
    indent = len(line) - len(line.lstrip())
    lines.insert(node.body[-1].lineno - 1, " " * indent + "changed = 1")
    file.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "function", "stages"),
    [
        ("training/loop.py", "train_pairs", {"train"}),
        pytest.param("api/pair_method.py", "implicit_logit", {"train"}, marks=pytest.mark.slow),
        pytest.param("diffusion/sampling.py", "sample", {"sample"}, marks=pytest.mark.slow),
        pytest.param(
            "scoring/chunks.py", "score_in_chunks", {"rewards", "score"}, marks=pytest.mark.slow
        ),
        ("preferences/inspecting.py", "inspect", {"inspect"}),
        pytest.param("preferences/generating.py", "write", {"pairs"}, marks=pytest.mark.slow),
        pytest.param("stages/encode.py", "encode", {"encode"}, marks=pytest.mark.slow),
        pytest.param("stages/train.py", "run", {"train"}, marks=pytest.mark.slow),
        ("stages/rewards.py", "read_rewards", {"rewards", "train"}),
        pytest.param("stages/context.py", "policy", {"sample"}, marks=pytest.mark.slow),
        pytest.param("stages/context.py", "untouched", {"encode", "train"}, marks=pytest.mark.slow),
        pytest.param(
            "preferences/pair_table.py",
            "read",
            {"encode", "rewards", "train"},
            marks=pytest.mark.slow,
        ),
        ("scoring/isolation/worker.py", "send", {"rewards", "score"}),
        pytest.param(
            "api/contracts.py",
            "_best_worst",
            {"encode", "inspect", "rewards"},
            marks=pytest.mark.slow,
        ),
        pytest.param("lib/tables.py", "picked", {"inspect"}, marks=pytest.mark.slow),
    ],
)
def test_a_change_touches_the_stages_that_run_through_it(
    copy: Path, file: str, function: str, stages: set[str]
) -> None:
    _first_statement(copy / "bench" / file, function)
    assert _changed(copy) == stages


@pytest.mark.parametrize(
    "file", ["lib/progress.py", "cli/output.py", "cli/run.py", "running/estimates.py"]
)
def test_what_only_speaks_to_people_touches_none(copy: Path, file: str) -> None:
    path = copy / "bench" / file
    path.write_text(path.read_text(encoding="utf-8") + "\n\nCHANGED = 1\n", encoding="utf-8")
    assert not _changed(copy)


def test_comments_and_docstrings_touch_none(copy: Path) -> None:
    _edit(copy / "bench" / "stages" / "train.py", '"""train: one', '# Another remark.\n"""Whatever')
    _edit(copy / "bench" / "training" / "loop.py", "\ndef ", "\n# A remark.\ndef ")
    assert not _changed(copy)


def _as_it_is() -> dict[str, Any]:
    return {s: {"version": version, "code": digests()[s]} for s, version in VERSIONS.items()}


def test_the_same_version_with_other_code_says_what_to_do() -> None:
    found = dict(digests(), train="other")
    (said,) = problems(_as_it_is(), VERSIONS, found)
    assert said == (
        "train: its code has changed; if that changes bytes that it writes, raise "
        "`version` in bench/stages/train.py; then accept it: "
        "python -m tests.core.stage_code"
    )


def test_another_version_is_to_be_accepted() -> None:
    (said,) = problems(_as_it_is(), {**VERSIONS, "train": VERSIONS["train"] + 1}, digests())
    assert said == "train: its version has changed; accept it: python -m tests.core.stage_code"


def test_every_stage_has_roots() -> None:
    assert stage_code.ROOTS.keys() == VERSIONS.keys()
