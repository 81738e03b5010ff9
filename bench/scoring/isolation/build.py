"""Building environments, with uv where it is found, else with venv and pip."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.scoring.isolation import environments as found
from bench.scoring.isolation.environments import Environment, EnvironmentSpec

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
    uv: Path | None = None,
) -> Environment:
    """Build the environment unless it is there.

    Args:
        spec: what to build.
        adapters: of the scorers that work there; each says whether what it needs can be imported.
        say: takes lines of progress.
        rebuild: build it anew even if it is there; the old build stays until the new one works.
        uv: the program that installs, see `find_uv`; None takes venv and pip.

    Raises:
        BenchError: it cannot be built; says why and where the log is. Nothing half-built is ever
            taken for finished.
    """
    name = spec.build_name
    with found.locked(name, say):
        there = found.find(spec)
        if there and there.python.exists() and not rebuild:
            say(f"{spec.name} is there already: {there.folder}")
            return there
        start = time.monotonic()
        # A place of its own: installers that outlived a killed build write elsewhere.
        folder = found.builds_folder() / f"{name}-{uuid.uuid4().hex[:8]}"
        try:
            report = _Build(spec, adapters, folder, say, uv).run()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        text = json.dumps({"build": folder.name, **report}, indent=1, sort_keys=True)
        write_atomic(found.pointer(name), text.encode())
        for other in found.folders(spec.name, key=name[len(spec.name) + 1 :]):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        say(f"{spec.name} is ready after {time.monotonic() - start:.0f} s: {folder}")
        return found.require(spec)


class _Build:
    """One attempt."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        adapters: Sequence[Path],
        folder: Path,
        say: Callable[[str], None],
        uv: Path | None,
    ) -> None:
        self.spec, self.adapters = spec, adapters
        self.folder, self.say, self.uv = folder, say, uv
        self.installer = "uv" if uv else "venv and pip"
        self.log = found.log_file(f"create-{spec.name}")

    def run(self) -> dict[str, object]:
        """Fill the folder and try it; what there is to know of the finished build."""
        found.made(self.folder.parent)
        self.say(f"building {self.spec.name} in {self.folder} with {self.installer}")
        self._make()
        for wanted, flags in ((self.spec.resolved, []), (self.spec.no_deps, ["--no-deps"])):
            if wanted:
                self._install([*flags, *wanted])
        (site,) = self.folder.glob("lib/python*/site-packages")
        for source, target in self.spec.copies:
            copy_file(site / source, site / target, self.spec.name)
        if self.spec.borrow:
            paths = found.own_site_packages()
            lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
            (site / "borrowed.pth").write_text("".join(lines), encoding="utf-8")
        self.say("trying whether it works")
        report = found.probe(found.python_of(self.folder), self.spec.name, self.adapters, self.log)
        error = report.pop("error")
        if error:
            raise BenchError(
                f"environment {self.spec.name!r} was installed but does not work: "
                f"{found.in_words(error)}; the whole log: {self.log}"
            )
        self.log.unlink(missing_ok=True)
        return {**report, "installer": self.installer}

    def _make(self) -> None:
        python, folder = self.spec.python, str(self.folder)
        if python in ("", found.running_python()):
            python = sys.executable
        if self.uv:
            self._call([str(self.uv), "venv", "--quiet", "--python", python, folder])
            return
        if python != sys.executable:
            python = _on_path(python, self.spec.name)
        bare = [] if self.spec.requirements or self.spec.no_deps else ["--without-pip"]
        self._call([python, "-I", "-m", "venv", *bare, folder])

    def _install(self, arguments: list[str]) -> None:
        python = str(found.python_of(self.folder))
        if self.uv:
            command = [str(self.uv), "pip", "install", "--python", python]
        else:
            command = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check"]
        self._call([*command, *arguments])

    def _call(self, command: list[str]) -> None:
        """Run an installer; its lines go to the log and, but for lists of packages, to the user."""
        lines: list[str] = []
        with (
            self.log.open("a", encoding="utf-8") as log,
            _reading(command) as process,
        ):
            for line in process.stdout or ():
                log.write(line)
                text = line.strip()
                if text and not _PACKAGE_LIST.match(text):
                    lines.append(text)
                    self.say(f"  {text}")
        if process.returncode != 0:
            raise BenchError(
                f"environment {self.spec.name!r} could not be built: {reason(lines)}; "
                f"the whole log: {self.log}; to try again, run: bench env create {self.spec.name}"
            )


def copy_file(source: Path, target: Path, name: str) -> None:
    """Copy a file of one package of environment `name` to where another one misses it.

    Raises:
        BenchError: there is no such file.
    """
    if not source.is_file():
        raise BenchError(
            f"environment {name!r} could not be built: the packages hold no {source.name}, "
            f"which was to be copied to {target}"
        )
    # Installers link files from their cache; a new file in the place of a link spares the cache.
    write_atomic(target, source.read_bytes())


@contextmanager
def _reading(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is read; ended if the reader stops before it."""
    with subprocess.Popen(
        command,
        # Above it there is no project, whose settings uv would take.
        cwd=Path.cwd().anchor,
        # Said aloud, since pip's own files could say otherwise.
        env=found.clean_variables(PIP_USER="0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        # A group of its own can be ended with all that it starts.
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            found.end_session(process)
            raise


def _on_path(version: str, name: str) -> str:
    python = shutil.which(f"python{version}")
    if python is None:
        raise BenchError(
            f"environment {name!r} needs Python {version}: install it so that python{version} is "
            f"on the PATH, or install uv, which fetches it"
        )
    return python


def reason(lines: list[str]) -> str:
    """What an installer gave as its reason, in one line."""
    first = next((i for i, line in enumerate(lines) if _SIGN_OF_ERROR.search(line)), None)
    telling = lines[-2:] if first is None else lines[first:]
    plain = found.shortened(re.sub(r"[×│╰╭─▶]+", " ", " ".join(telling)))
    return plain.rstrip(".") or "the installer gave no reason"
