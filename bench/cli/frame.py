"""One frame for every command that makes artefacts: processes, device, store and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.lib.distributed import World

if TYPE_CHECKING:
    from rich.console import Console

    from bench.lib.progress import Progress
    from bench.running.plan import Plan
    from bench.running.walk import RunOutcome, Status
    from bench.stages.stage import Stage
    from bench.store.store import Store

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
StoreFolder = Annotated[Path, typer.Option(help="Where artefacts are kept and found again.")]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes on this machine, one a GPU, that share the work.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there, whatever it is.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
RUNS = Path("bench-runs")
STORE = RUNS / "store"


def joined(processes: int, *, dry_run: bool = False) -> World:
    """The processes of this run; where there are to be more, they are started and waited for."""
    world = World.from_environment()
    if processes > 1 and world.size == 1 and not dry_run:
        from bench.running.launch import launch

        sys.exit(launch(processes, sys.argv[1:]))
    return world


@dataclass(kw_only=True)
class Frame:
    """Where and by whom a command's stages are made, and where people are told of it."""

    folder: Path
    """Of the store."""
    asked_device: str
    world: World
    stderr: bool = False
    """Whether people read on the standard error, since machines read on the standard output."""
    _device: str | None = field(default=None, init=False)

    @cached_property
    def store(self) -> Store:
        """Holds what is finished."""
        from bench.store.store import Store

        return Store(self.folder)

    @cached_property
    def console(self) -> Console:
        """Only the main process speaks."""
        return output.console(quiet=not self.world.is_main, stderr=self.stderr)

    @cached_property
    def progress(self) -> Progress:
        """Reports to the console."""
        from bench.lib.progress import Progress

        return Progress(self.console)

    @property
    def device(self) -> str:
        """What this process works on; asked only where there is work, since it imports torch."""
        from bench.lib import devices

        if self._device is None:
            self._device = devices.named(self.asked_device, self.world)
        return self._device

    @contextmanager
    def open(self, *written: Path) -> Iterator[None]:
        """Connect the processes; errors of the system become sentences.

        Args:
            written: what the command writes to beside its store.
        """
        from bench.lib.io_errors import clear_io_errors

        with clear_io_errors(self.folder, *written):
            if self.world.size > 1:
                self.world.connect(self.device)
            yield

    def status(self, stages: Sequence[Stage]) -> Status:
        """What the store holds of these stages."""
        from bench.running.walk import status

        here = self.world.broadcast(status(stages, self.store) if self.world.is_main else None)
        assert here is not None
        return here

    def make(self, stages: Sequence[Stage], here: Status) -> RunOutcome:
        """Make what is missing."""
        from bench.lib.progress import quiet_libraries
        from bench.running.walk import RunOutcome, Walk
        from bench.stages.describe import DescribeStage
        from bench.stages.score import ScoreStage

        missing = {stage.name for stage in stages if stage.key not in here.finished}
        if not missing:
            return RunOutcome(ran=())
        quiet_libraries(diffusers=not missing <= {DescribeStage.name, ScoreStage.name})
        self.say(f"Running on {self.device}.")
        walk = Walk(stages, self.store, self.device, self.progress, self.world)
        return walk.run(here.finished, here.anew)

    def print_costs(self, plan: Plan, here: Status, processes: int = 1) -> None:
        """What is to be made again, and what each kind of stage will take."""
        from bench.running.estimates import estimate

        for reason in here.damaged.values():
            self.say(f"damaged artefact: {reason}; it will be made again")
        costs = estimate(plan, self.store, here.finished, processes=processes)
        self.console.print(costs.table())

    def say(self, text: str) -> None:
        """A line as it is."""
        self.progress.say(text)
