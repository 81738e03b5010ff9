"""Terminals, variables and limits of machines that nobody has set up well."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.harness import RUN, Case, World, judge, sample

DRY = f"{RUN} --dry-run"


def variables(name: str, command: str = RUN, ends: str = "either", **told: str) -> Case:
    """The plain command with other environment variables."""
    return Case(id=name, command=command, where="fork", environment=told, ends=ends)  # type: ignore[arg-type]


def limited(name: str, before: Callable[[], None], command: str = RUN) -> Case:
    """The plain command under a limit."""
    return Case(id=name, command=command, where="fork", before=before)


def fresh(name: str, command: str = DRY, ends: str = "well", **told: str) -> Case:
    """A new interpreter: what is read when Python starts."""
    return Case(id=name, command=command, where="process", environment=told, ends=ends)  # type: ignore[arg-type]


def redirected(name: str, redirect: str, command: str = DRY) -> Case:
    """A new interpreter whose streams a shell has laid somewhere else."""
    return Case(id=name, command=command, where="process", redirect=redirect)


def _limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def _folder_gone() -> None:
    gone = Path.cwd() / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


def _masked() -> None:
    os.umask(0o777)


def _ignoring() -> None:
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


JUNK = {
    "word": "many",
    "negative": "-1",
    "zero": "0",
    "empty": "",
    "fraction": "1.5",
    "huge": "9" * 30,
    "digits": "9" * 5000,
    "arabic": "٢",
    "spaces": " ",
}

CASES = [
    *(variables(f"world-size-{name}", WORLD_SIZE=text) for name, text in JUNK.items()),
    *(
        variables(f"rank-{name}", "run --recipe recipe.yaml --dry-run", WORLD_SIZE="2", RANK=text)
        for name, text in JUNK.items()
        if name not in ("zero", "arabic")
    ),
    variables("rank-beyond", ends="refused", WORLD_SIZE="2", RANK="2"),
    variables("rank-without-size", RANK="1"),
    variables("local-rank-junk", LOCAL_RANK="x"),
    variables(
        "port-junk", ends="refused", WORLD_SIZE="2", RANK="0", MASTER_ADDR="x", MASTER_PORT="y"
    ),
    variables("address-missing", ends="refused", WORLD_SIZE="2", RANK="0", LOCAL_RANK="0"),
    variables("columns-zero", COLUMNS="0", ends="well"),
    variables("columns-one", COLUMNS="1", ends="well"),
    variables("columns-negative", COLUMNS="-5", ends="well"),
    variables("columns-word", COLUMNS="wide", ends="well"),
    variables("columns-huge", COLUMNS="1000000", ends="well"),
    variables("lines-word", LINES="tall", ends="well"),
    variables("terminal-dumb", TERM="dumb", ends="well"),
    variables("terminal-unknown", TERM="\x1b[0m", ends="well"),
    variables("colour-forced", FORCE_COLOR="1", ends="well"),
    variables("colour-none", NO_COLOR="1", ends="well"),
    variables("tty-forced", TTY_COMPATIBLE="1", ends="well"),
    variables("home-gone", HOME="/proc/nowhere", XDG_CACHE_HOME="", ends="well"),
    variables("home-a-file", HOME="/etc/hostname", XDG_CACHE_HOME="", ends="well"),
    variables("home-empty", HOME="", XDG_CACHE_HOME="", ends="well"),
    variables("cache-a-file", XDG_CACHE_HOME="/etc/hostname", ends="well"),
    variables("cache-a-device", XDG_CACHE_HOME="/dev/null", ends="well"),
    variables("hub-cache-a-file", HF_HOME="/etc/hostname", ends="well"),
    variables("temporary-gone", TMPDIR="/nowhere", ends="well"),
    variables("threads-junk", OMP_NUM_THREADS="many", ends="well"),
    variables("gpus-junk", CUDA_VISIBLE_DEVICES="x,y", ends="well"),
    variables("disabled-own", BENCH_DISABLED_PLUGINS="diffusion-preference-bench", ends="refused"),
    variables("disabled-toys", BENCH_DISABLED_PLUGINS="hostile-toys", ends="either"),
    variables("disabled-nobody", BENCH_DISABLED_PLUGINS="nobody,,, ;", ends="well"),
    variables("zone-junk", TZ="Nowhere/Nothing", ends="well"),
    variables("env-folder-a-file", "env list", BENCH_ENV_DIR="/etc/hostname"),
    limited("few-files", _limit(resource.RLIMIT_NOFILE, 24)),
    limited("no-core", _limit(resource.RLIMIT_CORE, 0)),
    redirected("output-closed", ">&-"),
    redirected("errors-closed", "2>&-"),
    redirected("input-closed", "<&-"),
    redirected("output-full", ">/dev/full"),
    redirected("output-full-json", ">/dev/full", "plugins --json"),
    redirected("output-nobody-reads", "| true"),
    redirected("output-nobody-reads-list", "| true", "plugins"),
    limited("folder-gone", _folder_gone, "plugins dpo"),
    limited("folder-gone-run", _folder_gone),
    limited("masked", _masked) if os.geteuid() == 0 else limited("masked", _ignoring),
    limited("signals-ignored", _ignoring),
    fresh("ascii-terminal", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0"),
    fresh("ascii-list", "plugins", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0"),
    fresh(
        "ascii-error",
        f"{DRY} --methods 'dрo'",
        "refused",
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
        PYTHONUTF8="0",
    ),
    fresh("latin-terminal", PYTHONIOENCODING="latin-1"),
    fresh("utf16-terminal", PYTHONIOENCODING="utf-16"),
    fresh("locale-unknown", LC_ALL="xx_YY.UTF-8", LANG="junk"),
    fresh("optimised", PYTHONOPTIMIZE="1"),
    fresh("warnings-are-errors-not", PYTHONWARNINGS="default"),
    fresh("hash-seed", PYTHONHASHSEED="7"),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_environment(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
