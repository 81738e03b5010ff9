"""What every stage is: one artefact to make, under a key that hashes all that decides its bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.lib.files import content_key
from bench.scoring.chunks import SCORING_REMEDY

if TYPE_CHECKING:
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a stage tells of the artefact that it has made."""

    info: Mapping[str, Any]
    """Counts and the like, kept with the artefact; the same in all processes."""
    nfe: int = 0
    """Denoiser evaluations spent, of all processes and attempts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(ABC):
    """One artefact to make. Several processes of one run make it together, each its share.

    What must not change its bytes (batch sizes chosen for speed, paths, devices) is in no key.
    """

    name: ClassVar[str]
    """The stage's folder in the store: "encode", "train", ..."""
    version: ClassVar[int]
    """Raised when the stage's code changes the bytes that it writes."""
    in_step: ClassVar[bool] = False
    """Whether all processes are at the same piece of work all the time, so that one that fails
    alone would leave the others waiting."""

    label: str
    """For people."""
    plugins: Mapping[str, Any] = field(default_factory=dict)
    """Role -> `Registry.key_data` of a plugin that the stage runs; part of the key.

    Given by `bench.running.planning`; the first lines of a stage's file name them."""

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """The stages whose artefacts are read."""
        return ()

    @abstractmethod
    def key_data(self) -> Mapping[str, Any]:
        """What decides the artefact's bytes, beside the plugins and the version."""

    @cached_property
    def key(self) -> str:
        """The artefact's key in the store."""
        data = {"stage": self.name, "version": self.version, **self.plugins, **self.key_data()}
        return content_key(data)

    @property
    @abstractmethod
    def units(self) -> int:
        """How much there is to do, as far as a plan knows, in what progress counts."""

    def units_now(self, context: Context) -> int:
        """The same, once the inputs are there."""
        return self.units

    @property
    def nfe(self) -> int:
        """Expected denoiser evaluations."""
        return 0

    @property
    def load(self) -> float:
        """Expected work in the unit of `seconds_per_load`; its measured rate is of this unit."""
        return self.units

    @property
    @abstractmethod
    def seconds_per_load(self) -> float:
        """Rough seconds of one unit of load, while none was measured."""

    @abstractmethod
    def run(self, context: Context, partial: Partial, task: Task) -> Made:
        """Make the artefact's files in `partial.out`; what resumes is kept in `partial.work`.

        A function of the stage and its inputs alone, whatever was done in this process before.
        """

    @property
    def memory_remedy(self) -> str:
        """What to change where memory ran out; a stage with options of its own names them."""
        return SCORING_REMEDY

    def notice(self, info: Mapping[str, Any], folder: Path) -> str:
        """What a person should be told of the finished artefact in `folder`, or ""."""
        return ""
