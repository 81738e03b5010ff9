"""`bench data`: looking at preference pairs, and writing them in the suite's own form."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from bench.cli import output
from bench.cli.data_generate import generate
from bench.cli.frame import RUNS, AsJson
from bench.lib.errors import BenchError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

    from bench.api.kinds import PreferenceSet
    from bench.lib.progress import Progress
    from bench.preferences.checking import Check, Rows

data_app = typer.Typer(no_args_is_help=True, help="Check, convert and make preference pairs.")

_SHOWN = 6
"""Lines of each table of sizes, aspects and models."""

Source = Annotated[
    str, typer.Argument(help="A file, a folder, or a preference set such as pickapic:owner/name.")
]


@data_app.command()
def check(
    context: typer.Context,
    source: Source,
    prompts: Annotated[
        str | None,
        typer.Option(help="Comma-separated prompt sets or files that must not be among the pairs."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture of a few pairs (default: bench-runs/data/<name>.png)."),
    ] = None,
    max_broken_share: Annotated[
        float, typer.Option(help="Share of pairs with an undecodable image that is still usable.")
    ] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Count, compare and show what a preference set holds; exit code 1 if it cannot be used."""
    from bench.api import contracts
    from bench.leaderboard.results import safe_name
    from bench.lib import own_files
    from bench.lib.files import write_atomic
    from bench.lib.progress import Progress
    from bench.lib.stdout_guard import reserve_stdout
    from bench.preferences.checking import check as look_at
    from bench.preferences.checking import picture
    from bench.registry import location
    from bench.registry.registry import default_registry
    from bench.registry.spec_language import split_list

    stdout = reserve_stdout(context, as_json)
    if not 0 <= max_broken_share <= 1:
        raise BenchError(f"--max-broken-share {max_broken_share}: expected a share from 0 to 1")
    registry = default_registry()
    pairs: PreferenceSet = location.named_or_path(registry, "preference_sets", source)
    prompt_sets = {
        text: location.named_or_path(registry, "prompt_sets", text)
        for text in split_list(prompts or "")
    }
    path = out or RUNS / "data" / f"{safe_name(Path(pairs.source).stem)}.png"
    read = own_files.sources(pairs, *prompt_sets.values())
    own_files.apart(path, (file for file in read if file.is_file()))
    _check_picture(path)
    loaded = {text: contracts.prompts_of(prompt_set) for text, prompt_set in prompt_sets.items()}
    progress = Progress(output.console(stderr=as_json))
    with progress.task(f"check {pairs.source}", contracts.pair_count(pairs)) as task:
        report, sample = look_at(
            pairs, loaded, max_broken_share=max_broken_share, advance=task.advance
        )
    if sample:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _png(picture(sample)))
        except OSError as error:
            raise BenchError(f"--out {path}: cannot be written ({error.strerror})") from error
    if stdout:
        stdout.emit(json.dumps(asdict(report) | {"picture": str(path)}, indent=1))
    else:
        _show(progress, report, path)
    if not report.usable:
        output.complain(f"{report.source}: {_unusable(report, max_broken_share)}")
        sys.exit(1)


@data_app.command()
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="The .parquet file to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it is there.")
    ] = False,
) -> None:
    """Write any preference set as one Parquet file that is read quickly and in little memory."""
    from bench.api import contracts
    from bench.lib import own_files
    from bench.lib.progress import Progress
    from bench.preferences.inspecting import describe
    from bench.preferences.writing import convert as write
    from bench.registry import location
    from bench.registry.registry import default_registry

    if out.suffix != ".parquet":
        raise BenchError(f"{out}: expected the name of a .parquet file")
    if out.exists() and not overwrite:
        raise BenchError(f"{out} is there; choose another name, or give --overwrite to replace it")
    registry = default_registry()
    pairs: PreferenceSet = location.named_or_path(registry, "preference_sets", source)
    own_files.apart(out, own_files.sources(pairs), flag="")
    progress = Progress(output.console())
    with progress.task(f"convert {pairs.source}", contracts.pair_count(pairs)) as task:
        provenance = {
            "made_by": "bench data convert",
            "source": registry.describe(pairs),
            "scorers": list(contracts.labelled_by(pairs)),
        }
        done = write(pairs, out, provenance, task.advance)
    progress.say(f"{done.written:,} pairs written to {out}")
    if done.left_out:
        progress.say(f"{len(done.left_out):,} left out: {describe(done.left_out)}")


data_app.command("generate")(generate)


_SOFTWARE = "bench data check"


def _png(image: Image) -> bytes:
    """The picture as a file that says what wrote it."""
    from PIL.PngImagePlugin import PngInfo

    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("Software", _SOFTWARE)
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _check_picture(path: Path) -> None:
    """Refuse what is no name of a picture, or a file that this command has not written."""
    from PIL import Image, UnidentifiedImageError

    if path.suffix != ".png":
        raise BenchError(f"--out {path}: expected the name of a .png file")
    try:
        with Image.open(path) as there:
            own = there.info.get("Software") == _SOFTWARE
    except (FileNotFoundError, NotADirectoryError):
        return
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        own = False
    if not own:
        raise BenchError(
            f"--out {path} is there and was not written by `{_SOFTWARE}`; choose another name"
        )


def _show(progress: Progress, report: Check, path: Path) -> None:
    """The report for people."""
    from bench.preferences.inspecting import describe

    captions, twice = report.captions, report.duplicates
    progress.say(f"{report.source}: {report.pairs:,} pairs")
    table = _table("", "pairs", "share", "rows")
    for label, count, rows in (
        ("broken", len(report.broken), describe(report.broken)),
        ("ties", report.ties, ""),
        ("image 0 preferred", report.preferred_0, ""),
        ("image 1 preferred", report.preferred_1, ""),
        ("both of one model", report.same_model, ""),
        ("twice the same image", twice.same_images.count, _named(twice.same_images)),
        ("repeats an earlier pair", twice.repeated.count, _named(twice.repeated)),
        ("empty caption", captions.empty.count, _named(captions.empty)),
    ):
        share = f"{count / report.pairs:.1%}" if report.pairs else ""
        table.add_row(label, f"{count:,}", share, escape(rows))
    progress.console.print(table)
    progress.say(
        f"Captions: {captions.distinct:,} distinct, with {captions.most_pairs:,} pairs at most; "
        f"the longest has {captions.longest:,} characters (row {captions.longest_row}).",
    )
    progress.say(
        f"Images: {twice.images:,} distinct, {twice.shared:,} of them in more than one pair, at "
        f"most in {twice.most_shared:,}.",
    )
    kinds = (("width x height", report.sizes), ("aspect", report.aspects), ("model", report.models))
    for title, counts in kinds:
        if counts:
            progress.console.print(
                _histogram(title, counts, 2 * (report.pairs - len(report.broken)))
            )
    for leak in report.leaks:
        found_in = (
            f": {leak.exact:,} letter by letter, {leak.close - leak.exact:,} but for case and "
            f"spaces; in {leak.pairs:,} pairs"
        )
        progress.say(
            f"Leakage: {leak.close:,} of {leak.prompts:,} prompts of {leak.prompt_set} are also "
            f"captions{found_in if leak.close else ''}.",
        )
        for text in leak.first:
            progress.say(f"  {text}")
    if not report.leaks:
        progress.say(
            "Leakage: not looked for. Name the prompts that you evaluate on with --prompts; the "
            "official sets come from the Hub, so none is compared by default.",
        )
    if report.pairs > len(report.broken):
        progress.say(f"Picture: {path}")


def _histogram(title: str, counts: Mapping[str, int], total: int) -> Table:
    table = _table(title, "images", "share", "")
    shown = list(counts.items())
    if len(shown) > _SHOWN:
        rest = shown[_SHOWN - 1 :]
        shown = [*shown[: _SHOWN - 1], (f"{len(rest):,} others", sum(n for _, n in rest))]
    for name, count in shown:
        bar = "\u2588" * round(24 * count / total)
        table.add_row(escape(name), f"{count:,}", f"{count / total:.1%}", bar)
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number in (1, 2) else "left", overflow="fold")
    return table


def _named(rows: Rows) -> str:
    if not rows.count:
        return ""
    more = ", ..." if rows.count > len(rows.first) else ""
    return f"{', '.join(map(str, rows.first))}{more}"


def _unusable(report: Check, max_broken_share: float) -> str:
    if not report.pairs:
        return "holds no pair"
    return (
        f"{len(report.broken)} of {report.pairs} pairs have an image that cannot be decoded, more "
        f"than the {max_broken_share:.1%} that --max-broken-share allows"
    )
