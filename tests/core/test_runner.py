from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.leaderboard import tables
from bench.lib.errors import BenchError
from bench.lib.io_errors import clear_io_errors
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.running import planning
from bench.running.plan import Plan
from bench.running.walk import RunOutcome, Walk, status
from bench.store.store import Store
from tests import toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Store:
    """A store in which the toy recipe has run without a hitch."""
    store = Store(folder / "store")
    assert not _run(_plan(folder), store).failures
    return store


def _plan(folder: Path, **changes: Any) -> Plan:
    return planning.make(toy.recipe(folder, **changes), toy.registry())


def _run(plan: Plan, store: Store, say: Callable[[str], None] = lambda _: None) -> RunOutcome:
    progress = Progress(Console(quiet=True))
    progress.say = say  # type: ignore[method-assign]
    with clear_io_errors():
        return Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)


def test_the_same_run_elsewhere_gives_the_same_bytes(
    folder: Path, finished: Store, tmp_path: Path
) -> None:
    again = Store(tmp_path / "store")
    _run(_plan(folder), again)
    assert toy.artefacts(again) == toy.artefacts(finished)


def test_another_order_of_methods_gives_the_same_bytes(
    folder: Path, finished: Store, tmp_path: Path
) -> None:
    methods = list(reversed(_plan(folder).recipe.methods))
    again = Store(tmp_path / "store")
    _run(_plan(folder, methods=methods), again)
    assert toy.artefacts(again) == toy.artefacts(finished)


def test_a_finished_plan_runs_nothing(folder: Path, finished: Store) -> None:
    plan = _plan(folder)
    assert status(plan.stages, finished).finished == {stage.key for stage in plan.stages}
    assert _run(plan, finished).ran == ()


def test_a_new_method_runs_only_its_own_stages(
    folder: Path, finished: Store, tmp_path: Path
) -> None:
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    plan = _plan(folder, methods=["dpo", "sft"])
    ran = set(_run(plan, store).ran)
    assert {s.label.split(" ")[0] for s in plan.stages if s.key in ran} == {
        "train",
        "sample",
        "describe",
        "score",
    }
    assert all("sft" in s.label for s in plan.stages if s.key in ran)


@pytest.mark.parametrize(
    "stage", ["inspect", "encode", "rewards", "train", "sample", "describe", "score"]
)
@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_a_damaged_artefact_is_named_and_made_again(
    folder: Path, finished: Store, tmp_path: Path, stage: str, harm: str
) -> None:
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    artefact = sorted((store.root / "artefacts" / stage).iterdir())[0]
    file = next(p for p in sorted(artefact.rglob("*")) if p.is_file() and p.name != "artefact.json")
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)
    plan, said = _plan(folder), list[str]()
    assert [str(file) in text for text in status(plan.stages, store).damaged.values()] == [True]
    _run(plan, store, said.append)
    assert any(str(file) in text for text in said)
    assert toy.artefacts(store) == toy.artefacts(finished)


class _Killed(BaseException):
    """What SIGKILL looks like from inside: nothing may catch it."""


@pytest.mark.parametrize(
    "at", [pytest.param(n, marks=[pytest.mark.slow] if n % 8 != 1 else []) for n in range(1, 31, 2)]
)
def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    folder: Path, finished: Store, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at every second of the atomic writes, the moments at which progress is saved."""
    from bench.store import store as stores

    store, count, real = Store(tmp_path / "store"), [0], stores.write_atomic

    def write(path: Path, data: bytes, **options: bool) -> None:
        if path.name != "seconds":
            count[0] += 1
            if count[0] == at:
                path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
                raise _Killed
        real(path, data, **options)

    for name, module in list(sys.modules.items()):
        if name.startswith("bench.") and getattr(module, "write_atomic", None) is real:
            monkeypatch.setattr(module, "write_atomic", write)
    with pytest.raises(_Killed):
        _run(_plan(folder), store)
    monkeypatch.undo()
    _run(_plan(folder), store)
    leftovers = [p.name for p in store.root.rglob(".*.tmp")]
    assert not leftovers
    assert toy.artefacts(store) == toy.artefacts(finished)


def test_a_diverging_cell_fails_alone(folder: Path, tmp_path: Path) -> None:
    plan = _plan(folder, methods=["dpo", "dpo[learning_rate=1e30]"])
    store, said = Store(tmp_path / "store"), list[str]()
    outcome = _run(plan, store, said.append)
    bad = next(c for c in plan.cells if c.method == "dpo[learning_rate=1e+30]")
    assert bad.train is not None
    assert set(outcome.failures) == {
        bad.train.key,
        *(s.key for s in bad.stages),
    }
    assert len([text for text in said if text.startswith("failed: ")]) == 1
    out = tmp_path / "out"
    writing.write(plan, store, out, outcome)
    readme = (out / "README.md").read_text()
    assert "learning_rate=1e+30" in readme
    assert "step" in readme
    scores = pd.read_parquet(out / "scores.parquet")
    assert set(scores["method"]) == {"base", "dpo"}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "ZeroDivisionError: deep inside (traceback: "),
        ("clear", "the weights are missing; fetch them"),
        ("memory", "out of memory; free some, or choose a half-precision dtype"),
        ("nan", "scorer 'faulty[how=nan]' gave no finite score for image 0"),
        ("shape", "scorer 'faulty[how=shape]' gave shape (6,) for 5 images"),
    ],
)
def test_a_failing_scorer_leaves_a_gap(
    folder: Path, finished: Store, tmp_path: Path, how: str, message: str
) -> None:
    store = Store(shutil.copytree(finished.root, tmp_path / "store"))
    plan = _plan(folder, scorers=["channel", f"faulty[how={how}]"])
    outcome = _run(plan, store)
    assert len(outcome.failures) == 3
    assert all(message in reason for reason in outcome.failures.values())
    built = writing.write(plan, store, tmp_path / "out", outcome)
    assert "–" in tables.render_markdown(built)


def test_running_out_of_memory_names_what_to_change(folder: Path) -> None:
    plan = _plan(folder)
    remedies = {stage.name: stage.memory_remedy for stage in plan.stages}
    for option in (
        "training.micro_batch_size=2",
        "training.gradient_checkpointing=true",
        "training.precision=bf16",
        "training.lora_rank=16",
    ):
        assert f"--set {option}" in remedies["train"]
    assert "--set sampling.batch_size=1 " in remedies["sample"]
    half = _plan(folder, training={"precision": "bf16", "lora_rank": 4})
    train = next(stage for stage in half.stages if stage.name == "train")
    assert "precision" not in train.memory_remedy
    assert "lora" not in train.memory_remedy


def test_broken_pairs_are_counted_named_and_skipped(folder: Path, tmp_path: Path) -> None:
    pairs = toy.write_pairs(tmp_path / "pairs.parquet", count=12, broken=[3])
    store, said = Store(tmp_path / "store"), list[str]()
    plan = _plan(folder, pairs=str(pairs), max_broken_share=0.1)
    assert not _run(plan, store, said.append).failures
    assert any("1 of 12 pairs skipped" in t and "row 3 (image_1: cannot" in t for t in said)
    train = next(s for s in plan.stages if s.name == "train")
    artefact = store.find("train", train.key)
    assert artefact is not None
    assert artefact.info["pairs_kept"] + artefact.info["pairs_dropped"] == 11


def test_too_many_broken_pairs_are_an_error(folder: Path, tmp_path: Path) -> None:
    pairs = toy.write_pairs(tmp_path / "pairs.parquet", count=12, broken=[3, 4])
    plan = _plan(folder, pairs=str(pairs), max_broken_share=0.1)
    with pytest.raises(BenchError, match=r"2 of 12 pairs.*10\.0%.*row 3 \(image_1: .*row 4"):
        _run(plan, Store(tmp_path / "store"))


def test_sampling_batch_size_changes_no_image(
    folder: Path, finished: Store, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    store = Store(tmp_path / "store")
    _run(_plan(folder, sampling={"batch_size": 5}), store)
    images = sorted(store.root.glob("artefacts/sample/*/images/*.png"))
    assert len(images) == 15
    for image in images:
        other = finished.root / image.relative_to(store.root)
        difference = np.asarray(Image.open(image), int) - np.asarray(Image.open(other), int)
        assert abs(difference).max() <= 1


def test_a_file_size_limit_is_one_clear_sentence(folder: Path, tmp_path: Path) -> None:
    """The limit makes real writes fail midway, as a full disk does."""
    store, plan = Store(tmp_path / "store"), _plan(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BenchError, match=r"cannot write.*run the same command again"):
            _run(plan, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not _run(plan, store).failures


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store_is_one_clear_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(BenchError, match=r"cannot write.*permission denied"):
        _run(_plan(folder), Store(tmp_path / "store"))


def test_a_store_that_is_no_folder_is_one_clear_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(BenchError, match=r"cannot write.*another --store"):
        _run(_plan(folder), Store(tmp_path / "store"))
