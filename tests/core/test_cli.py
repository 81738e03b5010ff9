"""The command line as users meet it: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy
from tests.commands import Bench, in_folder


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    monkeypatch.setenv("HOME", str(tmp_path))
    return in_folder(tmp_path, monkeypatch, capsys)


def _start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "120", "HOME": str(cwd)},
    )


def _bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    with _start(*arguments, cwd=cwd) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_help_names_every_command(tmp_path: Path) -> None:
    done = _bench("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("run", "plugins", "leaderboard", "shapes"):
        assert command in done.stdout


def test_plugins_lists_kind_name_line_package_and_version(tmp_path: Path) -> None:
    done = _bench("plugins", cwd=tmp_path)
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if " smpo " in line)
    assert row.split()[0] == "method"
    assert any(line.startswith("diffusion-preference-bench ") for line in done.stdout.splitlines())


def test_plugins_shows_options_with_types_and_defaults(tmp_path: Path) -> None:
    done = _bench("plugins", "majority_vote", "--json", cwd=tmp_path)
    (plugin,) = json.loads(done.stdout)["plugins"]
    options = {option["name"]: option for option in plugin["options"]}
    assert options["ties"]["type"] == "drop | human | priority"
    assert options["ties"]["default"] == "drop"
    assert ">= 0" in options["dead_zone"]["doc"]
    assert _bench("plugins", "majority_vote", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--methods", "smpoo"], "unknown method 'smpoo'. Did you mean 'smpo'"),
        (["run", "--scorers", "golden"], "unknown scorer 'golden'. Did you mean 'gold'?"),
        (
            ["run", "--methods", "smpo[bta=1]"],
            "unknown option of method 'smpo' 'bta'. Did you mean",
        ),
        (["run", "--methods", "smpo[beta=x]"], "smpo[beta=x]: input should be a valid number"),
        (["run", "--recipe", "shapez"], "unknown recipe 'shapez'. Did you mean 'shapes'?"),
        (["run", "--set", "training.stps=3"], "unknown training key 'stps'. Did you mean 'steps'"),
        (["run", "--set", "training.steps"], "expected key=value"),
        (["run", "--seeds", "a"], "--seeds a: expected whole numbers"),
        (["run", "--prompts", "gone/x.tsv"], "no such file"),
        (["run", "--prompts", "empty.tsv"], "empty.tsv: holds no prompt"),
        (["run", "--prompts", "blank.json"], "blank.json: entry 1: 'prompt' is empty"),
        (["run", "--set", "pairs=./columns.parquet"], "column 'jpg_1' is missing"),
        (["run", "--device", "tpu9"], "--device tpu9: not a device"),
        (["plugins", "smpi"], "unknown plugin 'smpi'. Did you mean 'smpo'?"),
        (["leaderboard", "check"], "no board"),
        (["leaderboard", "check", "nowhere"], "nowhere"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    bench: Bench, tmp_path: Path, arguments: list[str], message: str
) -> None:
    import pandas as pd

    (tmp_path / "empty.tsv").write_text("Prompt\tCategory\tChallenge\tNote\n")
    (tmp_path / "blank.json").write_text('["a circle", "  "]')
    columns = {"caption": ["a"], "jpg_0": [b"x"], "label_0": [1.0]}
    pd.DataFrame(columns).to_parquet(tmp_path / "columns.parquet")
    code, _, errors = bench(*arguments)
    assert code == 1
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = _bench("run", "--methods", "smpo,balanced", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("smpo, seed 0", "denoiser evaluations", "estimated time", "train", "score"):
        assert word in done.stdout
    # Checksums of large files are remembered in the user's cache, not beside the run.
    assert [path.name for path in tmp_path.iterdir()] in ([], [".cache"])


def test_undecodable_pairs_end_the_run_with_their_rows(bench: Bench, tmp_path: Path) -> None:
    toy.write_pairs(tmp_path / "pairs.parquet", count=12, broken=[2, 3])
    code, _, errors = bench("run", "--methods", "dpo", "--set", "pairs=./pairs.parquet")
    assert code == 1
    assert "row 2 (image_1: cannot identify image" in errors


@pytest.mark.slow
def test_ctrl_c_says_in_one_sentence_that_the_same_command_goes_on(tmp_path: Path) -> None:
    with _start("run", "--methods", "smpo", cwd=tmp_path) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("Running on"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == (
        "interrupted: what is finished is kept, and the same command goes on from there\n"
    )
