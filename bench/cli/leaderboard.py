"""`bench leaderboard`: boards of committed result files, and what papers have reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.cli.run import Limit, Methods, PromptSets, Scorers, Settings, overridden
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.wording import printable

if TYPE_CHECKING:
    from bench.leaderboard.protocol import Protocol

leaderboard_app = typer.Typer(no_args_is_help=True, help="Boards of committed result files.")

LEADERBOARDS = Path("leaderboards")
Board = Annotated[Path, typer.Argument(help="A board, or the name of one in leaderboards/.")]
Boards = Annotated[Path | None, typer.Argument(help="A board; all by default.")]


@leaderboard_app.command("build")
def build(board: Boards = None) -> None:
    """Regenerate the tables of a board from its result files."""
    from bench.leaderboard import board as boards
    from bench.leaderboard import published
    from bench.report import writing as report

    for folder in _boards(board):
        with _writing(folder):
            if published.is_published(folder):
                published.write(folder)
            else:
                boards.write(folder, (report.board_pages,))
        typer.echo(f"built {printable(str(folder))}")


@leaderboard_app.command("check")
def check(board: Boards = None) -> None:
    """Fail unless results are as they were added and frozen, and tables what they give."""
    from bench.leaderboard import board as boards
    from bench.leaderboard import published
    from bench.report import writing as report

    for folder in _boards(board):
        if published.is_published(folder):
            published.check(folder)
        else:
            boards.check(folder, (report.checked_pages,))
        typer.echo(f"up to date: {printable(str(folder))}")


@leaderboard_app.command("add")
def add(
    run: Annotated[Path, typer.Argument(help="The folder that a run has written.")],
    board: Board,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Add this method alone, with the base. May be given several times."),
    ] = None,
    as_deviation: Annotated[
        bool, typer.Option("--as-deviation", help="Add what is not as frozen, and mark it so.")
    ] = False,
) -> None:
    """Add a run's results to a board, or refuse them with the file and the field."""
    from bench.leaderboard import adding
    from bench.report import writing as report

    folder, more = _named(board), (report.board_pages,)
    done = adding.add(run, folder, method or (), as_deviation=as_deviation, more=more)
    for name in done.files:
        typer.echo(printable(f"added {folder / name}"))
        if away := done.deviations.get(name):
            typer.echo(printable(f"  not as frozen: {', '.join(away)}"))
    for note in done.notes:
        typer.echo(printable(f"note: {note}"))
    if done.known:
        typer.echo(f"the board held {done.known} of these results already")
    typer.echo(f"built {printable(str(folder))}")


@leaderboard_app.command("freeze")
def freeze(
    source: Annotated[
        Path, typer.Argument(help="The folder of a run or a board; with --recipe the new board.")
    ],
    board: Annotated[
        Path | None, typer.Argument(help="The new board; without it, SOURCE itself.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Freeze what this recipe plans, before there is any score."),
    ] = None,
    methods: Methods = None,
    scorers: Scorers = None,
    prompts: PromptSets = None,
    limit: Limit = None,
    settings: Settings = None,
    protocol: Annotated[
        str, typer.Option(help="First digits of the protocol, where results have several.")
    ] = "",
    any_training: Annotated[
        bool, typer.Option("--any-training", help="Freeze the evaluation alone.")
    ] = False,
    min_train_seeds: Annotated[
        int, typer.Option(min=1, help="Finished trainings that each method must have.")
    ] = 1,
    title: Annotated[str | None, typer.Option(help="Of the board.")] = None,
    description: Annotated[str, typer.Option(help="Of the board.")] = "",
) -> None:
    """Write a board's protocol, from results or, before there are any, from a recipe."""
    from bench.leaderboard import freezing, results
    from bench.leaderboard.board import Admission
    from bench.leaderboard.protocol import Protocol as Section

    overrides = overridden(methods, scorers, prompts, None, limit, settings)
    if recipe is None:
        for key in overrides:
            raise BenchError(f"{key}: only of a recipe; name one with --recipe")
        cells = results.load_cells(source)
        found, held_out = freezing.of_results(source, cells, protocol)
        folder, count = board or source, len(cells)
    else:
        if board is not None or protocol:
            raise BenchError("--recipe: takes the place of a run; name the new board alone")
        found, held_out = _planned(recipe, overrides)
        folder, count = source, 0
    made = freezing.freeze(
        folder,
        Section(found.evaluation, None) if any_training else found,
        held_out,
        title=title or folder.resolve().name,
        description=description,
        admits=Admission(min_train_seeds=min_train_seeds),
        results_then=count,
    )
    what = f"frozen {folder}/board.yaml: {made.frozen.what}, {made.frozen.digest[:8]}"
    typer.echo(printable(what))


@leaderboard_app.command("show")
def show(board: Board) -> None:
    """Print the tables of a board."""
    from bench.leaderboard import board as boards
    from bench.leaderboard import published
    from bench.leaderboard.console import console_table

    folder = _named(board)
    if published.is_published(folder):
        typer.echo(printable(published.render(published.load(folder))), nl=False)
        return
    loaded = boards.load(folder)
    console = output.console()
    if loaded.file:
        console.print(loaded.file.title, style="bold", markup=False, highlight=False)
    console.print(console_table(boards.standings_of(loaded)))


@leaderboard_app.command("compare")
def compare(
    boards: Annotated[list[Path], typer.Argument(help="Boards, or names in leaderboards/.")],
    published: Annotated[
        bool, typer.Option("--published", help="With what papers report, row by row.")
    ] = False,
) -> None:
    """Name each difference of protocol between boards, their sections, and papers."""
    from bench.leaderboard import differing

    folders = [_named(board) for board in boards]
    for line in differing.lines(folders, LEADERBOARDS / "published" if published else None):
        typer.echo(printable(line))


def _planned(recipe: str, overrides: Mapping[str, object]) -> tuple[Protocol, tuple[str, ...]]:
    """The protocol of a recipe's plan, and the scorers that it declares held out."""
    from bench.api.kinds import is_held_out
    from bench.outputs.writing import protocol_of
    from bench.recipe import recipe as recipes
    from bench.registry.registry import default_registry
    from bench.running import planning

    registry = default_registry()
    plan = planning.make(recipes.load(registry, recipe, overrides), registry)
    held_out = (name for name, scorer in plan.scorers.items() if is_held_out(type(scorer)))
    return protocol_of(plan), tuple(sorted(held_out))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); the result "
            f"files are as they were, so mend that and build again"
        ) from error


def _boards(board: Path | None) -> list[Path]:
    if board is not None:
        return [_named(board)]
    found = {path.parent for path in LEADERBOARDS.glob("*/*") if path.name in _MARKS}
    if not found:
        raise BenchError(f"no board (a folder with results/) under {LEADERBOARDS}/")
    return sorted(found)


_MARKS = ("results", "board.yaml", "published.yaml")
"""What lies in a board's folder."""


def _named(board: Path) -> Path:
    """The folder of a board that is named by its path, or as one of `leaderboards/`."""
    from bench.lib.reading import exists

    if exists(board) or len(board.parts) != 1:
        return board
    if exists(LEADERBOARDS / board):
        return LEADERBOARDS / board
    known = [path.name for path in LEADERBOARDS.glob("*") if path.is_dir()]
    raise UnknownNameError("board", str(board), known)
