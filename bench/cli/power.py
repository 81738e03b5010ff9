"""`bench power`: which differences a study can find, and what finding less costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import output
from bench.cli.frame import STORE, AsJson, Frame, Processes, StoreFolder
from bench.cli.run import (
    DEFAULT_RECIPE,
    Limit,
    Methods,
    PromptSets,
    RecipeName,
    Scorers,
    Seeds,
    Settings,
    overridden,
)
from bench.cli.show import named
from bench.lib.distributed import World
from bench.lib.errors import BenchError

if TYPE_CHECKING:
    from bench.leaderboard.outlook import Option, Outlook
    from bench.statistics.power import Spread


def power(
    context: typer.Context,
    board: Annotated[
        Path | None,
        typer.Argument(
            help="A board (its folder or name) that has measured how outcomes spread: of its own "
            "study, or, with options of a recipe, of that recipe's. Without a board, spreads are "
            "assumed."
        ),
    ] = None,
    methods: Methods = None,
    recipe: RecipeName = DEFAULT_RECIPE,
    seeds: Seeds = None,
    scorers: Scorers = None,
    prompts: PromptSets = None,
    limit: Limit = None,
    settings: Settings = None,
    store: StoreFolder = STORE,
    num_processes: Processes = 1,
    seed_sd: Annotated[
        float, typer.Option(help="Points of win rate, between trainings of one method; assumed.")
    ] = 2.0,
    tie_share: Annotated[float, typer.Option(help="Share of comparisons that tie; assumed.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Which differences prompts and train seeds can find, and what finding less costs."""
    from bench.leaderboard.outlook import of_board
    from bench.lib.stdout_guard import reserve_stdout
    from bench.statistics.power import widest

    stdout = reserve_stdout(context, as_json)
    assumed = widest(tie_share, seed_sd / 100)
    overrides = overridden(methods, scorers, prompts, seeds, limit, settings)
    board = named(board) if board else None
    measured = of_board(board, assumed) if board else []
    if board is None or overrides or recipe != DEFAULT_RECIPE:
        outlooks = [_planned(recipe, overrides, store, num_processes, assumed)]
        if board:
            outlooks = [outlooks[0].with_spreads(_only(board, measured))]
    else:
        outlooks = measured
    if stdout:
        stdout.emit(json.dumps([_data(outlook) for outlook in outlooks], indent=1))
        return
    console = output.console()
    for outlook in outlooks:
        console.print(_head(outlook), highlight=False, markup=False)
        console.print(_table(outlook), highlight=False)
        for line in _sentences(outlook):
            console.print(line, highlight=False, markup=False)


def _only(board: Path, measured: Sequence[Outlook]) -> Outlook:
    if len(measured) > 1:
        titles = "; ".join(outlook.title for outlook in measured)
        raise BenchError(
            f"{board}: has the spreads of {len(measured)} protocols ({titles}); a plan can take "
            f"those of a board of one"
        )
    return measured[0]


def _planned(
    recipe: str,
    overrides: dict[str, object],
    store: Path,
    processes: int,
    assumed: Spread,
) -> Outlook:
    from bench.recipe import recipe as recipes
    from bench.registry.registry import default_registry
    from bench.running import outlook, planning

    registry = default_registry()
    chosen = recipes.load(registry, recipe, overrides)
    plan = planning.make(chosen, registry, download=False)
    frame = Frame(folder=store, asked_device="cpu", world=World())
    with frame.open():
        here = frame.status(plan.stages)
        return outlook.of_plan(plan, frame.store, here.finished, assumed, processes)


def _head(outlook: Outlook) -> str:
    methods = f"{outlook.methods} method{'s'[: outlook.methods != 1]}"
    seeds = f"{outlook.seeds} train seed{'s'[: outlook.seeds != 1]}"
    prompts = f"{outlook.prompts:,} prompts"
    if outlook.effective < 0.95 * outlook.prompts:
        prompts += f" (worth {outlook.effective:,.0f}, as every prompt set weighs the same)"
    return f"{outlook.title}: {methods} and the base, {prompts}, {seeds} (*)"


def _table(outlook: Outlook) -> Any:
    """Prompts and train seeds, what they find and what they take."""
    from rich import box
    from rich.table import Table

    time = "rough time" if outlook.costs.rough else "time"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("train seeds", "prompts", "against base", "two methods", "evaluations", time):
        table.add_column(column, justify="right", no_wrap=True)
    before: int | None = outlook.prompts
    for option in outlook.options():
        if option.prompts != before:
            table.add_section()
        before = option.prompts
        table.add_row(
            f"{option.train_seeds}{' *' if option.planned else '  '}",
            "any" if option.prompts is None else f"{option.prompts:,}",
            _points(option.against_base),
            _points(option.two_methods),
            *_spent(option),
        )
    return table


def _points(difference: float | None) -> str:
    return "-" if difference is None else f"{100 * difference:.1f}"


def _spent(option: Option) -> tuple[str, str]:
    from bench.running.estimates import duration

    if option.spent is None:
        return "", ""
    return f"{option.spent.nfe:,.0f}", duration(option.spent.seconds, measured=True)


def _sentences(outlook: Outlook) -> Iterator[str]:
    yield (
        "Smallest true differences, in points of win rate, that are found with 80% probability, "
        "where all methods and the base are compared in pairs, with 5% for any error. A method's "
        f"single training is judged to ±{_points(outlook.checkpoint)} points, which says nothing "
        f"of another."
    )
    yield f"Spreads: {outlook.basis}."
    if _worse_with_more(outlook.options()):
        yield (
            "Few trainings: more prompts find less where the test then rests on the trainings, "
            "which give it few degrees of freedom. Take more train seeds."
        )
    halved = outlook.halved()
    if halved is None:
        return
    half, seeds = _points(halved.difference), halved.train_seeds
    if halved.cheapest is None:
        yield f"No sensible study finds half of what {seeds} train seeds find, {half} points."
        return
    yield (
        f"Half of what {seeds} train seeds find against the base, {half} points, costs least with "
        f"{_study(halved.cheapest)}."
    )
    for what, way, floor in (
        ("prompts", halved.by_prompts, halved.prompts_floor),
        ("train seeds", halved.by_train_seeds, halved.train_seeds_floor),
    ):
        if way is None:
            yield f"More {what} alone never find less than {_points(floor)} points."
        elif way != halved.cheapest:
            yield f"With more {what} alone it takes {_study(way)}."


def _worse_with_more(options: Sequence[Option]) -> bool:
    """Whether more prompts, with as many train seeds, find larger differences only."""
    found = {(option.train_seeds, option.prompts): option.two_methods for option in options}
    return any(
        mine is None or mine > 1.02 * other
        for (seeds, prompts), mine in found.items()
        for (as_many, fewer), other in found.items()
        if seeds == as_many and prompts and fewer and prompts > fewer and other
    )


def _study(option: Option) -> str:
    evaluations, time = _spent(option)
    return (
        f"{option.train_seeds} train seeds x {option.prompts:,} prompts: {evaluations} denoiser "
        f"evaluations, {time}"
    )


def _data(outlook: Outlook) -> dict[str, Any]:
    from bench.statistics.power import POWER

    halved = outlook.halved()
    return {
        "title": outlook.title,
        "methods": outlook.methods,
        "prompts": outlook.prompts,
        "effective_prompts": outlook.effective,
        "train_seeds": outlook.seeds,
        "power": POWER,
        "checkpoint_half_width": outlook.checkpoint,
        "against_base": asdict(outlook.against_base),
        "two_methods": asdict(outlook.two_methods),
        "spreads": outlook.basis,
        "options": [asdict(option) for option in outlook.options()],
        "halved": None if halved is None else asdict(halved),
    }
