"""Walking the stages of a plan: make what is not there, keep failures to their cell, resume.

Every stage runs under its key's lock in a partial folder and becomes an artefact in one step, so a
killed run goes on with the same command and two runs may share a store.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from bench.api.contracts import asked_by_core
from bench.lib import interrupts, process_state
from bench.lib.cost_meter import Meter
from bench.lib.distributed import ALONE, EVERYWHERE, World
from bench.lib.errors import (
    BenchError,
    DamagedArtefactError,
    PluginError,
    StoreError,
    out_of_memory,
)
from bench.lib.io_errors import clear_io_errors
from bench.lib.progress import Progress, Task
from bench.lib.provenance import made_here
from bench.lib.seeding import derive_seed
from bench.stages.context import Context
from bench.stages.inspect import InspectFailedError
from bench.stages.stage import Made, Stage
from bench.store.store import Artefact, Cost, Partial, Store


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


def status(stages: Sequence[Stage], store: Store) -> Status:
    """Which stages are finished, with every artefact's checksums compared.

    A stage whose input has other bytes by now than it was made from is not.
    """
    finished: dict[str, Artefact] = {}
    damaged = {}
    for stage in stages:
        try:
            artefact = store.find(stage.name, stage.key)
        except DamagedArtefactError as error:
            damaged[stage.key] = str(error)
            continue
        if artefact and all(
            finished[source.key].digest == artefact.manifest.inputs.get(source.key)
            for source in stage.inputs
            if source.key in finished
        ):
            finished[stage.key] = artefact
    return Status(finished=frozenset(finished), damaged=damaged)


class Walk:
    """Makes missing stages on one device, alone or with other processes of the run."""

    def __init__(
        self,
        stages: Sequence[Stage],
        store: Store,
        device: str,
        progress: Progress,
        world: World = ALONE,
    ) -> None:
        """`device` is "cpu", "cuda", "cuda:1", ..."""
        self.stages, self.store, self.device, self.progress = stages, store, device, progress
        self.world = world
        self._context = Context(store, device, world)
        self._notices: set[str] = set()
        self._anew: frozenset[str] = frozenset()

    def run(self, finished: frozenset[str], anew: frozenset[str] = frozenset()) -> RunOutcome:
        """Make every stage whose key is not in `finished`; a failure stays with its cell.

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
        for stage in self.stages:
            if stage.key in finished and self._still_holds(stage, ran):
                continue
            sources = (source.key for source in stage.inputs)
            if cause := next((failures[key] for key in sources if key in failures), None):
                failures[stage.key] = cause
                continue
            try:
                with clear_io_errors(self.store.root):
                    ran += [stage.key] if self._make(stage) else []
            except (InspectFailedError, StoreError):
                raise
            except (Exception, SystemExit) as error:
                if asked_by_core(error) or self._alone_in_failing(stage, error):
                    raise
                failures[stage.key] = self._failed(stage, error)
            if stage.key in failures:
                # Not before the error is gone, whose frames hold what the stage held.
                self._context.forget()
        return RunOutcome(ran=tuple(ran), failures=failures)

    def _still_holds(self, stage: Stage, ran: Sequence[str]) -> bool:
        """Whether a finished stage was made from what its inputs have become in this run."""
        if not any(source.key in ran for source in stage.inputs):
            return True
        made_from = self._context.artefact(stage).manifest.inputs
        return self.world.broadcast(self.world.is_main and made_from == self._digests(stage))

    def _digests(self, stage: Stage) -> dict[str, str]:
        """What the stage is made from, as it is now."""
        return {source.key: self._context.artefact(source).digest for source in stage.inputs}

    def _make(self, stage: Stage) -> bool:
        """Make one artefact; False where another run has finished it meanwhile."""
        with ExitStack() as held:
            # What keeps the main process from it must not leave the others waiting.
            with self.world.all_or_none():
                inputs = self._digests(stage) if self.world.is_main else {}
                finished = self.world.is_main and self._claim(stage, held, inputs)
            if self.world.broadcast(finished):
                return False
            partial = self.store.partial(stage.key)
            earlier, meter = partial.earlier_seconds(), Meter(self.device)
            with self.progress.task(stage.label, stage.units_now(self._context)) as task:

                def note() -> None:
                    if self.world.is_main:
                        # Training calls this from within a plugin.
                        with clear_io_errors():
                            partial.note_seconds(earlier + meter.seconds)

                made = self._run(stage, partial, _Noting(task, note))
            peak = max(self.world.gather(meter.peak_memory_mb))
            with self.world.all_or_none():
                if self.world.is_main:
                    interrupts.check()
                    cost = Cost(
                        seconds=round(earlier + meter.seconds, 3),
                        nfe=made.nfe,
                        peak_memory_mb=round(peak, 1),
                        processes=self.world.size,
                    )
                    self.store.commit(
                        stage.name,
                        stage.key,
                        partial,
                        cost,
                        dict(made.info),
                        made_here(self.device),
                        inputs,
                    )
        self._tell(stage, made)
        return True

    def _run(self, stage: Stage, partial: Partial, task: Task) -> Made:
        # A function of the stage alone, whatever was done, or failed, in this process before.
        with process_state.kept(derive_seed("stage", stage.key)):
            return stage.run(self._context, partial, task)

    def _claim(self, stage: Stage, held: ExitStack, inputs: Mapping[str, str]) -> bool:
        """Lock the stage; whether another run has finished it meanwhile, else it is begun."""
        waiting = f"  {stage.label}: another run is at it, waiting for its result"
        held.enter_context(self.store.lock(stage.key, lambda: self.progress.say(waiting)))
        anew = stage.key in self._anew
        if not anew and self._finished_meanwhile(stage, inputs):
            return True
        self.store.begin(stage.name, stage.key, inputs, anew=anew)
        return False

    def _finished_meanwhile(self, stage: Stage, inputs: Mapping[str, str]) -> bool:
        try:
            artefact = self.store.find(stage.name, stage.key)
            return artefact is not None and artefact.manifest.inputs == inputs
        except DamagedArtefactError as error:
            self.progress.say(f"damaged artefact: {error}; making it again")
            self.store.discard(stage.name, stage.key)
            return False

    def _alone_in_failing(self, stage: Stage, error: BaseException) -> bool:
        """Whether the other processes may be waiting, in the middle of training, for this one.

        Shared stages end together or fail together, and what a `BenchError` reports of training
        (divergence, unusable labels) is the same in every process, unless a plugin alone knows.
        Anything else must end the process, so that the launcher ends the others.
        """
        same = isinstance(error, BenchError) and not isinstance(error, PluginError)
        known = same or EVERYWHERE in vars(error)
        return stage.in_step and self.world.size > 1 and not known

    def _failed(self, stage: Stage, error: BaseException) -> str:
        """Say why a stage failed; an unforeseen error leaves its traceback in a file."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if out_of_memory(error):
            reason = stage.memory_remedy
        elif not isinstance(error, BenchError) or (
            isinstance(error, PluginError) and error.__cause__ is not None
        ):
            log = self.store.root / "failures" / f"{stage.name}-{stage.key}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
            reason = f"{kind}{reason} (traceback: {log})"
        self.progress.say(f"failed: {stage.label}: {reason}")
        return f"{stage.label}: {reason}"

    def _tell(self, stage: Stage, made: Made) -> None:
        """What people should know of the new artefact, once."""
        notice = stage.notice(made.info, self._context.folder(stage))
        if notice and notice not in self._notices:
            self._notices.add(notice)
            self.progress.say(f"  {notice}")


class _Noting:
    """A task that also notes the seconds spent, so that an interrupted stage's cost is whole."""

    def __init__(self, task: Task, note: Callable[[], None]) -> None:
        self._task, self._note = task, note

    def advance(self, amount: int, note: str = "") -> None:
        interrupts.check()
        self._task.advance(amount, note)
        self._note()
