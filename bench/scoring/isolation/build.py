"""Building environments with uv, and checking them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.wording import cut
from bench.scoring.isolation import environments
from bench.scoring.isolation.client import GoneError, Process
from bench.scoring.isolation.environments import Environment, EnvironmentSpec

CHECK_SECONDS = 900
"""More than importing any scorer's packages takes on a slow disk."""

_SIGN_OF_ERROR = re.compile(r"(?i)error|×")
_PACKAGE_LIST = re.compile(r"[+~-] ")


def find_uv() -> Path | None:
    """The uv program on the PATH or beside this Python."""
    beside = str(Path(sys.executable).parent)
    uv = shutil.which("uv") or shutil.which("uv", path=beside)
    return Path(uv) if uv else None


def create(
    spec: EnvironmentSpec,
    adapters: Sequence[Path],
    say: Callable[[str], None],
    *,
    rebuild: bool = False,
) -> Environment:
    """Build the environment unless it is there.

    Args:
        spec: what to build.
        adapters: of the scorers that work there; each says whether what it needs can be imported.
        say: takes lines of progress.
        rebuild: build it anew even if it is there; the old build stays until the new one works.

    Raises:
        BenchError: it cannot be built; says why and where the log is. Nothing half-built is ever
            taken for finished.
    """
    name = spec.build_name
    with environments.locked(name, say):
        old = environments.find(spec)
        if old and old.python.exists() and not rebuild:
            say(f"{spec.name} is there already: {old.folder}")
            return old
        start = time.monotonic()
        place = environments.root() / name
        try:
            # A place of its own: installers that outlived a killed build write elsewhere.
            folder = _attempt(place)
            _build(spec, adapters, folder, say)
            if place.exists():
                place.rename(_attempt(place))
            folder.rename(place)
        finally:
            for other in environments.folders(name):
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)
        say(f"{spec.name} is ready after {time.monotonic() - start:.0f} s: {place}")
        return environments.require(spec)


def _attempt(place: Path) -> Path:
    return place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}")


def _build(
    spec: EnvironmentSpec, adapters: Sequence[Path], folder: Path, say: Callable[[str], None]
) -> None:
    """Fill the folder, try it, and note what is in it."""
    uv, python = find_uv(), str(environments.python_of(folder))
    if uv is None:
        raise BenchError(
            f"environment {spec.name!r} is built with uv, which is not here: pip install uv"
        )
    say(f"building {spec.name} in {folder} with {uv}")
    wanted = sys.executable if spec.python in ("", environments.running_python()) else spec.python
    calls = [["venv", "--quiet", "--relocatable", "--python", wanted, str(folder)]]
    for packages, flags in ((spec.resolved, []), (spec.no_deps, ["--no-deps"])):
        if packages:
            calls.append(["pip", "install", "--python", python, *flags, *packages])
    log = environments.log_file(f"create-{spec.name}")
    for arguments in calls:
        _call([str(uv), *arguments], spec.name, log, say)
    log.unlink()
    say("trying whether it works")
    contents, problem = _probe(Path(python), spec.name, adapters)
    if problem:
        raise BenchError(f"environment {spec.name!r} was installed but does not work: {problem}")
    record = json.dumps(contents, indent=1, sort_keys=True)
    write_atomic(folder / environments.RECORD, record.encode())


def _call(command: Sequence[str], name: str, log: Path, say: Callable[[str], None]) -> None:
    """Run uv; its lines go to the log and, but for lists of packages, to the user."""
    lines: list[str] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            # Above it there is no project, whose settings uv would take.
            cwd=Path.cwd().anchor,
            env=environments.clean_variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # A group of its own can be ended with all that it starts.
            start_new_session=True,
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                file.write(line)
                text = line.strip()
                if text and not _PACKAGE_LIST.match(text):
                    lines.append(text)
                    say(f"  {text}")
        except BaseException:
            environments.end_session(process)
            raise
    if process.returncode != 0:
        raise BenchError(
            f"environment {name!r} could not be built: {reason(lines)}; "
            f"the whole log: {log}; to try again, run: bench env create {name}"
        )


def check(spec: EnvironmentSpec, adapters: Sequence[Path]) -> list[str]:
    """Everything that is wrong with the environment, a sentence each; starts its Python."""
    try:
        built = environments.require(spec)
        contents, problem = _probe(built.python, spec.name, adapters)
    except BenchError as error:
        return [str(error)]
    then = {"Python": built.python_version, **built.installed}
    now = {"Python": contents["python"], **contents["packages"]}
    problems = [
        f"{name} {then.get(name, 'none')} was installed, now there is {now.get(name, 'none')}"
        for name in then | now
        if then.get(name) != now.get(name)
    ]
    problems += [problem] if problem else []
    return [f"{problem}; run: bench env create --rebuild {spec.name}" for problem in problems]


def _probe(python: Path, name: str, adapters: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """What an environment's own Python says of it: "python" and "packages"; what is wrong, or "".

    Raises:
        BenchError: it cannot even say that.
    """
    remedy = f"run: bench env create --rebuild {name}"
    process = Process(f"environment {name!r}", python, "cpu", remedy)
    try:
        contents = process.ask({"do": "list"}, CHECK_SECONDS)
        request = {"do": "check", "adapters": [str(adapter) for adapter in adapters]}
        exception = process.ask(request, CHECK_SECONDS).get("error")
        if exception:
            process.keep_log()
    except (GoneError, TimeoutError) as error:
        process.keep_log()
        how = str(error) or f"did not answer within {CHECK_SECONDS} s"
        raise BenchError(
            f"environment {name!r} is broken, its Python cannot import what it needs: it {how}"
            f"{process.last_words()}; {remedy}"
        ) from error
    finally:
        process.end()
    return contents, f"{environments.in_words(exception)} (log: {process.log})" if exception else ""


def reason(lines: list[str]) -> str:
    """What uv gave as its reason, in one line."""
    first = next((i for i, line in enumerate(lines) if _SIGN_OF_ERROR.search(line)), None)
    telling = lines[-2:] if first is None else lines[first:]
    plain = " ".join(re.sub(r"[×│╰╭─▶]+", " ", " ".join(telling)).split())
    return cut(plain, environments.MOST_QUOTED).rstrip(".") or "uv gave no reason"
