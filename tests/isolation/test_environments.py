"""Environments are built whole or not at all, and say what is wrong with them."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import Scorer
from bench.cli import env as command
from bench.lib.errors import BenchError
from bench.registry import registry
from bench.registry.registry import Entry, Registry
from bench.scoring.isolation import build, environments
from bench.scoring.isolation.environments import EnvironmentSpec
from bench.scoring.isolation.scorer import IsolatedScorer
from tests.isolation.conftest import ADAPTER, tiny, wheel
from tests.isolation.test_worker import gone


def create(spec: EnvironmentSpec, adapter: Path = ADAPTER, *, rebuild: bool = False) -> list[str]:
    lines: list[str] = []
    build.create(spec, [adapter], lines.append, rebuild=rebuild)
    return lines


def folders() -> list[Path]:
    """Of all builds, finished or not."""
    return [f for name in environments.builds("tiny") for f in environments.folders(name)]


def check(spec: EnvironmentSpec, adapter: Path = ADAPTER) -> list[str]:
    return build.check(spec, [adapter])


def test_what_is_declared_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a user has set for other work, and a project that lies above.
    others = tmp_path / "constraints.txt"
    others.write_text("alpha==9\n")
    monkeypatch.setenv("UV_CONSTRAINT", str(others))
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nconstraint-dependencies = ["alpha==9"]\n')
    adapter = tmp_path / "adapter.py"
    adapter.write_text("def check():\n    import alpha, beta\n")
    alpha = wheel(tmp_path, "alpha", "1.5", "")
    beta = wheel(tmp_path, "beta", "2.0", "", requires="no-such-package==7")
    spec = tiny(
        requirements=(f"alpha @ {alpha.as_uri()}",),
        no_deps=(f"beta @ {beta.as_uri()}",),
    )
    lines = create(spec, adapter)
    assert "ready" in lines[-1]
    built = environments.require(spec)
    assert (built.installed["alpha"], built.installed["beta"]) == ("1.5", "2.0")
    assert built.installed["numpy"] == np.__version__
    assert check(spec, adapter) == []
    assert create(spec, adapter) == [f"tiny is there already: {built.folder}"]


def test_what_cannot_be_installed_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "gone-1-py3-none-any.whl"
    with pytest.raises(BenchError) as caught:
        create(tiny(requirements=(f"gone @ {missing.as_uri()}",)))
    message = str(caught.value)
    assert message.startswith("environment 'tiny' could not be built: ")
    assert missing.name in message
    assert message.endswith("; to try again, run: bench env create tiny")
    assert "\n" not in message
    log = Path(message.partition("the whole log: ")[2].partition(";")[0])
    assert missing.name in log.read_text()
    assert folders() == []


def test_the_reason_is_found_in_what_uv_says() -> None:
    uv = [
        "× No solution found when resolving dependencies:",
        "╰─▶ Because there is no version of nope==9 and you require nope==9, we can",
        "conclude that your requirements are unsatisfiable.",
    ]
    assert build.reason(uv) == (
        "No solution found when resolving dependencies: Because there is no version of nope==9 "
        "and you require nope==9, we can conclude that your requirements are unsatisfiable"
    )
    assert build.reason(["one", "two", "three"]) == "two three"
    assert build.reason([]) == "uv gave no reason"
    causes = ["error: Failed to install", *(f"Caused by: step {i} of many" for i in range(40))]
    reason = build.reason([*causes, "Caused by: No space left on device (os error 28)"])
    assert reason.startswith("error: Failed to install Caused by: step 0")
    assert reason.endswith("Caused by: No space left on device (os error 28)")
    assert len(reason) < 520


def test_what_does_not_work_is_not_taken_for_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny()
    monkeypatch.setenv("TEST_CHECK_FAILS", "1")
    with pytest.raises(
        BenchError, match=r"installed but does not work: ImportError: no module named 'flux_cap"
    ):
        create(spec)
    assert folders() == []
    assert "is not built" in environments.unavailable_reason(spec)
    monkeypatch.delenv("TEST_CHECK_FAILS")
    assert "ready" in create(spec)[-1]
    assert environments.unavailable_reason(spec) == ""
    monkeypatch.setenv("TEST_CHECK_FAILS", "1")
    (problem,) = check(spec)
    assert "no module named 'flux_capacitor'" in problem
    assert problem.endswith("run: bench env create --rebuild tiny")


def test_a_build_that_was_killed_is_not_taken_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "from tests.isolation.conftest import ADAPTER, tiny;"
        "from bench.scoring.isolation.build import create;"
        "create(tiny(), [ADAPTER], lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TEST_CHECK_SLEEPS": str(tmp_path / "sleeper")},
    )
    while not (tmp_path / "sleeper").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert gone(int((tmp_path / "sleeper").read_text()))
    spec = tiny()
    assert len(folders()) == 1
    assert environments.unavailable_reason(spec) == (
        "environment 'tiny' is not built; run: bench env create tiny"
    )
    create(spec)
    assert folders() == [environments.require(spec).folder]


def test_a_rebuild_that_fails_leaves_the_old_build(monkeypatch: pytest.MonkeyPatch) -> None:
    create(tiny())
    old = environments.require(tiny())
    monkeypatch.setenv("TEST_CHECK_FAILS", "1")
    with pytest.raises(BenchError, match="does not work"):
        create(tiny(), rebuild=True)
    assert environments.require(tiny()) == old
    assert folders() == [old.folder]


def test_a_changed_definition_is_noticed() -> None:
    create(tiny())
    changed = tiny(requirements=("alpha",))
    assert changed.fingerprint != tiny().fingerprint
    assert environments.unavailable_reason(changed) == (
        "environment 'tiny' was built for an older definition or beside other packages of bench; "
        "run: bench env create tiny"
    )


def test_a_lost_python_is_noticed_and_rebuilt() -> None:
    spec = tiny()
    create(spec)
    python = environments.require(spec).python
    python.unlink()
    assert environments.unavailable_reason(spec) == (
        f"environment 'tiny' is broken, its Python {python} is gone; "
        "run: bench env create --rebuild tiny"
    )
    assert "ready" in create(spec)[-1]
    python = environments.require(spec).python
    python.unlink()
    python.write_text("#!/bin/sh\necho cannot open libpython >&2\nexit 127\n")
    python.chmod(0o755)
    (problem,) = check(spec)
    assert "exit code 127" in problem
    assert "cannot open libpython" in problem
    assert "ready" in create(spec, rebuild=True)[-1]
    assert check(spec) == []


def test_versions_that_changed_since_are_named() -> None:
    spec = tiny()
    create(spec)
    path = environments.require(spec).folder / environments.RECORD
    data = json.loads(path.read_text())
    data["packages"]["bench-test-gone"] = "4.55.4"
    path.write_text(json.dumps(data))
    (problem,) = check(spec)
    assert problem.startswith("bench-test-gone 4.55.4 was installed, now there is none; run: ")
    del data["packages"]["bench-test-gone"], data["packages"]["numpy"]
    path.write_text(json.dumps(data | {"python": "3.2.1"}))
    python, numpy = check(spec)
    assert python.startswith("Python 3.2.1 was installed, now there is 3.")
    assert numpy.startswith(f"numpy none was installed, now there is {np.__version__}; run: ")


def test_two_that_build_at_once_build_once() -> None:
    spec, outputs = tiny(), [[], []]  # type: ignore[var-annotated]
    threads = [
        threading.Thread(target=build.create, args=(spec, [ADAPTER], lines.append))
        for lines in outputs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [line for lines in outputs for line in lines]
    assert sum("is ready" in line for line in everything) == 1
    assert sum("there already" in line for line in everything) == 1


def test_a_python_that_is_not_here_is_said_to_be_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(BenchError, match=r"could not be built: .*Python 3\.99"):
        create(tiny(python="3.99"))


def test_uv_is_asked_for_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_uv", lambda: None)
    with pytest.raises(BenchError, match=r"'tiny' is built with uv, .* pip install uv$"):
        create(tiny())
    assert folders() == []


def test_the_users_data_folder_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environments.ROOT_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert environments.root() == Path("/data/diffusion-preference-bench/environments")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert environments.root().is_relative_to("/home/someone/.local/share")


def _registry(*specs: EnvironmentSpec) -> Registry:
    classes = [
        type(
            f"Scorer{i}",
            (IsolatedScorer,),
            {"name": f"scorer{i}", "environment": spec, "adapter": ADAPTER},
        )
        for i, spec in enumerate(specs)
    ]
    other = type("Plain", (Scorer,), {"name": "plain"})
    return Registry(
        Entry(kind="scorers", cls=cls, package="tests", package_version="1")
        for cls in [*classes, other]
    )


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(registry, "default_registry", lambda: _registry(tiny(), tiny()))
    monkeypatch.setenv("COLUMNS", "120")
    return CliRunner()


def test_the_command_line_from_nothing_to_nothing(env: CliRunner) -> None:
    assert "not built" in env.invoke(command.env_app, ["list"]).output
    assert "no environment is built" in env.invoke(command.env_app, ["check"]).output
    made = env.invoke(command.env_app, ["create", "scorer1"])
    assert made.exit_code == 0
    assert "tiny is ready after" in made.output
    listed = env.invoke(command.env_app, ["list"]).output
    assert "ready" in listed
    assert "scorer0, scorer1" in listed
    assert env.invoke(command.env_app, ["check"]).output == "tiny: in order\n"
    environments.require(tiny()).python.unlink()
    assert "broken" in env.invoke(command.env_app, ["list"]).output
    checked = env.invoke(command.env_app, ["check", "tiny"])
    assert checked.exit_code == 1
    assert "bench env create --rebuild tiny" in checked.output
    assert "removed" in env.invoke(command.env_app, ["remove", "scorer0"]).output
    assert env.invoke(command.env_app, ["remove", "tiny"]).output == "tiny is not built\n"


def test_an_unknown_environment_says_what_is_close(env: CliRunner) -> None:
    result = env.invoke(command.env_app, ["create", "tinny"])
    assert isinstance(result.exception, BenchError)
    assert "Did you mean 'tiny'?" in str(result.exception)


def test_builds_of_older_definitions_are_shown_and_removed(
    env: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tiny())
    changed = _registry(tiny(no_deps=("alpha",)))
    monkeypatch.setattr(registry, "default_registry", lambda: changed)
    assert "outdated" in env.invoke(command.env_app, ["list"]).output
    assert "removed" in env.invoke(command.env_app, ["remove", "tiny"]).output
    assert folders() == []


def test_two_definitions_of_one_name_are_told_apart_by_their_scorers() -> None:
    one, other = tiny(), tiny(no_deps=("alpha",))
    known = command.declared(_registry(one, other, tiny("another")))
    assert command.named(known, "scorer0") == one
    assert command.named(known, "scorer1") == other
    assert command.named(known, "another") == tiny("another")
    with pytest.raises(BenchError, match=r"^scorers 'scorer0' and 'scorer1' declare different env"):
        command.named(known, "tiny")


def test_scorers_with_adapters_of_their_own_share_an_environment(
    tmp_path: Path, env: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second.py"
    second.write_text("def check():\n    raise ImportError('the second')\n")
    shared = _registry(tiny(), tiny())
    shared.get("scorers", "scorer1").cls.adapter = second  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "default_registry", lambda: shared)
    made = env.invoke(command.env_app, ["create", "scorer0"])
    assert "does not work: ImportError: the second" in str(made.exception)
    second.write_text("")
    assert env.invoke(command.env_app, ["create", "scorer0"]).exit_code == 0
    assert env.invoke(command.env_app, ["check"]).output == "tiny: in order\n"


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"name": "a/b"}, "environment 'a/b': its name may hold letters, digits and _ . - only"),
        ({"name": ".."}, "environment '..': its name may hold"),
        ({"requirements": "pillow"}, "requirements must be a tuple of strings such as"),
        ({"requirements": ["pillow"]}, r"requirements must be a tuple .*, not \['pillow'\]$"),
        ({"no_deps": "pillow"}, "no_deps must be a tuple of strings such as"),
        ({"python": "python3.11"}, "python must be a version such as '3.11', not"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(declared: dict[str, object], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        EnvironmentSpec(**{"name": "tiny", **declared})  # type: ignore[arg-type]


def test_what_is_taken_from_bench_is_part_of_a_builds_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvironmentSpec(name="tiny", requirements=("torch", "pillow"))
    name, torch = spec.build_name, importlib.metadata.version("torch").partition("+")[0]
    assert spec.resolved == (f"torch=={torch}", "pillow")
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "99.1+cu999")
    assert spec.resolved == ("torch==99.1", "pillow")
    assert spec.build_name != name
    pinned = EnvironmentSpec(name="pinned", requirements=("torch==2.15.0",), python="3.11")
    before = pinned.build_name
    monkeypatch.undo()
    assert (spec.build_name, pinned.build_name) == (name, before)
    monkeypatch.setattr(environments, "running_python", lambda: "3.99")
    assert spec.build_name != name
    assert pinned.build_name == before


@pytest.mark.parametrize("kind", ["a file", "/proc", "read-only"])
def test_a_folder_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: CliRunner, kind: str
) -> None:
    folder = Path("/proc/bench") if kind == "/proc" else tmp_path / "there" / "environments"
    if kind == "a file":
        folder.parent.touch()
    if kind == "read-only":
        (folder / "locks").mkdir(parents=True)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv(environments.ROOT_VARIABLE, str(folder))
    made = env.invoke(command.env_app, ["create", "tiny"])
    assert isinstance(made.exception, BenchError)
    assert str(made.exception).startswith(f"cannot write environments to {folder / 'locks'}: ")
    assert str(made.exception).endswith("; set BENCH_ENV_DIR to another folder")
    assert "is not built" in env.invoke(command.env_app, ["check", "tiny"]).output
    with pytest.raises(BenchError, match=f"^cannot write environments to {folder / 'logs'}: "):
        environments.log_file("worker")


def test_what_is_being_built_is_removed_once_it_is_finished(tmp_path: Path) -> None:
    spec, lines = tiny(), queue.SimpleQueue[str]()
    with environments.locked(spec.build_name, lambda line: None):
        live = environments.root() / f"{spec.build_name}.01234567"
        live.mkdir(parents=True)
        remover = threading.Thread(target=environments.remove, args=(spec.name, lines.put))
        remover.start()
        assert lines.get(timeout=10) == "another process is building tiny, waiting for it"
        assert live.exists()
    remover.join()
    assert lines.get() == f"removed {live}"
    assert not live.exists()


def test_what_cannot_be_removed_is_not_said_to_be(
    env: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tiny())
    folder = environments.require(tiny()).folder

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path / "bin"))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    result = env.invoke(command.env_app, ["remove", "tiny"])
    assert "removed" not in result.output
    assert str(result.exception) == (
        f"environment 'tiny' cannot be removed: {folder / 'bin'}: Permission denied"
    )
