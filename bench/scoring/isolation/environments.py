"""Python environments for scorers whose packages cannot live beside ours.

    <root>/<name>-<key>/            a finished build: a virtual environment
    <root>/<name>-<key>/build.json  what is installed there
    <root>/<name>-<key>.<attempt>/  an unfinished build, or one that was replaced
    <root>/logs/                    what uv and workers printed

The key hashes the declaration and the versions that it takes from the Python that runs bench, so
where either changes it is another build and never a stale one. A build gets its name last and in
one step. The root is $BENCH_ENV_DIR, by default in the user's data folder. `build` makes what this
module finds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.lib.errors import BenchError
from bench.lib.files import content_key
from bench.lib.reading import expanded
from bench.lib.wording import cut
from bench.store.store import Store

ROOT_VARIABLE = "BENCH_ENV_DIR"
RECORD = "build.json"
"""In a finished build: its Python, and the packages that it sees."""
MOST_QUOTED = 500
"""Characters of what others say that go into a message."""
LOG_DAYS = 30
"""How long a log is kept."""

_DROPPED = (
    # Other packages than the environment's.
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
    # The processes of a run: a worker is none of them, and their port is taken.
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_*", "ACCELERATE_*"),
    # Installing other things or elsewhere; indexes, proxies and caches stay the user's.
    *("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_RESOLUTION"),
    *("UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY"),
)
"""Patterns of environment variables that neither uv nor workers get."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSION = re.compile(r"\d+\.\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """What is installed in an environment.

    Raises:
        BenchError: it is not declared as it should be; says how it should.
    """

    name: str
    requirements: tuple[str, ...] = ()
    """As pip writes them; installed with what they depend on. "torch" and "torchvision" without a
    version are taken in the versions that run bench, which suit this machine's driver."""
    no_deps: tuple[str, ...] = ()
    """Installed afterwards, without what they declare."""
    python: str = ""
    """"3.11"; by default the version that runs bench."""

    def __post_init__(self) -> None:
        """Refuse what uv would misread."""
        who = f"environment {self.name!r}"
        if not _NAME.fullmatch(self.name):
            raise BenchError(f"{who}: its name may hold letters, digits and _ . - only")
        for field in ("requirements", "no_deps"):
            value = getattr(self, field)
            if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
                raise BenchError(
                    f"{who}: {field} must be a tuple of strings such as ('pillow',), not {value!r}"
                )
        if self.python and not _VERSION.fullmatch(self.python):
            raise BenchError(f"{who}: python must be a version such as '3.11', not {self.python!r}")

    @property
    def fingerprint(self) -> str:
        """A hash of the declaration."""
        return content_key(asdict(self))

    @property
    def resolved(self) -> tuple[str, ...]:
        """The requirements, with the versions that are taken from the Python that runs bench."""
        # Without the local part of a version ("+cu130"), which names a build.
        return tuple(
            f"{wanted}=={metadata.version(wanted).partition('+')[0]}"
            if wanted in ("torch", "torchvision")
            else wanted
            for wanted in self.requirements
        )

    @property
    def build_name(self) -> str:
        """`<name>-<key>`; what the Python that runs bench decides is part of the key."""
        identity = {
            "spec": self.fingerprint,
            "python": self.python or running_python(),
            "requirements": self.resolved,
        }
        return f"{self.name}-{content_key(identity)}"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A finished build."""

    folder: Path
    python_version: str
    installed: Mapping[str, str]
    """Package -> version of all that it sees, as they were when it was built."""

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_of(self.folder)

    @property
    def contents(self) -> list[str]:
        """Its Python and its packages with their versions, sorted."""
        packages = sorted(f"{name}=={version}" for name, version in self.installed.items())
        return [f"python=={self.python_version}", *packages]


def root() -> Path:
    """Where all environments lie."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return expanded(chosen).absolute()
    data = os.environ.get("XDG_DATA_HOME") or expanded("~/.local/share")
    return Path(data) / "diffusion-preference-bench" / "environments"


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def running_python() -> str:
    """The version of the Python that runs bench: "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def made(folder: Path) -> Path:
    """The folder under the root, created if need be.

    Raises:
        BenchError: it cannot be created or written to.
    """
    reason = "it may not be written to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        usable, reason = False, str(error.strerror)
    if not usable:
        raise BenchError(
            f"cannot write environments to {folder}: {reason}; set {ROOT_VARIABLE} to another "
            f"folder"
        )
    return folder


@contextmanager
def locked(build_name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock under which a build is made or deleted."""
    name = build_name.rpartition("-")[0]
    made(root() / "locks")
    with Store(root()).lock(
        build_name, lambda: say(f"another process is building {name}, waiting for it")
    ):
        yield


def find(spec: EnvironmentSpec) -> Environment | None:
    """The finished build of exactly this declaration."""
    folder = root() / spec.build_name
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Environment(
            folder=folder,
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
    environment = find(spec)
    if environment is None:
        older = "was built for an older definition or beside other packages of bench"
        state = older if is_built(spec.name) else "is not built"
        raise BenchError(f"environment {spec.name!r} {state}; run: bench env create {spec.name}")
    if not environment.python.exists():
        raise BenchError(
            f"environment {spec.name!r} is broken, its Python {environment.python} is gone; "
            f"run: bench env create --rebuild {spec.name}"
        )
    return environment


def unavailable_reason(spec: EnvironmentSpec) -> str:
    """Why `require` would refuse, or ""."""
    try:
        require(spec)
    except BenchError as error:
        return str(error)
    return ""


def builds(name: str) -> list[str]:
    """The names of all builds of an environment: of any definition, finished or not."""
    form = re.compile(rf"({re.escape(name)}-[0-9a-f]{{20}})(\.[0-9a-f]{{8}})?")
    matches = (form.fullmatch(path.name) for path in root().glob("*"))
    return sorted({match[1] for match in matches if match})


def is_built(name: str) -> bool:
    """Whether any build of an environment is finished."""
    return any((root() / build / RECORD).exists() for build in builds(name))


def folders(build_name: str) -> list[Path]:
    """The folder of a build, if it is finished, and those of unfinished attempts at it."""
    return sorted(root().glob(f"{build_name}*"))


def remove(name: str, say: Callable[[str], None]) -> bool:
    """Delete every build of that name, once nobody builds it; whether there was one.

    Raises:
        BenchError: something cannot be deleted.
    """
    every = builds(name)
    for build in every:
        with locked(build, say):
            try:
                for folder in folders(build):
                    # First, so that a removal cut short leaves no broken build.
                    (folder / RECORD).unlink(missing_ok=True)
                    shutil.rmtree(folder)
                    say(f"removed {folder}")
            except OSError as error:
                raise BenchError(
                    f"environment {name!r} cannot be removed: {error.filename}: {error.strerror}"
                ) from error
    return bool(every)


def end_session(process: subprocess.Popen[Any]) -> None:
    """Kill a process that has a session of its own, with all that it started there."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def in_words(error: Mapping[str, Any]) -> str:
    """An exception that a worker described, in one line."""
    text = " ".join(f"{error['type']}: {error['message']}".split())
    return cut(text, MOST_QUOTED).rstrip(": .")


def clean_variables(**extra: str) -> dict[str, str]:
    """This process's environment variables without those that lead its children astray."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not any(fnmatchcase(name, pattern) for pattern in _DROPPED)
    }
    return kept | {"PYTHONNOUSERSITE": "1"} | extra


def log_file(name: str) -> Path:
    """A new log's place under the root; old logs are deleted."""
    folder = made(root() / "logs")
    for log in folder.glob("*.log"):
        # Another process may delete it as well.
        with suppress(OSError):
            if log.stat().st_mtime < time.time() - LOG_DAYS * 86400:
                log.unlink()
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name)[:80]
    return folder / f"{plain}-{os.getpid()}-{time.time_ns()}.log"


def log_tail(log: Path, lines: int = 3, width: int = 200) -> str:
    """The last lines of a log in one, for messages."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    every = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text)]
    return " | ".join([line[:width] for line in every if line][-lines:])
