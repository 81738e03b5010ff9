"""What a plan will cost: network passes and minutes, from rates measured before or stated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.errors import DamagedArtefactError
from bench.plan import Plan, SampleStage, Stage, TrainStage
from bench.store import Artefact, Store

# Seconds a unit of work where nothing was measured yet; training and sampling go by passes.
_FALLBACK = {"inspect": 0.001, "encode": 0.01, "rewards": 0.004, "score": 0.004}
_TRAIN_FACTOR = 2.0
"""A pass of training costs about this many of sampling, for its share of backward passes."""


@dataclass(frozen=True, kw_only=True)
class StageGroup:
    """All stages of one name."""

    name: str
    stages: int
    cached: int
    passes: int
    """Expected network passes of the stages that are not cached."""
    seconds: float
    """Estimated seconds of the stages that are not cached."""
    measured: bool
    """True: by rates of finished stages in the store; False: by stated rates."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan's cost, by kind of stage."""

    groups: tuple[StageGroup, ...]
    cells: tuple[tuple[str, str], ...]
    """(cell, what of it is to be done)."""

    def table(self) -> Any:
        """For a rich console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("stage")
        for column in ("stages", "cached", "network passes", "estimated time"):
            table.add_column(column, justify="right")
        for g in self.groups:
            table.add_row(
                g.name, str(g.stages), str(g.cached), f"{g.passes:,}", _time(g.seconds, g.measured)
            )
        table.add_section()
        table.add_row(
            "all",
            str(sum(g.stages for g in self.groups)),
            str(sum(g.cached for g in self.groups)),
            f"{sum(g.passes for g in self.groups):,}",
            _time(sum(g.seconds for g in self.groups), all(g.measured for g in self.groups)),
        )
        cells = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        cells.add_column("cell", overflow="fold")
        cells.add_column("to do", overflow="fold")
        for row in self.cells:
            cells.add_row(*(text.replace("[", "\\[") for text in row))
        return Group(cells, table)


def estimate(plan: Plan, store: Store, finished: frozenset[str]) -> Estimate:
    """Estimate a plan's remaining cost."""
    names = list(dict.fromkeys(stage.name for stage in plan.stages))
    groups = []
    for name in names:
        stages = [s for s in plan.stages if s.name == name]
        todo = [s for s in stages if s.key not in finished]
        rate, measured = _rate(plan, name, store, [s for s in stages if s.key in finished])
        groups.append(
            StageGroup(
                name=name,
                stages=len(stages),
                cached=len(stages) - len(todo),
                passes=sum(s.passes for s in todo),
                seconds=sum(rate * _units(s) for s in todo),
                measured=measured or not todo,
            )
        )
    return Estimate(groups=tuple(groups), cells=tuple(_cells(plan, finished)))


def _units(stage: Stage) -> float:
    return stage.passes if isinstance(stage, TrainStage | SampleStage) else stage.work


def _rate(plan: Plan, name: str, store: Store, finished: Iterable[Stage]) -> tuple[float, bool]:
    """Seconds a unit, and whether it was measured."""
    seconds = units = 0.0
    for stage in finished:
        try:
            seconds += Artefact(store.path(stage.name, stage.key)).cost.seconds
        except DamagedArtefactError:
            continue
        units += _units(stage)
    if units:
        return seconds / units, True
    if name in _FALLBACK:
        return _FALLBACK[name], False
    factor = _TRAIN_FACTOR if name == "train" else 1.0
    return plan.backbone.seconds_per_pass * factor, False


def _cells(plan: Plan, finished: frozenset[str]) -> Iterable[tuple[str, str]]:
    for cell in plan.cells:
        todo = []
        if cell.train and cell.train.key not in finished:
            todo.append("train")
        for name, stages in (("sample", cell.samples), ("score", cell.scores)):
            missing = sum(s.key not in finished for s in stages.values())
            if missing:
                todo.append(f"{name} ({missing} of {len(stages)})")
        yield cell.label, ", ".join(todo) or "cached"


def _time(seconds: float, measured: bool) -> str:
    text = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
    return text if measured else f"about {text}"
