"""`bench.run`, `bench.compare`, `bench.load`: what the commands do, for notebooks and scripts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from bench.cli.frame import RUNS, STORE, Frame
from bench.lib.distributed import ALONE
from bench.lib.errors import BenchError
from bench.notebook.records import Board, Comparison, RunResult

AnyPath: TypeAlias = "str | PathLike[str]"
ROOTS = (RUNS, Path("leaderboards"))


def run(
    methods: str | Sequence[str] | None = None,
    recipe: AnyPath = "shapes",
    *,
    seeds: Sequence[int] | None = None,
    out: AnyPath | None = None,
    store: AnyPath = STORE,
    device: str = "auto",
    progress: bool = False,
    **settings: object,
) -> RunResult:
    """Train, sample, score and compare methods, as `bench run` does.

        result = bench.run(["dpo", "smpo[beta=500]"], recipe="shapes", seeds=[0, 1], limit=20)
        result.leaderboard

    What is finished is never done again, so that the same call goes on where it was interrupted.

    Args:
        methods: specs; None: those of the recipe.
        recipe: a preset's name or a YAML file.
        seeds: train seeds; None: those of the recipe.
        out: where results, tables and checkpoints go; None: bench-runs/<name of the recipe>.
        store: where artefacts are kept and found again.
        device: "auto", "cpu", "cuda", ...
        progress: print it, to the standard output.
        settings: any other key of the recipe (`scorers=["hpsv2.1"]`, `limit=100`); of a block, the
            keys that are to differ (`training={"steps": 50}`).

    Returns:
        What the folder then holds. Cells that failed are its `failures`, and a warning.

    Raises:
        BenchError: a mistake of the recipe or of the folder, or no cell finished; says the remedy.
    """
    from bench.leaderboard.run_folder import RunFolder, default_place, outside
    from bench.outputs import writing
    from bench.recipe import recipe as recipes
    from bench.registry.registry import default_registry
    from bench.running import planning

    registry = default_registry()
    overrides = _overrides({"methods": methods, "seeds": seeds, **settings})
    chosen = recipes.load(registry, os.fspath(recipe), overrides)
    plan = planning.make(chosen, registry)
    folder = RunFolder(Path(out) if out is not None else default_place(chosen.name, RUNS))
    outside(folder.path, Path(store))
    folder.check()
    frame = _frame(store, device, progress)
    with frame.open(folder.path):
        here = frame.status(plan.stages)
        if missing := planning.unavailable_reasons(plan.stages, here.finished):
            raise BenchError("; ".join(missing))
        folder.claim()
        outcome = frame.make(plan.stages, here)
        writing.write(plan, frame.store, folder.path, outcome, frame.say)
    for reason in dict.fromkeys(outcome.failures.values()):
        warnings.warn(reason, stacklevel=2)
    return RunResult(folder=folder.path, opened=_open(folder.path))


def compare(
    *subjects: AnyPath,
    scorers: str | Sequence[str] = (),
    prompts: AnyPath | None = None,
    base: str | None = None,
    recipe: AnyPath | None = None,
    limit: int | None = None,
    out: AnyPath | None = None,
    store: AnyPath = STORE,
    device: str = "auto",
    progress: bool = False,
    **settings: object,
) -> Comparison:
    """Compare what is there already over the same prompts, as `bench compare` does.

        bench.compare("out/sd15", "out/mine", prompts="parti", scorers=["pickscore"]).head_to_head

    Nothing is trained, and no image is scored twice.

    Args:
        subjects: two or more: folders of images, runs or boards ("RUN", "RUN:method",
            "RUN:method[seed]"), checkpoints (a folder, "pretrained:OWNER/NAME").
        scorers: specs; () for those that all have, where all are of runs.
        prompts: the prompt set or file; None: those of the runs.
        base: against which the others win or lose; None: the first.
        recipe: by which the images of checkpoints are sampled.
        limit: prompts, a stratified sample by category.
        out: where tables and pictures go; None: bench-runs/compare/<names>.
        store: where artefacts are kept and found again.
        device: "auto", "cpu", "cuda", ...
        progress: print it, to the standard output.
        settings: keys of that recipe, as for `run`.

    Raises:
        BenchError: something is unknown, cannot be read, scored or paired; says the remedy.
    """
    from bench.comparison import comparing, writing
    from bench.leaderboard.run_folder import outside
    from bench.registry.registry import default_registry

    given = tuple(os.fspath(subject) for subject in subjects)
    folder = Path(out) if out is not None else writing.default_place(given, RUNS / "compare")
    outside(folder, Path(store))
    writing.check(folder)
    request = comparing.Request(
        subjects=given,
        scorers=(scorers,) if isinstance(scorers, str) else tuple(scorers),
        prompts=None if prompts is None else os.fspath(prompts),
        base=base,
        recipe=None if recipe is None else os.fspath(recipe),
        settings=_overrides(settings),
        limit=limit,
    )
    frame = _frame(store, device, progress)
    with frame.open(folder):
        compared = comparing.run(request, default_registry(), frame, ROOTS)
        writing.write(compared, folder, frame.store)
    for reason in compared.failures:
        warnings.warn(reason, stacklevel=2)
    return Comparison(
        folder=folder,
        opened=_open(folder),
        base=compared.base,
        scorers=compared.scorers,
        notes=compared.notes,
        pairs=compared.pairs,
    )


def load(folder: AnyPath) -> Board:
    """Read what a run has left, or a board.

        bench.load("leaderboards/shapes").leaderboard

    Args:
        folder: a path, or the name of a run below bench-runs/ or of a board below leaderboards/.

    Returns:
        A `RunResult` of a run's folder, else a `Board`.

    Raises:
        BenchError: there is no such folder, or a file of it is not valid; says which and why.
    """
    from bench.leaderboard.opening import open_folder
    from bench.leaderboard.run_folder import MARK

    opened = open_folder(os.fspath(folder), ROOTS)
    kind = RunResult if (opened.folder / MARK).exists() else Board
    return kind(folder=opened.folder, opened=opened)


def _open(folder: Path) -> Any:
    from bench.leaderboard.opening import open_folder

    return open_folder(str(folder))


def _overrides(settings: Mapping[str, object]) -> dict[str, object]:
    """Keys of a recipe, those of its blocks dotted; None leaves the recipe's own."""
    from bench.recipe.recipe import BLOCKS

    flat: dict[str, object] = {}
    for key, value in settings.items():
        if key in BLOCKS and isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": of for inner, of in value.items()}
        elif value is not None:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _frame(store: AnyPath, device: str, progress: bool) -> Frame:
    from bench.cli import output

    frame = Frame(folder=Path(store), asked_device=device, world=ALONE)
    frame.console = output.console(quiet=not progress)
    return frame
