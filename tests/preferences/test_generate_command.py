"""`bench data generate` from end to end, and a recipe whose pairs are generated."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from bench.cli import main as cli
from bench.cli.data_generate import generate
from bench.lib.images import decode
from bench.recipe.recipe import GenerateConfig
from bench.registry.registry import default_registry
from tests import toy
from tests.commands import Bench, in_folder
from tests.tiny import save_tiny_pipeline

SHAPES = (
    "--backbone=shapes",
    "--prompts=shapes-parti",
    "--limit=5",
    "--scorers=shapes_clip,shapes_aesthetic",
    "--images-per-prompt=3",
    "--steps=2",
    "--guidance=3",
    "--sampling-batch=3",
    "--device=cpu",
)


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Runs a command in this process, in an empty folder; its exit code and what it printed."""
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the shapes pairs were made without a hitch."""
    folder = tmp_path_factory.mktemp("made")
    _make_shapes_pairs(folder)
    return folder


def _make_shapes_pairs(folder: Path) -> None:
    import torch

    # A fork has none of its parent's threads, and other threads add up in another order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", "data", "generate", *SHAPES])
        with pytest.raises(SystemExit) as end:
            cli.main()
    torch.set_num_threads(threads)
    assert end.value.code == 0


def _in_child(folder: Path, prepare: Callable[[], None]) -> int:
    """Make the shapes pairs in a forked process; its exit code, or minus the signal."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        prepare()
        _make_shapes_pairs(folder)
        code = 0
    finally:
        os._exit(code)


def _kill_at(target: object, name: str, call: int) -> Callable[[], None]:
    """Make this process kill itself in the midst, at a call of a function."""

    def prepare() -> None:
        original, calls = getattr(target, name), [0]

        def counted(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(target, name, counted)

    return prepare


def _artefacts(folder: Path, stage: str) -> set[str]:
    return {path.name for path in folder.glob(f"bench-runs/store/artefacts/{stage}/*")}


def test_the_pairs_are_the_best_and_worst_of_the_images_that_were_sampled(made: Path) -> None:
    (artefact,) = made.glob("bench-runs/store/artefacts/pairs/*")
    assert (made / "pairs.parquet").read_bytes() == (artefact / "pairs.parquet").read_bytes()
    sampled = {p.read_bytes() for p in made.glob("bench-runs/store/artefacts/sample/*/images/*")}
    assert len(sampled) == 15
    frame = pq.read_table(made / "pairs.parquet").to_pandas()
    assert len(frame) == frame["caption"].nunique() == 5
    assert {*frame["jpg_0"], *frame["jpg_1"]} <= sampled
    assert all(decode(data).size == (64, 64) for data in frame["jpg_0"])
    assert {*frame["model_0"], *frame["model_1"]} == {"shapes"}
    assert {*frame["seed_0"], *frame["seed_1"]} <= {0, 1, 2}
    assert (frame["seed_0"] != frame["seed_1"]).all()
    rewards = [
        frame[[f"reward_0.{name}", f"reward_1.{name}"]].to_numpy()
        for name in ("shapes_clip", "shapes_aesthetic")
    ]
    # Where both scorers agree, so does their mean, whatever the scaling.
    signs = np.array([np.sign(r[:, 0] - r[:, 1]) for r in rewards])
    agreed = signs[0] == signs[1]
    assert agreed.any()
    assert (frame["label_0"][agreed] == (signs[0][agreed] + 1) / 2).all()


@pytest.mark.slow
def test_killed_at_every_stage_it_goes_on_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    from bench.preferences.writing import PairWriter
    from bench.scoring import chunks
    from bench.stages import sample

    for target, name, call in (
        (sample, "write_atomic", 5),
        (chunks, "write_atomic", 4),
        (PairWriter, "add", 3),
    ):
        assert _in_child(tmp_path, _kill_at(target, name, call)) == -signal.SIGKILL
        assert not (tmp_path / "pairs.parquet").exists()
    assert _in_child(tmp_path, lambda: None) == 0
    assert (tmp_path / "pairs.parquet").read_bytes() == (made / "pairs.parquet").read_bytes()
    assert not list((tmp_path / "bench-runs/store/partial").iterdir())


def test_more_images_and_other_labels_add_only_what_is_new(
    bench: Callable[..., tuple[int, str, str]], made: Path, tmp_path: Path
) -> None:
    (tmp_path / "bench-runs").symlink_to(made / "bench-runs")
    code, out, _ = bench("data", "generate", *SHAPES)
    assert code == 0
    assert "Running" not in out
    assert "5 pairs, from 15 images of 5 prompts: pairs.parquet" in out
    assert "bench data check pairs.parquet" in out
    assert "bench run --recipe shapes --set pairs=pairs.parquet" in out
    before = _artefacts(tmp_path, "sample"), _artefacts(tmp_path, "score")
    more = [word for word in SHAPES if "images" not in word] + ["--images-per-prompt=4"]
    votes = ("--label-with=majority_vote", "--form=all", "--out=votes/all.parquet")
    code, out, err = bench("data", "generate", *more, *votes)
    assert (code, err) == (0, "")
    assert len(_artefacts(tmp_path, "sample") - before[0]) == 1
    assert len(_artefacts(tmp_path, "score") - before[1]) == 2
    frame = pq.read_table(tmp_path / "votes" / "all.parquet").to_pandas()
    assert len(frame) == 5 * 6
    ties = int((frame["label_0"] == 0.5).sum())
    assert 0 < ties < 30
    assert f"30 pairs, {ties} of them ties, from 20 images" in out


def test_other_pairs_are_not_overwritten_unless_asked(
    bench: Callable[..., tuple[int, str, str]], made: Path, tmp_path: Path
) -> None:
    (tmp_path / "bench-runs").symlink_to(made / "bench-runs")
    (tmp_path / "pairs.parquet").write_bytes(b"years of work")
    code, _, err = bench("data", "generate", *SHAPES)
    assert code == 1
    assert err.startswith("error: pairs.parquet is there and holds other pairs")
    assert len(err.strip().splitlines()) == 1
    assert (tmp_path / "pairs.parquet").read_bytes() == b"years of work"
    assert bench("data", "generate", *SHAPES, "--overwrite")[0] == 0
    assert (tmp_path / "pairs.parquet").read_bytes() == (made / "pairs.parquet").read_bytes()


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = bench("data", "generate", *SHAPES, "--dry-run")
    assert code == 0
    assert "3 images for each of 5 prompts (shapes-parti) from shapes" in out
    assert "10 stages, 0 of them cached" in out
    # Three images of five prompts, two steps, with and without the prompt.
    assert str(3 * 5 * 2 * 2) in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--backbone=shapez", "unknown backbone 'shapez'. Did you mean 'shapes'?"),
        ("--backbone=", "--backbone: an empty value"),
        ("--prompts=gone/x.txt", "no such file"),
        ("--label-with=averag", "unknown aggregation 'averag'. Did you mean 'average'?"),
        ("--label-with=human", "'human' reads no reward"),
        ("--scorers=gold", "'gold' is held out"),
        ("--scorers=", "--scorers: an empty value"),
        ("--guidance=0.5", "sampling.guidance: input should be greater than or equal to 1"),
        ("--out=pairs.csv", "--out pairs.csv: expected the name of a .parquet file"),
        ("--device=tpu9", "--device tpu9: not a device"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, change: str, message: str
) -> None:
    code, _, err = bench("data", "generate", *SHAPES, change)
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.parquet"))


def test_a_failing_scorer_is_named_and_nothing_is_delivered(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    (tmp_path / "toy").mkdir()
    toy.recipe(tmp_path / "toy")
    code, _, err = bench(
        "data",
        "generate",
        f"--backbone=toy[path={tmp_path / 'toy' / 'pipeline'}]",
        "--prompts=toy/prompts.tsv",
        "--scorers=channel,faulty[how=clear]",
        "--steps=2",
        "--device=cpu",
    )
    assert code == 1
    assert err.startswith("error: score with faulty[how=clear]")
    assert "the weights are missing; fetch them" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "pairs.parquet").exists()


def test_the_images_of_several_models_compete_under_one_prompt(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    toy.write_prompts(tmp_path / "prompts.tsv", 6)
    models = [
        f"toy[path={save_tiny_pipeline(tmp_path / name, seed=seed)}]"
        for seed, name in enumerate(("one", "two"))
    ]
    code, out, _ = bench(
        "data",
        "generate",
        f"--backbone={','.join(models)}",
        "--prompts=prompts.tsv",
        "--scorers=channel",
        "--images-per-prompt=2",
        "--form=all",
        "--steps=2",
        "--device=cpu",
    )
    assert code == 0
    assert "36 pairs" in out
    assert "bench run --recipe RECIPE --set" in out
    frame = pq.read_table(tmp_path / "pairs.parquet").to_pandas()
    by_caption = frame.groupby("caption")[["model_0", "model_1"]]
    for _, rows in by_caption:
        shown = sorted(tuple(sorted(pair)) for pair in rows.to_numpy().tolist())
        assert shown == sorted([(models[0],) * 2, *[(models[0], models[1])] * 4, (models[1],) * 2])
    between = frame[frame["model_0"] != frame["model_1"]]
    assert between["model_0"].nunique() == 2


def test_the_defaults_are_those_of_a_recipe() -> None:
    defaults = {name: p.default for name, p in inspect.signature(generate).parameters.items()}
    for name in ("images_per_prompt", "label_with", "form", "limit"):
        assert defaults[name] == GenerateConfig.model_fields[name].default


def test_a_recipe_generates_its_pairs_and_ends_in_a_board(
    bench: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.registry.registry.default_registry", toy.registry)
    recipe = yaml.safe_load(toy.recipe(tmp_path).to_yaml())
    toy.write_prompts(tmp_path / "more.tsv", 7)
    recipe |= {
        "pairs": "generated",
        "generate": {
            "prompts": ["more.tsv"],
            "images_per_prompt": 3,
            "label_with": "majority_vote",
            "form": "adjacent",
        },
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = bench("run", "--recipe=made.yaml", "--device=cpu", "--out=board")
    assert (code, err) == (0, "")
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert "dpo" in json.dumps(board)
    (artefact,) = tmp_path.glob("bench-runs/store/artefacts/pairs/*")
    frame = pq.read_table(artefact / "pairs.parquet").to_pandas()
    assert len(frame) == 14
    (inspected,) = tmp_path.glob("bench-runs/store/artefacts/inspect/*/artefact.json")
    info = json.loads(inspected.read_text())["info"]
    assert (info["pairs"], info["usable"]) == (14, 14)
    assert info["ties"] == int((frame["label_0"] == 0.5).sum())
    code, out, _ = bench("run", "--recipe=made.yaml", "--device=cpu", "--out=board")
    assert code == 0
    assert "Running" not in out


def test_pairs_that_were_made_read_back_and_pass_the_check(
    bench: Callable[..., tuple[int, str, str]], made: Path
) -> None:
    pairs = default_registry().build("preference_sets", f"pickapic[path={made / 'pairs.parquet'}]")
    assert pairs.count() == 5
    read = list(pairs.read())
    assert [pair.row for pair in read] == [*range(5)]
    images = [image for pair in read for image in pair.images]
    assert {tuple(image.scores) for image in images} == {("shapes_clip", "shapes_aesthetic")}
    assert {image.model for image in images} == {"shapes"}
    assert {image.seed for image in images} <= {0, 1, 2}
    code, out, err = bench("data", "check", str(made / "pairs.parquet"))
    assert (code, err) == (0, "")
    assert "64" in out
