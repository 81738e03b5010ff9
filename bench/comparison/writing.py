"""What a comparison leaves: a folder that is a board, each pair, and a contact sheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.comparison.comparing import ESTIMAND, Compared
from bench.comparison.scores import image_files
from bench.comparison.subjects import Subject
from bench.leaderboard import tables
from bench.leaderboard.columns import GAP
from bench.leaderboard.fitted import Column, Fitted
from bench.leaderboard.names import wrapped
from bench.leaderboard.results import Record, record_path, record_text, safe_name
from bench.leaderboard.views import matrix
from bench.lib import contact_sheet, escaping
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.reading import json_value, read_text
from bench.statistics.model import WinRate
from bench.store.store import Store

MARK = "comparison.json"
"""Says which files the comparison has written, and marks the folder as one."""
SHEET_ROWS = 8


def default_place(given: Sequence[str], root: Path) -> Path:
    """Where the comparison of things so named lies, if nobody says where."""
    names = [safe_name(Path(text.rstrip("/")).name) or "images" for text in given]
    return root / "-vs-".join(names)[:120]


def check(out: Path) -> None:
    """Raise `BenchError` if a folder holds anything but an earlier comparison."""
    _earlier(out)


def write(compared: Compared, out: Path, store: Store) -> None:
    """Write the comparison, in the place of an earlier one.

    Raises:
        BenchError: the folder holds something else, or cannot be written.
    """
    files = {name: text.encode("utf-8") for name, text in _texts(compared, out).items()}
    files["contact_sheet.png"] = _sheet(compared, store)
    files[MARK] = _mark(compared, [*files, MARK])
    try:
        for name in _earlier(out):
            if name not in files:
                (out / name).unlink(missing_ok=True)
        for name, data in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out / name, data)
    except OSError as error:
        raise BenchError(f"--out {out}: cannot be written ({error.strerror})") from error


def _earlier(out: Path) -> list[str]:
    """Files that an earlier comparison has written here."""
    if not out.exists():
        return []
    if not out.is_dir():
        raise BenchError(f"--out {out} is a file; name a folder")
    present = sorted(path.name for path in out.iterdir())
    if not present:
        return []
    try:
        files = json_value(read_text(out / MARK), finite=True)["files"]
        return [str(name) for name in files if not Path(name).is_absolute() and ".." not in name]
    except (BenchError, ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"--out {out} holds {present[0]!r} and is no earlier comparison; name a new or an "
            f"empty folder"
        ) from error


def _texts(compared: Compared, out: Path) -> dict[str, str]:
    records: list[Record] = [*compared.prompts.values(), *compared.cells.values()]
    return {
        **{str(record_path(out, r).relative_to(out)): record_text(r) for r in records},
        **tables.render(compared.tables),
        "pairs.csv": _pairs_csv(compared),
    }


def _mark(compared: Compared, files: Sequence[str]) -> bytes:
    data: dict[str, Any] = {
        "base": compared.base,
        "subjects": {
            subject.name: {"given": subject.given, "kind": str(subject.kind)}
            for subject in compared.subjects
        },
        "scorers": list(compared.scorers),
        "notes": [ESTIMAND, *compared.notes],
        "files": sorted(files),
    }
    return (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def _pairs_csv(compared: Compared) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["subject", "other", "win_rate", "low", "high", "prompts", "wins", "ties", "losses"]
    )
    for pair in compared.pairs:
        rate = pair.rate
        figures = (f"{value:.6g}" for value in (rate.win_rate, rate.low, rate.high))
        names = map(escaping.csv_cell, (pair.name, pair.other))
        writer.writerow([*names, *figures, rate.prompts, rate.wins, rate.ties, rate.losses])
    return stream.getvalue()


def against_base(compared: Compared) -> Fitted:
    """Win rates over the base, a column a scorer, for a terminal."""
    (section,) = compared.tables.sections
    rows = [row for row in section.rows if not row.base]
    common = section.ranked_by

    def columns() -> Iterator[Column]:
        if len(common) > 1:
            yield "mean", [_stacked(row.common) for row in rows]
        for scorer in (*common, *(s for s in section.scorers if s not in common)):
            stars = ("*" if scorer in row.in_loop else "" for row in rows)
            rates = (row.scores.get(scorer) for row in rows)
            yield scorer, [_stacked(*pair) for pair in zip(rates, stars, strict=True)]

    names = ["\n".join(wrapped(escaping.printable(row.shown))) for row in rows]
    return Fitted(names, list(columns()), f"over {escaping.printable(compared.base)}")


def _stacked(rate: WinRate | None, star: str = "") -> str:
    if rate is None:
        return GAP
    return f"{100 * rate.win_rate:.1f}%{star}\n[{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def head_to_head(compared: Compared) -> Fitted:
    """Every pair, for a terminal."""
    rates = {(pair.name, pair.other): pair.rate for pair in compared.pairs}
    return matrix(rates, [subject.name for subject in compared.subjects])


def notes(compared: Compared) -> Iterator[str]:
    """What must be known to read the tables."""
    sets = ", ".join(f"{table.name} ({len(table.texts):,})" for table in compared.pairing.tables)
    images = len(compared.pairing.seeds)
    yield (
        f"Paired by prompt: {sets}, {images} image{'s' if images > 1 else ''} each. Ties count one "
        f"half."
    )
    if len(compared.subjects) > 2:
        yield (
            f"Of each pair (here or in pairs.csv): the row wins over the column in so many percent "
            f"[95%, for all pairs at once], over {', '.join(compared.scorers)}."
        )
    if any(subject.in_loop for subject in compared.subjects):
        yield "*: a scorer whose rewards took part in its training, or in the base's."
    yield ESTIMAND
    for note in compared.notes:
        yield f"{note}."


def _sheet(compared: Compared, store: Store) -> bytes:
    """A PNG: the same prompts of all subjects side by side, nothing picked."""
    pairing = compared.pairing
    places = [(t, row) for t, table in enumerate(pairing.tables) for row in range(len(table.texts))]
    chosen = [places[i] for i in contact_sheet.choose_prompts(len(places), SHEET_ROWS)]
    with TemporaryDirectory() as folder:
        columns = [
            _files(compared, number, chosen, store, Path(folder) / str(number))
            for number in range(len(compared.subjects))
        ]
        rows = [
            (pairing.tables[t].texts[row], paths)
            for (t, row), paths in zip(chosen, zip(*columns, strict=True), strict=True)
        ]
        buffer = io.BytesIO()
        names = [subject.name for subject in compared.subjects]
        contact_sheet.contact_sheet(rows, names).save(buffer, format="PNG")
    return buffer.getvalue()


def _files(
    compared: Compared, number: int, chosen: Sequence[tuple[int, int]], store: Store, folder: Path
) -> list[Path | None]:
    """The first paired image of each chosen prompt; None where it is not there."""
    subject, pairing = compared.subjects[number], compared.pairing
    image = pairing.images[number][0]
    matched = pairing.matched[number]
    at = [(matched[t].parts[row], matched[t].rows[row]) for t, row in chosen]
    if subject.images is not None:
        return _found(subject, [int(subject.order[row, image]) for _, row in at], folder)
    if subject.cell is not None:
        stages = [
            subject.cell.samples[subject.parts[p].prompt_set, subject.parts[p].seeds[image]]
            for p, _ in at
        ]
        paths = [
            store.path(stage.name, stage.key) / "images" / f"{row:05d}.png"
            for stage, (_, row) in zip(stages, at, strict=True)
        ]
        return [path if path.is_file() else None for path in paths]
    files = image_files(subject, store.root)
    if files is None:
        return [None] * len(at)
    return [files[p][row * len(subject.parts[p].seeds) + image] for p, row in at]


def _found(subject: Subject, positions: Sequence[int], folder: Path) -> list[Path | None]:
    images = subject.images
    assert images is not None
    if images.column is None:
        return [images.files[position] for position in positions]
    folder.mkdir()
    paths: dict[int, Path] = {}
    ascending = sorted(set(positions))
    for position, data in zip(ascending, images.encoded(ascending), strict=True):
        paths[position] = folder / str(position)
        paths[position].write_bytes(data)
    return [paths[position] for position in positions]
