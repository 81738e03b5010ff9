"""`bench score`: scoring images that are there already."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.api.contracts import prompts_of
from bench.cli import output
from bench.cli.frame import (
    RUNS,
    STORE,
    AsJson,
    Device,
    Frame,
    Overwrite,
    Processes,
    StoreFolder,
    joined,
)
from bench.lib import escaping
from bench.lib.errors import BenchError, UnknownNameError
from bench.lib.reading import expanded
from bench.registry.spec_language import split_list

if TYPE_CHECKING:
    from rich.table import Table

    from bench.api.kinds import PromptSet, Scorer
    from bench.lib.stdout_guard import ReservedStdout
    from bench.registry.registry import Registry
    from bench.running.image_scores import Scored
    from bench.scoring.image_set import ImageSet
    from bench.scoring.summary import Benchmark

_SUFFIXES = (".parquet", ".csv", ".json")
_PRINTED = 30
"""Values of a group that nobody asked for that are still printed."""


def score(
    context: typer.Context,
    images: Annotated[
        Path,
        typer.Argument(help="A folder, or a .csv, .tsv, .jsonl or .parquet file that lists them."),
    ],
    scorers: Annotated[str, typer.Option(help="Comma-separated scorers.")],
    prompts: Annotated[
        str | None, typer.Option(help="The prompt set or file that a folder's images show.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Table of all scores: .parquet, .csv or .json; else "
            "bench-runs/scores/<name>.parquet."
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Comma-separated groups to break down by, e.g. category.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    store: StoreFolder = STORE,
    num_processes: Processes = 1,
    as_json: AsJson = False,
) -> None:
    """Score images under their prompts; nothing is trained or sampled.

    The same command goes on where it was interrupted, and scores nothing twice.
    """
    world = joined(num_processes)
    from bench.leaderboard.results import safe_name
    from bench.lib.stdout_guard import reserve_stdout
    from bench.registry.location import named_or_path
    from bench.registry.registry import default_registry, spec_text
    from bench.scoring.sources import open_images

    stdout = reserve_stdout(context, as_json)
    name = safe_name(Path(os.path.abspath(images)).name) or "images"
    out = out or RUNS / "scores" / f"{name}.parquet"
    registry = default_registry()
    built = {spec_text(s): s for s in (registry.build("scorers", t) for t in split_list(scorers))}
    if not built:
        raise BenchError("--scorers names nothing")
    prompt_set = None if prompts is None else named_or_path(registry, "prompt_sets", prompts)
    _check_name(out, images, prompt_set)
    groups = list(dict.fromkeys(split_list(by or "")))
    load = partial(prompts_of, prompt_set) if prompt_set else None
    image_set = open_images(images, load, groups)
    for group in groups:
        if group not in image_set.group_names:
            raise _unknown_group(group, image_set, prompt_set)
    _check_columns(image_set, built)
    if not overwrite:
        _check_own(out, image_set, {entry.cls.name for entry in registry.entries("scorers")})
    _check_writable(out)
    frame = Frame(folder=store, asked_device=device, world=world, stderr=as_json)
    frame.say(f"{len(image_set):,} images of {len(set(image_set.prompts)):,} prompts: {images}")
    with frame.open():
        outcome = score_all(frame, image_set, built, registry)
    if world.is_main:
        if outcome.scored:
            with _writing(out, "; the scores are kept, so another --out scores nothing again"):
                _write(_columns(image_set, outcome), out)
        _report(frame, image_set, outcome, groups, out, stdout)
    if outcome.failures:
        sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of each scorer, by spec."""

    scored: Mapping[str, Scored]
    failures: Mapping[str, str]
    """Why a scorer has no scores."""


def score_all(
    frame: Frame, images: ImageSet, scorers: Mapping[str, Scorer], registry: Registry
) -> Outcome:
    """Score all images by every scorer that has not scored them before; failures stay apart."""
    from bench.running import image_scores

    stages, failures = image_scores.plan(
        images, scorers, registry, frame.store, frame.progress, frame.world
    )
    order = tuple(stages.values())
    outcome = frame.make(order, frame.status(order))
    failures |= {s: outcome.failures[x.key] for s, x in stages.items() if x.key in outcome.failures}
    scored = {s: image_scores.read(x, frame.store) for s, x in stages.items() if s not in failures}
    return Outcome(scored=scored, failures=failures)


def _check_name(out: Path, images: Path, prompts: PromptSet | None) -> None:
    """Refuse to write what is no table, over what is to be read, or among prompts."""
    if out.suffix not in _SUFFIXES or out.is_dir():
        raise BenchError(f"--out {out}: expected the name of a {', '.join(_SUFFIXES)} file")
    # By convention of prompt sets; a Hub id is no path that exists.
    path = getattr(prompts, "path", None)
    source = images if path is None else expanded(path)
    for read in (images, source):
        if read.exists() and out.exists() and read.samefile(out):
            raise BenchError(f"--out {out} is what is to be read; choose another name")
    if path is not None and source.is_dir() and source.resolve() == out.resolve().parent:
        raise BenchError(f"--out {out} lies among the prompts of {source}; choose another folder")


def _check_own(out: Path, images: ImageSet, scorers: set[str]) -> None:
    """Refuse to replace anything but an earlier table of these images' scores."""
    if not out.exists():
        return
    try:
        columns = _read(out)
        scored = any(name.partition("[")[0] in scorers for name in columns)
        own = scored and "prompt" in columns and set(columns["image"]) <= set(images.names)
    # Whatever cannot be read as such a table is none.
    except Exception:
        own = False
    if not own:
        raise BenchError(
            f"--out {out} is there and holds something else than scores of these images; choose "
            f"another name, or give --overwrite to replace it"
        )


def _read(out: Path) -> dict[str, list[Any]]:
    """The columns of an earlier table."""
    import pandas as pd

    match out.suffix:
        case ".parquet":
            frame = pd.read_parquet(out)
        case ".csv":
            frame = pd.read_csv(out, dtype=str, keep_default_na=False).map(escaping.from_csv_cell)
        case _:
            frame = pd.DataFrame(json.loads(out.read_text(encoding="utf-8")))
    return {str(name): column.tolist() for name, column in frame.items()}


def _check_writable(out: Path) -> None:
    """Scores that take hours should not fail at the last step."""
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass


@contextmanager
def _writing(out: Path, kept: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({error.strerror}){kept}") from error


def _check_columns(images: ImageSet, specs: Iterable[str]) -> None:
    taken = {"image", "prompt", *specs}
    for group in images.group_names:
        if group in taken:
            raise BenchError(
                f"{images.source}: the group {group!r} and another column of the table would have "
                f"the same name; rename the group"
            )


def _unknown_group(group: str, images: ImageSet, prompts: PromptSet | None) -> BenchError:
    """Says how, where it is a column of a prompt file that is no group yet."""
    from bench.registry.registry import spec_text

    unknown = UnknownNameError("group", group, images.group_names)
    if isinstance(given := getattr(prompts, "groups", None), tuple) and prompts is not None:
        wider = replace(prompts, groups=(*given, group))  # type: ignore[call-arg]
        # What cannot be loaded has no such column.
        with suppress(BenchError):
            if any(group in prompt.groups for prompt in prompts_of(wider)):
                return BenchError(
                    f"{group!r} is a column of the prompts but no group of them; make it one: "
                    f"--prompts '{spec_text(wider)}'"
                )
    return unknown


def _columns(images: ImageSet, outcome: Outcome) -> dict[str, Sequence[Any]]:
    """A row an image: its name and prompt, its groups, a column a scorer."""
    columns: dict[str, Sequence[Any]] = {"image": images.names, "prompt": images.prompts}
    for group in images.group_names:
        columns[group] = _group(images, group)
    for spec, scored in outcome.scored.items():
        columns[spec] = scored.values.tolist()
    return columns


def _group(images: ImageSet, group: str) -> list[str | None]:
    return [groups.get(group) for groups in images.groups]


def _write(columns: Mapping[str, Sequence[Any]], out: Path) -> None:
    """As the suffix says, with every digit."""
    import pandas as pd

    from bench.lib.files import write_atomic

    match out.suffix:
        case ".parquet":
            data = pd.DataFrame(columns).to_parquet(index=False)
        case ".csv":
            frame = pd.DataFrame(columns).map(escaping.csv_cell)
            frame.columns = [escaping.csv_cell(name) for name in columns]
            data = frame.to_csv(index=False, lineterminator="\r\n").encode()
        case _:
            cells = zip(*columns.values(), strict=True)
            rows = [dict(zip(columns, row, strict=True)) for row in cells]
            data = (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, data)


def _report(
    frame: Frame,
    images: ImageSet,
    outcome: Outcome,
    wanted: Sequence[str],
    out: Path,
    stdout: ReservedStdout | None,
) -> None:
    """Summaries to the console, or as JSON to `stdout`; failures to standard error.

    The breakdown is by the groups that were asked for; if by none, by all.
    """
    from bench.scoring import truncation
    from bench.scoring.folders import STYLE
    from bench.scoring.summary import benchmark, looks_like_cosines

    groups, boards = wanted or images.group_names, {}
    if images.by_style:
        styles = [groups_of[STYLE] for groups_of in images.groups]
        boards = {
            spec: benchmark(scored.values, styles)
            for spec, scored in outcome.scored.items()
            if looks_like_cosines(scored.values)
        }
    if stdout:
        stdout.emit(json.dumps(_as_data(images, outcome, groups, boards, out), indent=1))
    elif outcome.scored:
        frame.console.print(_summary_table(outcome))
        for group in groups:
            values = len(set(_group(images, group)) - {None})
            if values > _PRINTED and not wanted:
                frame.say(f"By {group}: {values:,} values, see --json or --by {group}\n")
                continue
            frame.say(f"By {group}: mean ± standard deviation of the images")
            frame.console.print(_group_table(images, outcome, group))
        if boards:
            frame.say("HPSv2's benchmark, times 100: mean ± deviation of the means of 80 images")
            frame.console.print(_benchmark_table(boards))
        frame.say(f"Scores of each image: {out}")
    for spec, scored in outcome.scored.items():
        if warning := truncation.warning(spec, scored.info):
            output.complain(warning, kind="warning")
    for reason in outcome.failures.values():
        output.complain(reason)


def _as_data(
    images: ImageSet,
    outcome: Outcome,
    groups: Sequence[str],
    boards: Mapping[str, Benchmark],
    out: Path,
) -> dict[str, Any]:
    from bench.scoring import truncation
    from bench.scoring.summary import by_group, summarise

    scorers: dict[str, Any] = {}
    for spec, scored in outcome.scored.items():
        scorers[spec] = asdict(summarise(scored.values))
        scorers[spec][truncation.CUT] = scored.info.get(truncation.CUT)
        scorers[spec]["by"] = {
            group: {
                name: asdict(summary)
                for name, summary in by_group(scored.values, _group(images, group)).items()
            }
            for group in groups
        }
        if spec in boards:
            scorers[spec]["hpsv2_benchmark"] = asdict(boards[spec])
    return {
        "images": str(images.source),
        "scores": str(out) if outcome.scored else None,
        "scorers": scorers,
        "failures": dict(outcome.failures),
    }


def _summary_table(outcome: Outcome) -> Table:
    from bench.scoring.summary import summarise

    rows = []
    for spec, scored in outcome.scored.items():
        summary = summarise(scored.values)
        figures = (summary.mean, summary.median, summary.std)
        rows.append([spec, f"{summary.n:,}", *(f"{figure:.4f}" for figure in figures)])
    return _table(["scorer", "images", "mean", "median", "standard deviation"], rows)


def _group_table(images: ImageSet, outcome: Outcome, group: str) -> Table:
    from bench.scoring.summary import by_group

    columns = [by_group(s.values, _group(images, group)) for s in outcome.scored.values()]
    rows = []
    for name, first in columns[0].items():
        cells = (f"{column[name].mean:.4f} ± {column[name].std:.4f}" for column in columns)
        rows.append([name, f"{first.n:,}", *cells])
    return _table([group, "images", *outcome.scored], rows)


def _benchmark_table(boards: Mapping[str, Benchmark]) -> Table:
    """With the digits of the official table."""
    columns = list(boards.values())
    rows = []
    for style, first in columns[0].styles.items():
        summaries = (column.styles[style] for column in columns)
        rows.append([style, f"{first.n:,}", *(f"{s.mean:.2f} ± {s.std:.4f}" for s in summaries)])
    total = sum(style.n for style in columns[0].styles.values())
    rows.append(["Average", f"{total:,}", *(f"{column.average:.2f}" for column in columns)])
    return _table(["style", "images", *boards], rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Names to the left, figures to the right; a narrow terminal folds names, never a number."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(escape(names[0]), overflow="fold")
    for name, *cells in zip(names[1:], *(row[1:] for row in rows), strict=True):
        widest = max(len(word) for cell in cells for word in cell.split())
        table.add_column(escape(name), justify="right", overflow="fold", min_width=widest)
    for first, *figures in rows:
        table.add_row(escape(first), *figures)
    return table
