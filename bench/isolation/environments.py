"""Python environments for scorers whose packages cannot live beside ours.

    <root>/<name>-<key>.json               a finished build: where it lies and what is installed
    <root>/builds/<name>-<key>-<attempt>/  a virtual environment; unfinished unless a file points
    <root>/logs/                           what installers and workers printed

The key hashes the declaration, so a changed one is another build and never a stale one. The file
that points is written last and in one step. The root is $BENCH_ENV_DIR, by default in the user's
data folder. `build` makes what this module finds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.isolation import worker
from bench.store import Store, content_key

ROOT_VARIABLE = "BENCH_ENV_DIR"
CHECK_SECONDS = 900
"""More than importing any scorer's packages takes on a slow disk."""

_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """What a scorer's environment is made of."""

    name: str
    adapter: Path
    """The file that runs in it: `load(device, **options)` gives an object with
    `score(images, prompts)`; `check()`, if there is one, imports what `load` needs."""
    requirements: tuple[str, ...] = ()
    """As pip writes them; installed with what they depend on. "torch" and "torchvision" without a
    version are taken in the versions that run bench, which suit this machine's driver."""
    no_deps: tuple[str, ...] = ()
    """Installed afterwards, without what they declare."""
    copies: tuple[tuple[str, str], ...] = ()
    """(from, to) in site-packages: a file that one wheel has and another forgot."""
    python: str = ""
    """"3.11"; by default the version that runs bench."""
    borrow: bool = False
    """See the packages of the Python that runs bench, where it has none of its own of that name."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides what is installed."""
        declared = asdict(self)
        del declared["adapter"]
        return content_key(declared)

    @property
    def build_name(self) -> str:
        """`<name>-<key>`; of a borrower, the lender is part of the key."""
        lender = [running_python(), *own_site_packages()] if self.borrow else []
        return f"{self.name}-{content_key({'spec': self.fingerprint, 'lender': lender})}"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A finished build."""

    folder: Path
    python_version: str
    installed: Mapping[str, str]
    """Package -> version, as they were when it was built."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_of(self.folder)


def root() -> Path:
    """Where all environments lie."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "diffusion-preference-bench" / "environments"


def builds_folder() -> Path:
    """Where finished and unfinished builds lie."""
    return root() / "builds"


def pointer(build_name: str) -> Path:
    """The file that says where the finished build lies."""
    return root() / f"{build_name}.json"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def running_python() -> str:
    """The version of the Python that runs bench: "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def own_site_packages() -> list[str]:
    """Where the packages of the Python that runs bench lie."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def find(spec: EnvironmentSpec) -> Environment | None:
    """The finished build of exactly this declaration."""
    try:
        data = json.loads(pointer(spec.build_name).read_text(encoding="utf-8"))
        return Environment(
            folder=builds_folder() / data["build"],
            python_version=data["python"],
            installed=data["packages"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def require(spec: EnvironmentSpec) -> Environment:
    """The environment, ready to be used. Starts no process.

    Raises:
        BenchError: it is absent or broken; names the command that makes it.
    """
    found = find(spec)
    if found is None:
        state = "was built for an older definition" if pointers(spec.name) else "is not built"
        raise BenchError(f"environment {spec.name!r} {state}; run: bench env create {spec.name}")
    if not found.python.exists():
        raise BenchError(
            f"environment {spec.name!r} is broken, its Python {found.python} is gone; "
            f"run: bench env create --rebuild {spec.name}"
        )
    return found


def obstacle(spec: EnvironmentSpec) -> str:
    """Why `require` would refuse, or ""."""
    try:
        require(spec)
    except BenchError as error:
        return str(error)
    return ""


def check(spec: EnvironmentSpec) -> list[str]:
    """Everything that is wrong with the environment, a sentence each; starts its Python."""
    log = log_file(f"check-{spec.name}")
    try:
        found = require(spec)
        report = probe(found.python, spec, log)
    except BenchError as error:
        return [str(error)]
    again = f"run: bench env create --rebuild {spec.name}"
    problems = [
        f"{name} {version} was installed, now there is {report['packages'].get(name, 'none')}; "
        f"{again}"
        for name, version in found.installed.items()
        if report["packages"].get(name) != version
    ]
    if report["error"]:
        problems.append(f"{in_words(report['error'])} (log: {log}); {again}")
    else:
        log.unlink(missing_ok=True)
    return problems


def pointers(name: str) -> list[Path]:
    """The files of all finished builds of that name: of this and of older definitions."""
    return _matching(root(), re.escape(name) + r"-[0-9a-f]{20}\.json")


def folders(name: str, key: str = "[0-9a-f]{20}") -> list[Path]:
    """The folders of all builds of that name, finished or not."""
    return _matching(builds_folder(), re.escape(name) + f"-{key}-[0-9a-f]{{8}}")


def remove(name: str) -> list[Path]:
    """Delete every build of that name; gives their folders."""
    for path in pointers(name):
        with Store(root()).lock(path.stem):
            # Before the folders, so that a removal cut short leaves no broken build.
            path.unlink(missing_ok=True)
    found = folders(name)
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def probe(python: Path, spec: EnvironmentSpec, log: Path) -> dict[str, Any]:
    """What an environment's own Python says of it: "python", "packages" and "error" (or None).

    Raises:
        BenchError: it cannot even say that.
    """
    result = log.with_suffix(".json")
    command = [str(python), "-I", worker.__file__, "check", str(spec.adapter), str(result)]
    try:
        with log.open("ab") as out:
            subprocess.run(
                command,
                env=clean_variables(CUDA_VISIBLE_DEVICES=""),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=CHECK_SECONDS,
                check=True,
            )
        report: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, subprocess.SubprocessError) as error:
        said = log_tail(log)
        raise BenchError(
            f"environment {spec.name!r} is broken, its Python cannot import what it needs: "
            f"{' '.join(str(error).split())}{f'; it said: {said}' if said else ''}; "
            f"run: bench env create --rebuild {spec.name}"
        ) from error
    finally:
        result.unlink(missing_ok=True)
    return report


def in_words(error: Mapping[str, Any]) -> str:
    """An exception that a worker described, in one line."""
    message = " ".join(str(error["message"]).split())
    return f"{error['type']}: {message}"[:500].rstrip(": .")


def clean_variables(**extra: str) -> dict[str, str]:
    """This process's environment variables without those that lead Python to other packages."""
    kept = {k: v for k, v in os.environ.items() if k not in _DROPPED}
    return kept | {"PYTHONNOUSERSITE": "1"} | extra


def log_file(name: str) -> Path:
    """A new log's place under the root."""
    folder = root() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name)[:80]
    return folder / f"{plain}-{os.getpid()}-{time.time_ns()}.log"


def log_tail(log: Path, lines: int = 3, width: int = 200) -> str:
    """The last lines of a log in one, for messages."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text)]
    return " | ".join([line[:width] for line in found if line][-lines:])


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob("*") if re.fullmatch(pattern, path.name))
