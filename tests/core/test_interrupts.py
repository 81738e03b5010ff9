"""Ctrl-C, as real SIGINTs to real commands: one sentence, exit code 130, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import bench.registry.registry
from bench.lib import checksums
from bench.store.store import Cost, FileEntry, Store
from tests import toy
from tests.hostile.harness import Running
from tests.lingering import registry

ROOT = Path(__file__).parents[2]
SENTENCE = "interrupted: what is finished is kept, and the same command goes on from there\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    toy.recipe(folder)
    (folder / "images").mkdir()
    for i in range(2):
        from PIL import Image

        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / "images" / f"{i:05d}.png")
    return folder


def _recipe(folder: Path, target: Path, **changes: object) -> Path:
    recipe = toy.recipe(folder, methods=["dpo"], scorers=["channel"], label_scorers=["channel"])
    data = yaml.safe_load(recipe.to_yaml())
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    target.write_text(yaml.safe_dump(data))
    return target


@contextmanager
def _start(
    arguments: Sequence[str], cwd: Path, module: str = "tests.lingering", **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, which is ended with the block."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LINGERING": str(cwd / "lingering"),
            "OMP_NUM_THREADS": "1",
            "BENCH_ENV_DIR": str(cwd / "environments"),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            for pid in [process.pid, *_offspring(process.pid)]:
                if _alive(pid):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def _fork(arguments: Sequence[str], cwd: Path) -> Iterator[Running]:
    """The same in a fork of this process, which has the slow imports done."""

    def with_the_toys() -> None:
        bench.registry.registry.default_registry = registry  # type: ignore[assignment]

    variables = {"LINGERING": str(cwd / "lingering")}
    running = Running(
        list(arguments), cwd, cwd / "log", environment=variables, before=with_the_toys
    )
    try:
        yield running
    finally:
        running.signal(signal.SIGKILL)


def _offspring(pid: int) -> list[int]:
    """The processes that it has started, and those that they have started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += [*children, *(pid for child in children for pid in _offspring(child))]
    return found


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait(for_: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not for_():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def _interrupt(process: subprocess.Popen[str], begun: Callable[[], object]) -> None:
    """Ctrl-C once it has begun, and what is to come of it."""
    _wait(lambda: begun() or process.poll() is not None)
    started = _offspring(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors == SENTENCE
    _wait(lambda: not any(_alive(pid) for pid in started), 10)


def _interrupt_fork(running: Running, begun: Callable[[], object]) -> None:
    assert running.until(lambda: bool(begun()))
    started = _offspring(running.pid)
    running.signal(signal.SIGINT)
    ended = running.wait()
    assert (ended.code, ended.err) == (130, SENTENCE)
    _wait(lambda: not any(_alive(pid) for pid in started), 10)


QUICK = ("planning", "scoring, and the scorer swallows it")
RUNS = {
    "planning": {"scorers": ["lingering[at=fingerprint]"]},
    "inspecting": {"pairs": "lingering_pairs"},
    "loading a backbone": {"backbone": "lingering_backbone[path={folder}/pipeline]"},
    "labelling": {"label_scorers": ["lingering"], "methods": ["balanced"]},
    "loading a scorer": {"scorers": ["lingering[at=load]"], "methods": ["base"]},
    "scoring": {"scorers": ["lingering"], "methods": ["base"]},
    "scoring, and the scorer swallows it": {
        "scorers": ["lingering[at=swallow]"],
        "methods": ["base"],
    },
    "scoring elsewhere": {"scorers": ["lingering[isolate=true]"], "methods": ["base"]},
    "loading elsewhere": {"scorers": ["lingering[at=load,isolate=true]"], "methods": ["base"]},
}


@pytest.mark.parametrize(
    "stage", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in RUNS]
)
def test_a_run(folder: Path, tmp_path: Path, stage: str) -> None:
    changes = {
        key: value.format(folder=folder) if isinstance(value, str) else value
        for key, value in RUNS[stage].items()
    }
    assert registry().entries("scorers")
    recipe = _recipe(folder, tmp_path / "recipe.yaml", **changes)
    command = ["run", "--recipe", str(recipe), "--device", "cpu"]
    if stage == "planning":
        with _start(command, tmp_path) as process:
            _interrupt(process, (tmp_path / "lingering").exists)
    else:
        with _fork(command, tmp_path) as running:
            _interrupt_fork(running, (tmp_path / "lingering").exists)
    # No number of what was not finished.
    assert not list(tmp_path.glob("bench-runs/store/artefacts/score/*"))
    assert not (tmp_path / "bench-runs" / "toy" / "README.md").exists()


def test_a_run_that_trains(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, tmp_path / "recipe.yaml", training={"steps": 100_000})
    with _fork(["run", "--recipe", str(recipe), "--device", "cpu"], tmp_path) as running:
        _interrupt_fork(
            running, lambda: list(tmp_path.glob("bench-runs/store/partial/*/work/*.pt"))
        )


def test_a_run_that_waits_for_another(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, tmp_path / "recipe.yaml", scorers=["lingering"], methods=["base"])
    command = ["run", "--recipe", str(recipe), "--device", "cpu"]
    with _fork(command, tmp_path) as first:
        assert first.until((tmp_path / "lingering").exists)
        with _fork(command, tmp_path) as second:
            _interrupt_fork(second, lambda: "another run is at it" in second.printed())
        assert not first.ended()


@pytest.mark.slow
def test_scoring_a_folder(folder: Path, tmp_path: Path) -> None:
    command = ["score", str(folder / "images"), "--scorers", "lingering", "--device", "cpu"]
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    command += ["--prompts", str(tmp_path / "prompts.txt")]
    with _start(command, tmp_path) as process:
        _interrupt(process, (tmp_path / "lingering").exists)


def test_a_check_of_pairs(tmp_path: Path) -> None:
    with _start(["data", "check", "lingering_pairs"], tmp_path) as process:
        _interrupt(process, (tmp_path / "lingering").exists)


def test_a_verification_of_the_store(tmp_path: Path) -> None:
    _endless_store(tmp_path / "store")
    command = ["store", "verify", "--store", str(tmp_path / "store")]
    with _start(command, tmp_path, module="bench") as process:
        _interrupt(process, lambda: _has_open(process.pid, "large"))


def _has_open(pid: int, name: str) -> bool:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(os.readlink(link).endswith(f"/{name}") for link in links if link.is_symlink())


def _endless_store(root: Path) -> None:
    """A store that takes minutes to read."""
    store = Store(root)
    partial = store.begin("train", "k")
    (partial.out / "large").touch()
    artefact = store.commit("train", "k", partial, Cost(), {})
    os.truncate(artefact.path / "large", 2**38)
    entry = FileEntry(size=2**38, sha256="")
    manifest = artefact.manifest.model_copy(update={"files": {"large": entry}})
    (artefact.path / "artefact.json").write_bytes(checksums.seal(manifest.model_dump()))


def test_the_building_of_an_environment(tmp_path: Path) -> None:
    """The program that would build it is played by a script."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f"#!/bin/sh\ntouch {tmp_path}/lingering\nsleep 60\n")
    uv.chmod(0o755)
    path = f"{uv.parent}:{os.environ['PATH']}"
    with _start(["env", "create", "hpsv3"], tmp_path, PATH=path) as process:
        _interrupt(process, (tmp_path / "lingering").exists)
    assert not list((tmp_path / "environments").rglob("hpsv3-*[0-9a-f]"))


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_twice(folder: Path, tmp_path: Path, pause: float) -> None:
    recipe = _recipe(folder, tmp_path / "recipe.yaml", scorers=["lingering"], methods=["base"])
    with _start(["run", "--recipe", str(recipe), "--device", "cpu"], tmp_path) as process:
        _wait((tmp_path / "lingering").exists)
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == SENTENCE


@contextmanager
def _launched(cwd: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A launch of two processes that are busy for minutes, and their numbers."""
    _endless_store(cwd / "store")
    (cwd / "launched.py").write_text(_LAUNCHED)
    with _start(["many"], cwd, module="launched", PYTHONPATH=str(cwd)) as launcher:
        _wait(lambda: len(_offspring(launcher.pid)) == 2 or launcher.poll() is not None)
        workers = _offspring(launcher.pid)
        # Until they hear of the launcher's end.
        _wait(lambda: all(len(os.listdir(f"/proc/{pid}/task")) > 1 for pid in workers))
        try:
            yield launcher, workers
        finally:
            for pid in workers:
                if _alive(pid):
                    os.kill(pid, signal.SIGKILL)


_LAUNCHED = """
import sys
from bench.cli import main as cli
from bench.running import launch

@cli.app.command()
def many():
    sys.exit(launch.launch(2, ["store", "verify", "--store", "store"]))

cli.main()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_process_outlives_its_launcher(tmp_path: Path, how: signal.Signals) -> None:
    with _launched(tmp_path) as (launcher, workers):
        assert len(workers) == 2
        launcher.send_signal(how)
        assert launcher.wait(10) == -how
        _wait(lambda: not any(_alive(pid) for pid in workers), 10)


def test_a_launcher_that_ends_before_its_processes_have_begun(tmp_path: Path) -> None:
    _endless_store(tmp_path / "store")
    theirs, ours = os.pipe()
    os.close(ours)
    arguments = [sys.executable, "-P", "-m", "bench", "store", "verify", "--store", "store"]
    variables = {**os.environ, "BENCH_LAUNCHER": str(theirs)}
    done = subprocess.run(
        arguments, env=variables, cwd=tmp_path, pass_fds=[theirs], timeout=60, check=False
    )
    os.close(theirs)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("whom", ["all", "launcher", "rank 0", "rank 1"])
def test_a_launch(tmp_path: Path, whom: str) -> None:
    """From a terminal, Ctrl-C reaches all processes; from elsewhere, any one of them."""
    with _launched(tmp_path) as (launcher, workers):
        match whom:
            case "all":
                os.killpg(launcher.pid, signal.SIGINT)
            case "launcher":
                launcher.send_signal(signal.SIGINT)
            case _:
                os.kill(workers[int(whom[-1])], signal.SIGINT)
        _, errors = launcher.communicate(timeout=30)
        assert (launcher.returncode, errors) == (130, SENTENCE)
        assert not any(_alive(pid) for pid in workers)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_was_killed_is_named(tmp_path: Path, rank: int) -> None:
    with _launched(tmp_path) as (launcher, workers):
        os.kill(workers[rank], signal.SIGKILL)
        _, errors = launcher.communicate(timeout=60)
        assert launcher.returncode == 1
        assert errors == (
            f"error: process {rank} of 2 was killed by SIGKILL (has the machine run out of "
            f"memory?), so the run was stopped; the same command goes on from here\n"
        )
        assert not any(_alive(pid) for pid in workers)


def test_a_launch_imports_nothing_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("torch", "random", "numpy", "typer", "yaml", "pluggy", "rich", "bench"):
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(77)\n")
    code = "from bench.running.launch import launch; raise SystemExit(launch(2, ['plugins']))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "smpo" in done.stdout
