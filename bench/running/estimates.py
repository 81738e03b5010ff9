"""What a plan will cost, roughly and before anything runs: evaluations, time, memory and disk.

Times go by rates that finished stages of the plan left in the store, else by those that backbone
and scorers state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.api.kinds import Method
from bench.api.pair_method import PairMethod
from bench.api.training import TrainingBudget
from bench.lib.errors import DamagedArtefactError
from bench.running.plan import Plan
from bench.stages.encode import EncodeStage
from bench.stages.generated import GeneratedPairs
from bench.stages.inspect import InspectStage
from bench.stages.pairs import PairsStage
from bench.stages.stage import Stage
from bench.store.store import Artefact, Store

_LATENTS_A_PIXEL = 4 / 64
"""Four channels at an eighth of both sides, as the VAEs of all Stable Diffusion models have."""
_AUTOCAST = 1.3
"""Activations under autocast, which keeps norms in float32, over those in 16 bits throughout:
1.27 for SD 1.5 and 2.1, 1.14 for SDXL, counted on the networks' graphs with fused attention."""
_CHECKPOINTED = 0.2
"""Share of activations that gradient checkpointing leaves: 0.14 for SD 1.5 and 0.07 for SDXL,
counted likewise, and the block that is being computed again."""
_CONTEXT_GB = 1.0
"""The CUDA context, work spaces of libraries, and what fragmentation loses."""


@dataclass(frozen=True, kw_only=True)
class StageGroup:
    """All stages of one name."""

    name: str
    stages: int
    cached: int
    nfe: int
    """Expected denoiser evaluations of the stages that are not cached."""
    seconds: float
    """Estimated seconds of the stages that are not cached."""
    measured: bool
    """True: by rates of finished stages in the store; False: by stated rates."""


@dataclass(frozen=True, kw_only=True)
class CellTodo:
    """What of a cell is not finished yet."""

    label: str
    todo: str
    nfe: int
    """Expected denoiser evaluations of its training and sampling."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan's cost, by kind of stage."""

    groups: tuple[StageGroup, ...]
    cells: tuple[CellTodo, ...]

    def table(self) -> Any:
        """For a rich console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("stage")
        for column in ("stages", "cached", "denoiser evaluations", "estimated time"):
            table.add_column(column, justify="right")
        for g in self.groups:
            table.add_row(
                g.name, str(g.stages), str(g.cached), f"{g.nfe:,}", duration(g.seconds, g.measured)
            )
        table.add_section()
        table.add_row(
            "all",
            str(sum(g.stages for g in self.groups)),
            str(sum(g.cached for g in self.groups)),
            f"{sum(g.nfe for g in self.groups):,}",
            duration(sum(g.seconds for g in self.groups), all(g.measured for g in self.groups)),
        )
        if not self.cells:
            return table
        cells = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        cells.add_column("cell", overflow="fold")
        cells.add_column("to do", overflow="fold")
        cells.add_column("denoiser evaluations", justify="right")
        for cell in self.cells:
            cells.add_row(Text(cell.label), cell.todo, f"{cell.nfe:,}")
        return Group(cells, table)


def estimate(plan: Plan, store: Store, finished: frozenset[str], *, processes: int = 1) -> Estimate:
    """Estimate a plan's remaining cost, where so many processes share every stage."""
    groups = []
    for name, rate in measured_rates(plan, store, finished).items():
        stages = [s for s in plan.stages if s.name == name]
        todo = [s for s in stages if s.key not in finished]
        seconds = sum(seconds_of(stage, rate) for stage in todo)
        groups.append(
            StageGroup(
                name=name,
                stages=len(stages),
                cached=len(stages) - len(todo),
                nfe=sum(s.nfe for s in todo),
                seconds=seconds / processes,
                measured=rate is not None or not todo,
            )
        )
    return Estimate(groups=tuple(groups), cells=tuple(_cells(plan, finished)))


def measured_rates(plan: Plan, store: Store, finished: frozenset[str]) -> dict[str, float | None]:
    """Seconds of one process a unit of load, by name of stage; None where none is finished."""
    names = dict.fromkeys(stage.name for stage in plan.stages)
    done = [stage for stage in plan.stages if stage.key in finished]
    return {name: _measured_rate(store, [s for s in done if s.name == name]) for name in names}


def seconds_of(stage: Stage, rate: float | None) -> float:
    """Estimated seconds of one process, by a measured rate or else the stated one."""
    return stage.load * (stage.seconds_per_load if rate is None else rate)


def facts_table(plan: Plan, processes: int) -> Any:
    """`facts` for a rich console."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), pad_edge=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for what, words in facts(plan, processes):
        grid.add_row(what, Text(words))
    return grid


def facts(plan: Plan, processes: int) -> list[tuple[str, str]]:
    """What a plan works on and needs, as (what, in words)."""
    rows = [("backbone", f"{plan.recipe.backbone}, {plan.backbone.resolution} pixels")]
    pairs = next((s for s in plan.stages if isinstance(s, InspectStage)), None)
    if pairs is not None:
        rows.append(("pairs", _pairs(plan, pairs)))
    if plan.prompts:
        names = [table.name for table in plan.prompts]
        counts = (f"{t.name} {len(t.texts):,}{_star(plan, t.name)}" for t in plan.prompts)
        rows.append(("prompts", ", ".join(counts) + _note(plan, names)))
    if plan.recipe.training and any(cell.train for cell in plan.cells):
        rows.append(("effective batch", split(plan.recipe.training, processes)))
        memory, disk = training_memory_gb(plan, processes), encoded_gb(plan)
        if memory is not None:
            rows.append(("GPU memory", f"about {memory:.0f} GB a process while training"))
        if disk >= 1:
            rows.append(("disk", f"about {disk:,.0f} GB for the latents of the encoded pairs"))
    if plan.backbone.size is not None:
        gpus = "one A100 GPU" if processes == 1 else f"{processes} A100 GPUs"
        rows.append(
            ("times", f"rough, for {gpus} in 16 bit; measured ones once stages have finished")
        )
    return rows


def split(training: TrainingBudget, processes: int) -> str:
    """How the effective batch comes about, in words."""
    micro = training.micro_batch(processes)
    turns = -(-training.batch_size // (micro * processes))
    parts = [f"{micro} at a time", f"{turns} accumulated", f"{processes} process"]
    text = " x ".join(parts) + ("es" if processes > 1 else "")
    return f"{training.batch_size:,} pairs an optimiser step ({text})"


def training_memory_gb(plan: Plan, processes: int) -> float | None:
    """Rough peak of GPU memory a process in GB (10^9 bytes) while training; None: not known.

    Weights, gradients, optimiser states and the copy that distance and reference are measured
    from, by arithmetic: float32, with 16-bit copies of what is trained under autocast, and one
    more copy where a reference leaves the start. Activations by the backbone's own figure, for
    both images of each pair at hand. Of several methods the one that needs most.
    """
    size, training = plan.backbone.size, plan.recipe.training
    trained = [cell.resolved for cell in plan.cells if cell.train]
    if size is None or training is None or not trained:
        return None
    half = training.precision != "fp32"
    moving = 4 * any(_reference_moves(method, training.steps) for method in trained)
    changed = 4 + 4 + {"adamw": 8.0, "adamw8bit": 2.0, "adafactor": 0.1}[training.optimizer]
    kept = _CHECKPOINTED if training.gradient_checkpointing else 1.0
    if training.lora_rank:
        frozen = 2.0 if half and _loaded_in_half(plan) else 4 + 2 * half * kept
        weights = frozen * size.denoiser + (changed + moving) * size.adapted * training.lora_rank
    else:
        weights = (changed + 4 + moving + 2 * half) * size.denoiser
    images = 2 * training.micro_batch(processes)
    activations = images * size.activations_gb * (_AUTOCAST if half else 2) * kept
    return _CONTEXT_GB + weights / 1e3 + activations


def encoded_gb(plan: Plan) -> float:
    """Rough GB (10^9 bytes) on disk of the pairs' latent moments, prompt conditions not counted."""
    encodings = [s for s in plan.stages if isinstance(s, EncodeStage)]
    images = max((2 * s.pair_count * s.framing.views for s in encodings), default=0)
    numbers = 2 * plan.backbone.resolution**2 * _LATENTS_A_PIXEL  # mean and deviation
    size = 2 if _loaded_in_half(plan) else 4
    return images * numbers * size / 1e9


def _pairs(plan: Plan, stage: InspectStage) -> str:
    names, source = [plan.pairs_name], ""
    if isinstance(stage.pairs, GeneratedPairs) and isinstance(stage.pairs.stage, PairsStage):
        made = stage.pairs.stage
        names = made.prompts.name.split("+")
        source = f" from {len(made.models)} images of each prompt of {made.prompts.name}"
    star = max(_star(plan, name) for name in names)
    filters = plan.recipe.filters.model_dump(exclude_defaults=True)
    listed = ", ".join(f"{name}={value}" for name, value in filters.items())
    text = f"{plan.pairs_name} {stage.pair_count:,}{star}{source}{_note(plan, names)}"
    return text + (f"; filters {listed}" if listed else "")


def _star(plan: Plan, name: str) -> str:
    return "*" if name in plan.absent else ""


def _note(plan: Plan, names: Iterable[str]) -> str:
    return " (* official count; not downloaded)" if plan.absent.intersection(names) else ""


def _loaded_in_half(plan: Plan) -> bool:
    """Whether a backbone with an option `dtype` is loaded in 16 bits."""
    return getattr(plan.backbone, "dtype", "fp32") != "fp32"


def _reference_moves(method: Method, steps: int) -> bool:
    if not isinstance(method, PairMethod):
        return False
    return method.loss.needs_reference and any(
        method.reference.decay_at(step) != 1 for step in range(1, steps + 1)
    )


def _measured_rate(store: Store, finished: Iterable[Stage]) -> float | None:
    """Seconds of one process a unit of load."""
    seconds = units = 0.0
    for stage in finished:
        try:
            cost = Artefact(store.path(stage.name, stage.key)).cost
        except DamagedArtefactError:
            continue
        seconds += cost.seconds * cost.processes
        units += stage.load
    return seconds / units if units else None


def _cells(plan: Plan, finished: frozenset[str]) -> Iterable[CellTodo]:
    for cell in plan.cells:
        todo, nfe = [], 0
        kinds: dict[str, list[Stage]] = {
            "train": [cell.train] if cell.train else [],
            "sample": list(cell.samples.values()),
            "describe": list(cell.descriptions.values()),
            "score": list(cell.scores.values()),
        }
        for name, stages in kinds.items():
            missing = [s for s in stages if s.key not in finished]
            if missing:
                part = f" ({len(missing)} of {len(stages)})" if name != "train" else ""
                todo.append(name + part)
                nfe += sum(s.nfe for s in missing)
        yield CellTodo(label=cell.label, todo=", ".join(todo) or "cached", nfe=nfe)


def duration(seconds: float, measured: bool) -> str:
    """A time for people, "about" where it is by stated rates."""
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            text = f"{seconds / size:.{0 if size == 1 else 1}f} {unit}"
            break
    else:
        text = f"{seconds / 86400:.1f} days"
    return text if measured else f"about {text}"
