"""Walking the plan: run what is not there, keep failures to their cell, resume.

Every stage runs under its key's lock in a partial folder and becomes an artefact in one step,
so a killed run goes on with the same command and two runs may share a store. What a stage does
is `bench.work`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.distributed import ALONE, World
from bench.errors import BenchError, DamagedArtefactError
from bench.evaluation import overlong
from bench.making import Maker, is_full
from bench.preferences.inspecting import SKIPPED, summary
from bench.progress import Progress
from bench.stages import InspectStage, Plan, ScoreStage, Stage, TrainStage
from bench.store import Artefact, Store
from bench.work import InspectFailedError, Worker, memory_remedy

_WRITING = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EROFS: "the file system is read-only",
}
"""What only writing meets."""
_ANYWHERE = {
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EEXIST: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "the path is too long",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the file server has lost it",
}
"""What reading meets as well."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the store holds of a plan."""

    finished: frozenset[str]
    damaged: Mapping[str, str]
    """Key -> what is wrong with the artefact."""
    anew: frozenset[str] = frozenset()
    """Keys of stages to make whether or not the store holds them."""

    def without(self, anew: frozenset[str]) -> Status:
        """The same, but that these stages are to be made anew."""
        return replace(self, finished=self.finished - anew, anew=self.anew | anew)


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What became of the stages that had to run."""

    ran: tuple[str, ...]
    """Keys of the stages that this run finished itself."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Key -> reason, for failed stages and those that needed them."""


def status(plan: Plan, store: Store) -> Status:
    """Which stages are finished, with every artefact's checksums compared.

    A stage whose input has other bytes by now than it was made from is not.
    """
    found: dict[str, Artefact] = {}
    damaged = {}
    for stage in plan.stages:
        try:
            artefact = store.find(stage.name, stage.key)
        except DamagedArtefactError as error:
            damaged[stage.key] = str(error)
            continue
        if artefact and all(
            found[key].digest == artefact.manifest.inputs.get(key)
            for key in stage.inputs
            if key in found
        ):
            found[stage.key] = artefact
    return Status(finished=frozenset(found), damaged=damaged)


@contextmanager
def clear_io_errors(*written: Path) -> Iterator[None]:
    """Turn "disk full", "read-only" and the like into one sentence with the remedy.

    Args:
        written: the folders that this command writes to: its store and its output. An error that
            names a file elsewhere is one of reading what the user gave.
    """
    try:
        yield
    except OSError as error:
        said = _in_words(error, written)
        if said is None:
            raise
        raise BenchError(said) from error
    except Exception as error:
        # Libraries written in Rust wrap the system's error in a class of their own.
        if is_full(error):
            raise BenchError(_cannot_write("", "the disk is full")) from error
        raise


def _in_words(error: OSError, written: Sequence[Path]) -> str | None:
    number, name = error.errno or 0, _name(error)
    if number in _WRITING:
        return _cannot_write(name, _WRITING[number])
    if number not in _ANYWHERE:
        return None
    ours = not written or not name or any(_is_below(Path(name), folder) for folder in written)
    if ours:
        return _cannot_write(name, _ANYWHERE[number])
    return f"cannot read {name}: {_ANYWHERE[number]}; what had finished is kept"


def _name(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def _is_below(path: Path, folder: Path) -> bool:
    """Also where the folder cannot be made because of what lies above it."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _cannot_write(name: str, reason: str) -> str:
    where = f" {name}" if name else ""
    return (
        f"cannot write{where}: {reason}; what had finished is kept, so make room or choose "
        f"another --store, then run the same command again"
    )


class Runner:
    """Runs a plan's missing stages on one device, alone or with other processes of the run."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        device: str,
        progress: Progress,
        world: World = ALONE,
    ) -> None:
        """`device` is "cpu", "cuda", "cuda:1", ..."""
        self.plan, self.store, self.device, self.progress = plan, store, device, progress
        self.world = world
        self._worker = Worker(plan, store, device, world)
        self._maker = Maker(store=store, device=device, progress=progress, world=world)
        self._warned: set[str] = set()
        self._anew: frozenset[str] = frozenset()

    def run(self, finished: frozenset[str], anew: frozenset[str] = frozenset()) -> RunOutcome:
        """Run every stage whose key is not in `finished`; a failure stays with its cell.

        Args:
            finished: keys of stages that need not run, unless this run changes what they were
                made from.
            anew: keys of stages to make even if they are in the store, where the old artefact
                stays until the new one is whole.
        """
        self._anew = anew
        ran: list[str] = []
        failures: dict[str, str] = {}
        if self.world.is_main:
            self.store.sweep(finished)
        for stage in self.plan.stages:
            if stage.key in finished and self._still_holds(stage, ran):
                continue
            cause = next((failures[key] for key in stage.inputs if key in failures), None)
            if cause:
                failures[stage.key] = cause
                continue
            with clear_io_errors(self.store.root):
                try:
                    ran += [stage.key] if self._make(stage) else []
                except (InspectFailedError, OSError):
                    raise
                except Exception as error:
                    if is_full(error) or self._alone_in_failing(stage, error):
                        raise
                    failures[stage.key] = self._failed(stage, error)
        return RunOutcome(ran=tuple(ran), failures=failures)

    def _alone_in_failing(self, stage: Stage, error: Exception) -> bool:
        """Whether the other processes may be waiting, in the middle of training, for this one.

        Shared stages end together or fail together, and what a `BenchError` reports of training
        (divergence, unusable labels) is the same in every process. Anything else must end the
        process, so that the launcher ends the others.
        """
        shared = isinstance(stage, TrainStage) and self.world.size > 1
        return shared and not isinstance(error, BenchError)

    def _failed(self, stage: Stage, error: Exception) -> str:
        return self._maker.failed(stage, error, memory_remedy(stage, self.plan))

    def _make(self, stage: Stage) -> bool:
        """Run one stage; False where another run finished it meanwhile."""
        info = self._maker.make(
            stage,
            lambda: self._worker.units(stage),
            lambda partial, task: self._worker.do(stage, partial, task),
            lambda: self._digests(stage),
            anew=stage.key in self._anew,
        )
        if info is not None:
            self._tell(stage, info)
        return info is not None

    def _digests(self, stage: Stage) -> dict[str, str]:
        """What the stage is made from, as it is now."""
        inputs = (self.plan.stage(key) for key in stage.inputs)
        return {s.key: Artefact(self.store.path(s.name, s.key)).digest for s in inputs}

    def _still_holds(self, stage: Stage, ran: Sequence[str]) -> bool:
        """Whether a finished stage was made from what its inputs have become in this run."""
        if not set(ran).intersection(stage.inputs):
            return True
        made = Artefact(self.store.path(stage.name, stage.key))
        same = self.world.is_main and made.manifest.inputs == self._digests(stage)
        return self.world.from_main(same)

    def _tell(self, stage: Stage, info: Mapping[str, Any]) -> None:
        """What the inspection found, so that nobody trains on other pairs than thought.

        And prompts that a scorer cuts, once for each scorer and prompt set.
        """
        if isinstance(stage, ScoreStage):
            said = overlong.warning(f"{stage.prompts.name}: {stage.scorer.name}", info)
            if said and said not in self._warned:
                self._warned.add(said)
                self.progress.say(f"  warning: {said}")
        if isinstance(stage, InspectStage):
            folder = self.store.path(stage.name, stage.key)
            skipped = summary(info, folder)
            self.progress.say(
                f"  {info['usable']:,} of {info['pairs']:,} pairs are used; people tied "
                f"{info['ties']:,}" + (f"; {skipped}; see {folder / SKIPPED}" if skipped else "")
            )
