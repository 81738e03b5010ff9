"""Making one artefact: by all processes of a run, under its key's lock, in one step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from bench.lib import interrupts
from bench.lib.cost_meter import Meter
from bench.lib.distributed import ALONE, World
from bench.lib.errors import BenchError, DamagedArtefactError, PluginError, out_of_memory
from bench.lib.io_errors import clear_io_errors
from bench.lib.progress import Progress, Task
from bench.lib.provenance import made_here
from bench.store.store import Cost, Partial, Store


class Job(Protocol):
    """What is to be made."""

    @property
    def name(self) -> str:
        """The kind of artefact: its folder in the store."""
        ...

    @property
    def key(self) -> str:
        """The artefact's key."""
        ...

    @property
    def label(self) -> str:
        """For people."""
        ...


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes artefacts in a store, on one device, alone or with other processes of the run."""

    store: Store
    device: str
    """"cpu", "cuda", "cuda:1", ..."""
    progress: Progress
    world: World = ALONE

    def make(
        self,
        job: Job,
        units: Callable[[], int],
        work: Callable[[Partial, Task], tuple[dict[str, Any], int]],
        inputs: Callable[[], Mapping[str, str]] = dict,
        *,
        anew: bool = False,
    ) -> dict[str, Any] | None:
        """Make one artefact.

        Args:
            job: what is made.
            units: how much there is to do; asked once the lock is held.
            work: fills `partial.out`; gives the artefact's info and the denoiser evaluations.
            inputs: the digests of what it is made from, by key; asked once the lock is held.
            anew: make it even if it is finished; the old artefact stays until this one is.

        Returns:
            The info; None where another run finished it meanwhile.
        """
        with ExitStack() as held:
            # What keeps the main process from it must not leave the others waiting.
            with self.world.all_or_none():
                made_from = inputs() if self.world.is_main else {}
                finished = self.world.is_main and self._claim(job, held, made_from, anew)
            if self.world.broadcast(finished):
                return None
            partial = self.store.partial(job.key)
            earlier, meter = partial.earlier_seconds(), Meter(self.device)
            with self.progress.task(job.label, units()) as task:

                def note() -> None:
                    if self.world.is_main:
                        # Training calls this from within a plugin.
                        with clear_io_errors():
                            partial.note_seconds(earlier + meter.seconds)

                info, nfe = work(partial, _Noting(task, note))
            peak = max(self.world.gather(meter.peak_memory_mb))
            with self.world.all_or_none():
                if self.world.is_main:
                    interrupts.check()
                    cost = Cost(
                        seconds=round(earlier + meter.seconds, 3),
                        nfe=nfe,
                        peak_memory_mb=round(peak, 1),
                        processes=self.world.size,
                    )
                    made_with = made_here(self.device)
                    self.store.commit(job.name, job.key, partial, cost, info, made_with, made_from)
            return info

    def _claim(self, job: Job, held: ExitStack, inputs: Mapping[str, str], anew: bool) -> bool:
        """Lock the job; whether another run has finished it meanwhile, else it is begun."""
        held.enter_context(self.store.lock(job.key, lambda: self._say_waiting(job)))
        if not anew and self._finished_meanwhile(job, inputs):
            return True
        self.store.begin(job.name, job.key, inputs, anew=anew)
        return False

    def failed(self, job: Job, error: BaseException, memory_remedy: str) -> str:
        """Say why a job failed; an unforeseen error leaves its traceback in a file.

        Args:
            job: what could not be made.
            error: what `make` raised.
            memory_remedy: what to say where memory ran out.
        """
        reason = " ".join(str(error).split()) or type(error).__name__
        if out_of_memory(error):
            reason = memory_remedy
        elif not isinstance(error, BenchError) or (
            isinstance(error, PluginError) and error.__cause__ is not None
        ):
            log = self.store.root / "failures" / f"{job.name}-{job.key}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
            reason = f"{kind}{reason} (traceback: {log})"
        self.progress.say(f"failed: {job.label}: {reason}")
        return f"{job.label}: {reason}"

    def _say_waiting(self, job: Job) -> None:
        self.progress.say(f"  {job.label}: another run is at it, waiting for its result")

    def _finished_meanwhile(self, job: Job, inputs: Mapping[str, str]) -> bool:
        try:
            found = self.store.find(job.name, job.key)
            return found is not None and found.manifest.inputs == inputs
        except DamagedArtefactError as error:
            self.progress.say(f"damaged artefact: {error}; making it again")
            self.store.discard(job.name, job.key)
            return False


class _Noting:
    """A task that also notes the seconds spent, so that an interrupted job's cost is whole."""

    def __init__(self, task: Task, note: Callable[[], None]) -> None:
        self._task, self._note = task, note

    def advance(self, amount: int, note: str = "") -> None:
        interrupts.check()
        self._task.advance(amount, note)
        self._note()
