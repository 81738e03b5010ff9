"""What a plan can show before it runs, and what showing more would take."""

from __future__ import annotations

from collections.abc import Iterable

from bench.leaderboard.outlook import Costs, Outlook, Spent, assumption
from bench.running.estimates import measured_rates, seconds_of
from bench.running.plan import Plan
from bench.stages.stage import Stage
from bench.statistics import model
from bench.statistics.power import Spread, effective_prompts, head_to_head
from bench.store.store import Store


def of_plan(
    plan: Plan, store: Store, finished: frozenset[str], spread: Spread, processes: int = 1
) -> Outlook:
    """The differences that a plan can find, and the costs of its parts as if nothing were cached.

    Args:
        plan: what is to run; methods that it does not train count as images only.
        store: has the rates of what is finished.
        finished: keys of the stages that are.
        spread: assumed, against the base.
        processes: share every stage.
    """
    texts = [text for table in plan.prompts for text in table.texts]
    names = [table.name for table in plan.prompts for _ in table.texts]
    design = model.design(texts, names)
    trained = [cell for cell in plan.cells if cell.train]
    return Outlook(
        title=f"Recipe {plan.recipe.name}",
        methods=len({cell.method for cell in trained}),
        prompts=design.distinct,
        effective=effective_prompts(design),
        seeds=len(plan.recipe.seeds),
        against_base=spread,
        two_methods=head_to_head(spread),
        basis=assumption(spread),
        costs=_costs(plan, store, finished, processes),
    )


def _costs(plan: Plan, store: Store, finished: frozenset[str], processes: int) -> Costs:
    rates = measured_rates(plan, store, finished)

    def spent(stages: Iterable[Stage]) -> Spent:
        total = Spent()
        for stage in {stage.key: stage for stage in stages}.values():
            seconds = seconds_of(stage, rates[stage.name]) / processes
            total += Spent(nfe=stage.nfe, seconds=seconds)
        return total

    trained = [cell for cell in plan.cells if cell.train]
    own = {stage.key for cell in plan.cells for stage in cell.stages}
    one_seed = 1 / len(plan.recipe.seeds)
    training = spent(cell.train for cell in trained if cell.train)
    sampling = spent(stage for cell in trained for stage in cell.stages if stage != cell.train)
    return Costs(
        once=spent(stage for stage in plan.stages if stage.key not in own),
        images=spent(stage for cell in plan.cells if not cell.train for stage in cell.stages),
        training=training.times(one_seed),
        sampling=sampling.times(one_seed),
        rough=None in rates.values(),
    )


def sentences(outlook: Outlook) -> tuple[str, str]:
    """What the plan can show, and what would show more: two lines for a dry run."""
    here = f"{outlook.prompts:,} prompts"
    checkpoints = f"judge these checkpoints only (±{100 * outlook.checkpoint:.1f} points)"
    if not outlook.methods:
        return (
            f"Power: {here} {checkpoints}, and no method, since nothing is trained.",
            "Methods that are trained here with several train seeds can be ranked.",
        )
    if outlook.seeds == 1:
        return (
            f"Power: {here} x 1 train seed {checkpoints}; no method can be ranked.",
            f"--seeds 0,1,2 would find {_found(outlook, 3)} (80% power).",
        )
    return (
        f"Power: {here} x {outlook.seeds} train seeds find {_found(outlook, outlook.seeds)} "
        f"(80% power).",
        "`bench power` with the same options says what finding less would cost.",
    )


def _found(outlook: Outlook, seeds: int) -> str:
    option = outlook.option(1, seeds)
    if option.against_base is None:
        return "no difference at all"
    found = f"differences of {100 * option.against_base:.1f} points against the base"
    if outlook.methods > 1:
        other = option.two_methods
        found += f", {100 * other:.1f} between two methods" if other else ", none between methods"
    return found
