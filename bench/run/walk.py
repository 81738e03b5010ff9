"""Walking the plan: run what is not there, keep failures to their cell, resume.

Every stage runs under its key's lock in a partial folder and becomes an artefact in one step,
so a killed run goes on with the same command and two runs may share a store. What a stage does
is `bench.run.work`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.api.contracts import asked_by_core
from bench.lib.distributed import ALONE, EVERYWHERE, World
from bench.lib.errors import BenchError, DamagedArtefactError, PluginError, StoreError
from bench.lib.io_errors import clear_io_errors
from bench.lib.progress import Progress
from bench.preferences.inspecting import SKIPPED, summary
from bench.run.making import Maker
from bench.run.work import InspectFailedError, Worker, memory_remedy
from bench.scoring import truncation
from bench.stages.records import InspectStage, Plan, ScoreStage, Stage, TrainStage
from bench.store.store import Artefact, Store


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
                self._worker.forget()
        return RunOutcome(ran=tuple(ran), failures=failures)

    def _alone_in_failing(self, stage: Stage, error: BaseException) -> bool:
        """Whether the other processes may be waiting, in the middle of training, for this one.

        Shared stages end together or fail together, and what a `BenchError` reports of training
        (divergence, unusable labels) is the same in every process, unless a plugin alone knows.
        Anything else must end the process, so that the launcher ends the others.
        """
        shared = isinstance(stage, TrainStage) and self.world.size > 1
        same = isinstance(error, BenchError) and not isinstance(error, PluginError)
        known = same or EVERYWHERE in vars(error)
        return shared and not known

    def _failed(self, stage: Stage, error: BaseException) -> str:
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
        return self.world.broadcast(same)

    def _tell(self, stage: Stage, info: Mapping[str, Any]) -> None:
        """What the inspection found, so that nobody trains on other pairs than thought.

        And prompts that a scorer cuts, once for each scorer and prompt set.
        """
        if isinstance(stage, ScoreStage):
            said = truncation.warning(f"{stage.prompts.name}: {stage.scorer.name}", info)
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
