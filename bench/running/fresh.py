"""`--fresh`: which stages are made anew although they are finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.lib.errors import UnknownNameError
from bench.registry.spec_language import split_list
from bench.running.plan import Plan
from bench.running.planning import STAGES
from bench.stages.stage import Stage


def chosen(plan: Plan, names: Sequence[str]) -> frozenset[str]:
    """Keys of the stages that names stand for, and of all that is made from these.

    A finished stage's key says nothing of the bytes that it read, so what follows is made anew
    even where the new bytes turn out to be the old ones.

    Args:
        plan: all stages, each after its inputs.
        names: kinds of stages ("train") or methods as the plan shows them ("dpo[beta=500]");
            a plugin's bare name stands for all its variants, if none is called just that.

    Raises:
        BenchError: a name is neither; says what is close.
    """
    parts = [part for name in names for part in split_list(name)]
    keys = {stage.key for name in parts for stage in _stages(plan, name)}
    for stage in plan.stages:
        if any(source.key in keys for source in stage.inputs):
            keys.add(stage.key)
    return frozenset(keys)


def _stages(plan: Plan, name: str) -> Iterable[Stage]:
    if name in STAGES:
        return [stage for stage in plan.stages if stage.name == name]
    cells = [cell for cell in plan.cells if cell.method == name]
    cells = cells or [cell for cell in plan.cells if cell.resolved.name == name]
    if not cells:
        known = {*STAGES, *(cell.method for cell in plan.cells)}
        raise UnknownNameError("stage or method of --fresh", name, known)
    return [stage for cell in cells for stage in cell.stages]
