"""One harness for commands that meet what they should not meet.

A case is a small finished world (recipe, pairs, prompts, pipeline, store and board), something
done to it, and one command. Whatever was done, the command ends in success or in one sentence with
an exit code that is not 0; nothing that lay there before is lost; and once the user has put right
what was wrong, the plain command succeeds with the same results as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import invalidate_caches
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from _pytest.mark import ParameterSet

from bench.cli import main as cli
from bench.registry.registry import default_registry
from tests import toy

ROOT = Path(__file__).parents[2]
RUN = "run --recipe recipe.yaml --device cpu"
"""The plain command of the world."""
OUT, STORE = Path("bench-runs/toy"), Path("bench-runs/store")
LONGEST = 600
"""Characters of a sentence that a person still reads."""
_OWNER = os.getpid()
SECONDS = 45
"""After which a command hangs."""

Prepare = Callable[[Path], None]
Content = str | bytes | Prepare
"""Of a file: what it holds, or what is done with its path."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Act = Callable[["Running"], None]
"""What happens to a command while it runs."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile command.

    None may name a place that can be written to outside its own folder: the suite is there to find
    commands that write where they should not.
    """

    id: str
    command: str = RUN
    """The words after `bench`, quoted as for a shell."""
    files: Mapping[str, Content] = field(default_factory=dict)
    """What the user has laid into the folder, also in place of the world's own files."""
    prepare: Prepare | None = None
    """What else was done to the folder, such as damage to the store. Nobody puts it right."""
    environment: Mapping[str, str] = field(default_factory=dict)
    plugin: str | None = None
    """The source of a package's module that is installed beside."""
    where: Literal["here", "fork", "process"] = "here"
    """In this process; in a fork of it, for signals and limits; or in a new interpreter."""
    before: Callable[[], None] | None = None
    """Run in the fork before the command: limits."""
    redirect: str = ""
    """What a shell does with the streams of a new interpreter, such as ">/dev/full"."""
    act: Act | None = None
    ends: Literal["well", "refused", "either"] = "either"
    says: tuple[str, ...] = ()
    """Words of the sentence, or, where the command ends well, of all that it prints."""
    never_says: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    """Paths, beside the store, that the command may change or remove."""
    joins: bool = False
    """True where a command that ends well adds to the board and takes nothing from it."""
    gives_json: bool = False
    """True where standard output is for machines: one JSON value and nothing else."""
    may_name_exceptions: bool = False
    """True where the sentence hands on what a plugin raised."""
    mended: bool = True
    """False: not even the plain command can end well afterwards; nothing is run again."""
    check: Prepare | None = None
    """More to hold afterwards, in the case's folder."""

    def __str__(self) -> str:
        return self.id


def sample(cases: Sequence[object], every: int = 6) -> list[ParameterSet]:
    """Parameters of a test; of each `every` cases one runs always, the others are slow."""
    return [
        pytest.param(case, id=str(case), marks=[pytest.mark.slow] if number % every else [])
        for number, case in enumerate(cases)
    ]


@dataclass(frozen=True)
class World:
    """A folder in which the toy recipe has run, and what came out."""

    folder: Path
    site: Path
    """On the path of every process of the suite, with the toys' entry point."""
    results: Mapping[str, str]
    scores: frozenset[tuple[object, ...]]

    def copy(self, to: Path) -> Path:
        """A world of its own for a case."""
        return shutil.copytree(self.folder, to, symlinks=True)


def build(folder: Path, site: Path) -> World:
    """Make the world and run its recipe once."""
    folder.mkdir(parents=True)
    install(site, "hostile-toys", "tests.hostile.toys")
    made = toy.recipe(
        folder,
        backbone="toy[path=pipeline]",
        pairs="./pairs.parquet",
        prompts=["./prompts.tsv"],
        methods=["dpo"],
        training={"steps": 2, "batch_size": 2},
        sampling={"steps": 2, "batch_size": 4},
    )
    (folder / "recipe.yaml").write_text(made.to_yaml())
    (folder / "notes.txt").write_text("mine\n")
    ended = in_this_process(shlex.split(RUN), folder)
    assert ended.code == 0, ended.err
    return World(folder, site, results(folder), scores_on(folder / OUT))


def install(site: Path, package: str, module: str, source: str | None = None) -> None:
    """What an installer leaves of a package: its metadata and, if given, its module."""
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bench]\n{package} = {module}\n")
    if source is not None:
        (site / f"{module}.py").write_text(source)


def results(folder: Path, *, store: str | Path = STORE) -> dict[str, str]:
    """Hashes of all that a run left in a store, without costs."""
    artefacts = folder / store / "artefacts"
    return {
        str(path.relative_to(artefacts)): _sha256(path)
        for path in sorted(artefacts.rglob("*"))
        if path.is_file() and path.name != "artefact.json"
    }


def scores_on(board: Path) -> frozenset[tuple[object, ...]]:
    """The score of each image on a board."""
    frame = pd.read_parquet(board / "scores.parquet")
    columns = ["method", "train_seed", "prompt_set", "image_seed", "scorer", "prompt", "score"]
    rows = frame[columns].astype(object).where(frame[columns].notna(), None)
    return frozenset(rows.itertuples(index=False, name=None))


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder and what it holds; links by their target, never followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = _sha256(path) if os.access(path, os.R_OK) else "unreadable"
        elif not path.is_dir():
            found[name] = "special"
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_this_process(
    words: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command here: quick, and what escapes it is seen."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["bench", *words])
        earlier = signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(SECONDS)
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = _code(end)
        except BaseException:
            err.write(traceback.format_exc())
            code = 1
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, earlier)
    return Ended(code=code, out=out.getvalue(), err=err.getvalue())


def _code(end: SystemExit) -> int:
    """As the interpreter makes it; words go to standard error."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1


class _HangsError(BaseException):
    """Nothing may catch it."""


def _hangs(*_: object) -> None:
    raise _HangsError


def little_memory() -> None:
    """Of this process on: what reads without end finds one some time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _text(path: Path) -> str:
    """What a file holds; nothing where a command was killed before it began to print."""
    return path.read_text(errors="replace") if path.exists() else ""


class Running:
    """A command in a process of its own."""

    def __init__(
        self,
        words: list[str],
        folder: Path,
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        site: Path | None = None,
        fresh: bool = False,
        redirect: str = "",
    ) -> None:
        """Start it.

        Args:
            words: after `bench`.
            folder: it runs in.
            log: a folder for what it prints.
            environment: on top of this process's.
            before: run in a fork before the command.
            site: a folder of packages that only this command sees.
            fresh: a new interpreter instead of a fork of this one, which has all imports done.
            redirect: what a shell does with its streams.
        """
        log.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # A new interpreter, or two, takes its time on a busy machine.
        self._seconds = 4 * SECONDS if fresh else SECONDS
        self._out, self._err = log / f"{id(self)}.out", log / f"{id(self)}.err"
        told = {"COLUMNS": "200", **(environment or {})}
        if fresh:
            # The toys' own folder is the first that the suite has put there.
            paths = [str(site)] if site else []
            paths += [
                path for path in sys.path if Path(path, "hostile_toys-1.0.dist-info").is_dir()
            ]
            told = {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]), **told}
            with self._out.open("wb") as out, self._err.open("wb") as err:
                bench = [sys.executable, "-m", "bench", *words]
                process = subprocess.Popen(
                    ["sh", "-c", f'"$@" {redirect}', "sh", *bench] if redirect else bench,
                    cwd=folder,
                    env={**os.environ, **told},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            self.pid = process.pid
            # Waited for by its id, below, as a fork is.
            process.returncode = 0
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if not self.pid:
                try:
                    self._child(words, told, before, site)
                finally:
                    # Whatever goes wrong: a fork that lives on would run the rest of the tests.
                    os._exit(70)
        self._status: int | None = None

    def _child(
        self,
        words: list[str],
        told: Mapping[str, str],
        before: Callable[[], None] | None,
        site: Path | None,
    ) -> None:
        code = 70
        try:
            os.setsid()
            for number, path in ((1, self._out), (2, self._err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            # Not what pytest has put there.
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(self.folder)
            os.environ.update(told)
            import torch

            # The parent's thread pool does not live on in a fork.
            torch.set_num_threads(1)
            if site:
                sys.path.insert(0, str(site))
                invalidate_caches()
            default_registry.cache_clear()
            sys.argv = ["bench", *words]
            if before:
                # Found while this process may still read all that root may.
                default_registry()
                before()
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = _code(end)
            sys.stdout.flush()
        except BaseException:
            with suppress(BaseException):
                traceback.print_exc()
            code = 70
        finally:
            with suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)

    def ended(self) -> bool:
        """Whether it has."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def until(self, there: Callable[[], bool]) -> bool:
        """Wait until something is there; False if the command ended before."""
        self._limited(lambda: there() or self.ended())
        return not self.ended()

    def wait(self) -> Ended:
        """Until it ends."""
        self._limited(self.ended)
        assert self._status is not None
        out, err = map(_text, (self._out, self._err))
        return Ended(code=self._status, out=out, err=err)

    def printed(self) -> str:
        """What it has printed so far."""
        return _text(self._out)

    def signal(self, number: int) -> None:
        """Send it a signal, and only to it."""
        if not self.ended():
            os.kill(self.pid, number)

    def _limited(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + self._seconds
        while not done():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                pytest.fail(f"the command hangs: {self._out.read_text()} {self._err.read_text()}")
            time.sleep(0.002)


def judge(case: Case, world: World, tmp: Path) -> None:
    """Run a case and hold it to what every case must hold."""
    if os.getpid() != _OWNER:
        os._exit(70)
    here = world.copy(tmp / "here")
    for name, content in case.files.items():
        _lay(here / name, content)
    if case.prepare:
        case.prepare(here)
    site = None
    if case.plugin is not None:
        site = tmp / "site"
        install(site, "hostile-plugin", "hostile_plugin", case.plugin)

    before = snapshot(here)
    ended = _run(case, here, tmp, site)
    judge_words(case, ended)
    after = snapshot(here)
    _judge_loss(case, before, after)
    if case.joins or (ended.code and not case.own):
        _judge_board(world, here)
    if case.check:
        case.check(here)
    if case.mended and (after != before or ended.code == 0):
        _judge_repair(case, world, here)
    # Of hundreds of cases only those that fail are worth keeping.
    shutil.rmtree(here)


def _lay(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


def _run(case: Case, here: Path, tmp: Path, site: Path | None) -> Ended:
    words = shlex.split(case.command)
    # Of this process, what waits for a pipe in a library's own code is not to be had back.
    piped = any(stat.S_ISFIFO(path.lstat().st_mode) for path in here.rglob("*"))
    if case.where == "here" and site is None and not piped:
        return in_this_process(words, here, case.environment)
    running = Running(
        words,
        here,
        tmp / "log",
        environment=case.environment,
        before=case.before,
        site=site,
        fresh=case.where == "process",
        redirect=case.redirect,
    )
    if case.act:
        case.act(running)
    return running.wait()


_INTERRUPTED = "interrupted: what is finished is kept, and the same command goes on from there"
_CLASS = re.compile(r"\b[A-Z][A-Za-z]*(Error|Exception|Interrupt|Exit)\b")


def judge_words(case: Case, ended: Ended) -> None:
    """Exit code 0, or one sentence that a person can act on."""
    told = f"exit {ended.code}\n--- stdout\n{ended.out[-800:]}\n--- stderr\n{ended.err[-1200:]}"
    assert "Traceback" not in ended.out + ended.err, told
    if case.ends != "either":
        assert (ended.code == 0) == (case.ends == "well"), told
    if case.gives_json:
        json.loads(ended.out)
    if ended.code == 0:
        heard = ended.out + ended.err
    elif ended.code < 0:
        # Ended from outside; it had no chance to say anything.
        assert case.act, told
        heard = ended.err
    else:
        lines = [line for line in ended.err.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, f"not one sentence but {len(lines)} lines; {told}"
        (heard,) = lines
        assert heard.startswith("error: ") or heard == _INTERRUPTED, told
        assert len(heard) <= LONGEST, f"{len(heard)} characters; {told}"
        assert heard.isprintable(), f"control characters: {heard!r}"
        if not case.may_name_exceptions:
            assert not _CLASS.search(heard), told
    for word in case.says:
        assert word in heard, f"{word!r} is not said; {told}"
    for word in case.never_says:
        assert word not in heard, f"{word!r} is said; {told}"


def _judge_loss(case: Case, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Nothing but store and board has changed, and what the command names as its own."""
    may_change = (*case.own, f"{STORE}/", f"{OUT}/")
    lost = [
        path
        for path, held in before.items()
        if after.get(path) != held and not path.startswith(may_change)
    ]
    assert not lost, f"lost or changed: {lost}"


def _judge_board(world: World, here: Path) -> None:
    """The board may have been renewed, but what stood on it stands on it still."""
    if not (here / OUT / "scores.parquet").is_file():
        return
    gone = world.scores - scores_on(here / OUT)
    assert not gone, f"no longer on the board: {sorted(map(str, gone))[:3]}"


def _judge_repair(case: Case, world: World, here: Path) -> None:
    """The user puts the own files right; the plain command then finds the same results."""
    for name in case.files:
        path, original = here / name, world.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if original.is_file():
            shutil.copy2(original, path)
        elif original.is_dir():
            shutil.copytree(original, path, symlinks=True)
    ended = in_this_process(shlex.split(RUN), here)
    assert ended.code == 0, f"the plain command fails afterwards: {ended.err}"
    found = results(here)
    wrong = [name for name, held in world.results.items() if found.get(name) != held]
    assert not wrong, f"other results afterwards: {wrong}"
    _judge_board(world, here)
