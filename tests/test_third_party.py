"""The installable package in `third_party/` works from an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the package installed into it.

    It sees this environment's packages through a .pth file, since a second copy of torch would
    take gigabytes; the third-party package itself lies in the new one alone.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    here = [p for p in sys.path if p.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in here]
    (site / "parent.pth").write_text("".join(lines))
    source = shutil.copytree(PACKAGE, folder / "source")
    wheel = folder / "wheel"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheel)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (built,) = wheel.glob("*.whl")
    shutil.unpack_archive(built, site, format="zip")
    return python


def _bench(python: Path, cwd: Path, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [str(python), "-m", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "COLUMNS": "140", **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_plugins_are_listed(python: Path, tmp_path: Path) -> None:
    listed = json.loads(_bench(python, tmp_path, "plugins", "--json"))
    own = {(p["kind"], p["name"]) for p in listed["plugins"] if p["package"] == "bench-brightness"}
    assert own == {
        ("scorer", "brightness"),
        ("aggregation", "unanimous"),
        ("loss", "hinge"),
        ("method", "unanimous_hinge"),
    }
    off = _bench(python, tmp_path, "plugins", "--json", BENCH_DISABLED_PLUGINS="bench-brightness")
    assert "bench-brightness" not in off


def test_its_scorer_aggregation_and_method_go_through_bench_run(
    python: Path, tmp_path: Path
) -> None:
    said = _bench(
        python,
        tmp_path,
        "run",
        "--methods",
        "unanimous_hinge,dpo[labels=unanimous]",
        "--limit",
        "4",
        *("--set", "scorers=[gold, 'brightness[scale=2]']"),
        *("--set", "label_scorers=[brightness, shapes_preference]"),
        *("--set", "training.steps=2", "--set", "training.batch_size=4"),
        *("--set", "sampling.steps=2", "--set", "filters.max_pairs=16"),
    )
    assert "unanimous_hinge" in said
    board = json.loads((tmp_path / "bench-runs" / "shapes" / "leaderboard.json").read_text())
    assert "brightness[scale=2]" in json.dumps(board)
    results = sorted((tmp_path / "bench-runs" / "shapes" / "results").glob("*.json"))
    records = [json.loads(path.read_text())["record"] for path in results]
    assert {r["method"] for r in records} == {
        "base",
        "dpo[labels=unanimous]",
        "unanimous_hinge",
    }
    trained = next(r for r in records if r["method"] == "unanimous_hinge")
    # A column of the same scorer with other options is no judge from outside, either.
    assert trained["in_loop"] == ["brightness", "brightness[scale=2]", "shapes_preference"]
    assert trained["budget"]["pairs_dropped"] > 0
