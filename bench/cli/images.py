"""`bench images`: find images of a run by prompt, method and score, and export them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import output
from bench.cli.frame import STORE, Overwrite, StoreFolder
from bench.cli.show import ROOTS, names
from bench.leaderboard.results import safe_name
from bench.lib import escaping
from bench.lib.errors import BenchError, UnknownNameError

if TYPE_CHECKING:
    from bench.outputs.image_finding import Found, Order

_LIST = "images.csv"
"""Of an exported folder; a later export there replaces what it names."""
_SHEET = "contact_sheet.png"
_MOST_ROWS = 50
"""Prompts on a contact sheet."""


def images(
    run: Annotated[str, typer.Argument(metavar="RUN|BOARD", help="A run's folder, or its name.")],
    prompt: Annotated[str | None, typer.Option(help="A part of the prompt.")] = None,
    row: Annotated[int | None, typer.Option(help="The prompt's row, from 0.")] = None,
    prompt_set: Annotated[str | None, typer.Option(help="Only this prompt set.")] = None,
    method: Annotated[str | None, typer.Option(help="Only these methods, comma-separated.")] = None,
    scorer: Annotated[
        str | None, typer.Option(help="Only these scorers, comma-separated; also for --sort.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="best|worst|disputed",
            help="Biggest lead over the base's image first, biggest deficit, or where scorers "
            "differ most; else by prompt.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images at most.")] = 20,
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy the images, and the base's beside them, to DIR."),
    ] = None,
    overwrite: Overwrite = False,
    store: StoreFolder = STORE,
) -> None:
    """List images with their scores and files; --export copies them with clear names."""
    from bench.leaderboard.opening import open_folder
    from bench.outputs.image_finding import Question, find, finished_methods

    opened = open_folder(run, ROOTS)
    order = _order(sort)
    methods = tuple(names("--method", method))
    if order and not methods:
        # Against itself the base has no lead.
        methods = tuple(finished_methods(opened))
    question = Question(
        prompt=prompt,
        row=row,
        prompt_set=prompt_set,
        methods=methods,
        scorers=tuple(names("--scorer", scorer)),
        order=order,
    )
    found = find(opened, question)
    shown = found[:limit]
    console = output.console()
    for image in shown:
        for text in _lines(image, store):
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    more = f", the first {len(shown):,} are shown (--limit)" if len(shown) < len(found) else ""
    console.print(f"{len(found):,} images{more}.", highlight=False, markup=False)
    if export is not None:
        _export(shown, export, store, overwrite)


def _order(text: str | None) -> Order | None:
    from bench.outputs.image_finding import Order

    if text is None:
        return None
    if text not in map(str, Order):
        raise UnknownNameError("order of --sort", text, map(str, Order))
    return Order(text)


def _lines(image: Found, store: Path) -> list[str]:
    from bench.outputs.image_finding import existing

    lead = "" if image.base else f" · {image.lead:+.2f} sd against the base"
    scores = ", ".join(
        f"{name} {score:.4g}" + ("" if image.base else f" (base {image.base_scores[name]:.4g})")
        for name, score in image.scores.items()
    )
    path = existing(store, image.image)
    return [
        f"{escaping.printable(image.where)} · {escaping.printable(image.made_by)}{lead}",
        f"  {escaping.printable(image.prompt)}",
        f"  {escaping.printable(scores)}",
        f"  {path if path else 'no image: ' + _why(image, store)}",
    ]


def _why(image: Found, store: Path) -> str:
    if not image.image:
        return "the result file does not say where it is; run the same `bench run` command again"
    return f"not in the store {store}; say with --store where the run kept its images"


@dataclass(frozen=True)
class _Copy:
    """One file of an export."""

    name: str
    source: Path
    image: Found
    of_base: bool


def _export(shown: Sequence[Found], folder: Path, store: Path, overwrite: bool) -> None:
    """Copy images under names that say what they are, with a list and a contact sheet.

    Raises:
        BenchError: an image is not there, or the folder holds something else.
    """
    from bench.lib.files import write_atomic

    copies = _copies(shown, store)
    _refuse_foreign(folder, {copy.name for copy in copies}, overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy in copies:
            write_atomic(folder / copy.name, copy.source.read_bytes())
        write_atomic(folder / _LIST, _listed(copies))
        write_atomic(folder / _SHEET, _sheet(copies))
    except OSError as error:
        raise BenchError(f"--export {folder}: cannot be written ({error.strerror})") from error
    typer.echo(f"wrote {len(copies):,} images, {_LIST} and {_SHEET} to {folder}")


def _copies(shown: Sequence[Found], store: Path) -> list[_Copy]:
    from bench.outputs.image_finding import existing

    copies: dict[str, _Copy] = {}
    for image in shown:
        for of_base in (True, False):
            if of_base and image.base:
                continue
            path = existing(store, image.base_image if of_base else image.image)
            if path is None:
                raise BenchError(f"{image.where}, {image.made_by}: no image: {_why(image, store)}")
            name = _file_name(image, of_base)
            # Bases of two evaluations, or methods whose names differ in what files cannot be named.
            number = 2
            while (other := copies.get(name)) and other.source != path:
                name = f"{_file_name(image, of_base)[:-4]}--{number}.png"
                number += 1
            copies[name] = _Copy(name, path, image, of_base or image.base)
    return list(copies.values())


def _file_name(image: Found, of_base: bool) -> str:
    who = "base" if of_base else safe_name(image.method) or "method"
    trained = "" if of_base or image.train_seed is None else f"--seed{image.train_seed}"
    place = f"{safe_name(image.prompt_set) or 'prompts'}-{image.row:05d}"
    return f"{place}--{who}{trained}--image{image.image_seed}.png"


def _refuse_foreign(folder: Path, names: set[str], overwrite: bool) -> None:
    if overwrite or not folder.exists():
        return
    if not folder.is_dir():
        raise BenchError(f"--export {folder} is a file; name a folder")
    own = names | {_LIST, _SHEET}
    if (folder / _LIST).is_file():
        with (folder / _LIST).open(encoding="utf-8", newline="") as lines:
            own |= {line.get("file", "") for line in csv.DictReader(lines)}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in own)
    if foreign:
        raise BenchError(
            f"--export {folder} holds {foreign[0]!r}, which no export has made; name a new or an "
            f"empty folder, or give --overwrite"
        )


def _listed(copies: Sequence[_Copy]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    scorers = sorted({name for copy in copies for name in copy.image.scores})
    writer.writerow(
        ["file", "method", "train_seed", "image_seed", "prompt_set", "row", "prompt", *scorers]
    )
    for copy in copies:
        image = copy.image
        scores = image.base_scores if copy.of_base else image.scores
        line = (
            copy.name,
            "base" if copy.of_base else image.method,
            "" if copy.of_base else image.train_seed,
            image.image_seed,
            image.prompt_set,
            image.row,
            image.prompt,
            *(scores.get(name, "") for name in scorers),
        )
        writer.writerow([escaping.csv_cell(value) for value in line])
    return stream.getvalue().encode("utf-8")


def _place(image: Found) -> tuple[str, int, int, str]:
    """What the images of a line share: prompt, noise, and the base of their evaluation."""
    return image.prompt_set, image.row, image.image_seed, image.base_image


def _sheet(copies: Sequence[_Copy]) -> bytes:
    """A row a prompt and image seed, a column a method and train seed, the base first."""
    from bench.lib.contact_sheet import contact_sheet

    columns: dict[tuple[str, int | None], None] = {}
    rows: dict[tuple[str, int, int, str], dict[tuple[str, int | None], Path]] = {}
    prompts = {}
    for copy in sorted(copies, key=lambda copy: not copy.of_base):
        image = copy.image
        who = ("base", None) if copy.of_base else (image.method, image.train_seed)
        columns[who] = None
        place = _place(image)
        rows.setdefault(place, {})[who] = copy.source
        prompts[place] = image.prompt
    order = {_place(copy.image): None for copy in copies}
    lines = [(prompts[at], [rows[at].get(who) for who in columns]) for at in order][:_MOST_ROWS]
    headings = [who if seed is None else f"{who}, seed {seed}" for who, seed in columns]
    buffer = io.BytesIO()
    contact_sheet(lines, headings).save(buffer, format="PNG")
    return buffer.getvalue()
