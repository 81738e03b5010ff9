"""The report of a run or a board: what it is made from, and how its files are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from bench.leaderboard import results
from bench.leaderboard.board import BOARD, Board, BoardFile, load_file
from bench.leaderboard.comparing import compare
from bench.leaderboard.run_folder import MARK, RunFolder
from bench.leaderboard.standings import Tables
from bench.lib.errors import BenchError
from bench.lib.escaping import printable
from bench.lib.files import write_atomic
from bench.lib.reading import read_text
from bench.recipe.prompt_table import PromptTable
from bench.report.pictures import Pictures
from bench.store.store import Store

NAME = "report.html"
REMEDY = "pip install 'diffusion-preference-bench[report]'"
_NEEDED = ("altair", "jinja2", "vl_convert")
_PICTURE = re.compile(r"s\d+-\d{5,}-\d{2,}\.webp")
_FIGURE = re.compile(r"s\d+-[a-z0-9-]+\.(svg|pdf|csv)")
_HEAD = 4_000
"""Characters of a page within which it says who wrote it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the report holds."""

    within: bool = False
    """Pictures stand in the page itself."""
    images: bool = True
    figures: bool = False
    """Charts are files too: SVG, PDF, and their data as CSV."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files of a report."""

    files: Mapping[str, bytes]
    """Path below the page's folder -> content, the page last."""
    said: tuple[str, ...]
    """What is missing in it, a sentence each."""


def missing() -> str:
    """Why no report can be made, with the line that mends it; '' where one can be."""
    absent = [name for name in _NEEDED if find_spec(name) is None]
    return f"a report needs {' and '.join(absent)}: {REMEDY}" if absent else ""


def require() -> None:
    """Raise `BenchError` where the extra `report` is not installed."""
    if why := missing():
        raise BenchError(why)


def make(
    cells: Mapping[Path, results.Cell],
    prompts: Mapping[str, PromptTable],
    *,
    title: str,
    store: Path,
    about: str = "",
    recipe: str = "",
    tables: Tables | None = None,
    page: str = NAME,
    choice: Choice = Choice(),
) -> Report:
    """The report of some results, as bytes.

    Args:
        cells: the results.
        prompts: their prompts, by hash.
        title: of the page.
        about: what the board is, in words; '' if nobody says.
        store: folder of the store whose samples are shown.
        recipe: YAML of the run; '' for a board.
        tables: the standings of these cells; made here where they are not given.
        page: name of the page's file.
        choice: what it holds.

    Raises:
        BenchError: the extra `report` is missing, or as `compare`.
    """
    require()
    from bench.report import charts, drawing, gallery, pictures
    from bench.report import page as pages
    from bench.report.views import section_view

    beside, files, said, parts = Path(page).stem, dict[str, bytes](), [], []
    where = Store(store)
    sections = (tables or compare(cells, prompts)).sections
    for number, section in enumerate(sections):
        view = section_view(section, cells, number)
        shown = gallery.gallery(view, section, cells, prompts)
        collected = Pictures()
        if choice.images:
            most = pictures.prompts_shown(shown, choice.within)
            chosen = gallery.choose(shown, most)
            collected = pictures.collect(
                shown, chosen, where, beside, view.id, within=choice.within
            )
        files |= {f"{beside}/{name}": data for name, data in collected.files.items()}
        said += [collected.said] if collected.said else []
        left_out = " ".join(text for text in (shown.left_out, collected.said) if text)
        json = gallery.payload(shown, view, collected.urls)
        parts.append(pages.Part(view=view, gallery=json, about_gallery=left_out))
        if choice.figures:
            drawn = drawing.files(charts.of(view))
            files |= {f"figures/{view.id}-{name}": data for name, data in drawn.items()}
    made_by = version("diffusion-preference-bench")
    # Not the folder's name: the same run gives the same page wherever it is written.
    title = title or ", ".join(dict.fromkeys(name for s in sections for name in s.recipes))
    files[page] = pages.render(title, about, parts, recipe, made_by).encode()
    return Report(files=files, said=tuple(dict.fromkeys(said)))


def of_folder(folder: Path, store: Path, choice: Choice = Choice(), *, page: str = NAME) -> Report:
    """The report of a run's folder or a board.

    Raises:
        BenchError: it holds no results, or they make no board.
    """
    if not (folder / "results").is_dir():
        raise BenchError(
            f"{folder} is neither a run's folder nor a board (it has no results/); name one, such "
            f"as bench-runs/shapes or leaderboards/shapes"
        )
    cells, prompts = results.load_cells(folder), results.load_prompts(folder)
    recipe = folder / "recipe.yaml"
    text = read_text(recipe) if recipe.is_file() else ""
    title, about = _said_of(folder, load_file(folder) if is_board(folder) else None)
    title = "" if text else title
    return make(
        cells,
        prompts,
        title=title,
        about=about,
        store=store,
        recipe=text,
        page=page,
        choice=choice,
    )


def _said_of(folder: Path, file: BoardFile | None) -> tuple[str, str]:
    """A title for its page, and what it is; '' if nobody says."""
    if file is None:
        return folder.resolve().name, ""
    return file.title, printable(" ".join(file.description.split()))


def is_board(folder: Path) -> bool:
    """Whether a folder is a board whose page `bench leaderboard build` writes and `check` reads."""
    return (folder / BOARD).is_file()


def place(folder: Path, out: Path | None) -> Path:
    """Where the page shall lie: a file of that name, or `report.html` in a folder.

    Raises:
        BenchError: `out` is a file of another kind.
    """
    if out is None:
        return folder / NAME
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        return out
    if out.is_file():
        raise BenchError(f"--out {out} is a file; name a folder, or a file that ends in .html")
    return out / NAME


def write(report: Report, page: Path) -> list[Path]:
    """Put a report's files in place; in a run's folder as its other outputs are.

    Returns:
        Where those lie now that somebody had changed in a run's folder.

    Raises:
        BenchError: something else has the name of a file or folder.
    """
    folder = page.parent
    if (folder / MARK).exists():
        with RunFolder(folder).held() as held:
            return held.replace(report.files)
    _refuse_others(report, page)
    for name, data in report.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, data)
    return []


def board_pages(board: Board, tables: Tables) -> dict[str, str]:
    """The page of a board, without pictures: what `board.render` is given to make besides.

    {} where the extra is not installed.
    """
    if missing():
        return {}
    title, about = _said_of(board.folder, board.file)
    choice = Choice(images=False)
    made = make(
        board.cells,
        board.prompts,
        title=title,
        about=about,
        store=board.folder,
        tables=tables,
        choice=choice,
    )
    return {name: data.decode() for name, data in made.files.items()}


def checked_pages(board: Board, tables: Tables) -> dict[str, str]:
    """As `board_pages`, of a board whose page is to be compared with what it should be.

    {} where other versions of the libraries have drawn the page: their bytes are theirs. Neither
    is there anything to compare where it has no page.
    """
    page = board.folder / NAME
    if missing() or not page.is_file():
        return {}
    from bench.report.page import drawn_by

    if f'content="{drawn_by()}"' not in read_text(page)[:_HEAD]:
        return {}
    return board_pages(board, tables)


def add_to_run(
    folder: Path, store: Path, say: Callable[[str], None], choice: Choice = Choice()
) -> bool:
    """Write the report of a run into its folder, where the extra is installed.

    Args:
        folder: of a run.
        store: where its samples are.
        say: is told what is missing, and which changed files were kept.
        choice: what the report holds.

    Returns:
        Whether there is a report now.
    """
    if why := missing():
        say(f"no report: {why}")
        return False
    report = of_folder(folder, store, choice)
    for path in write(report, folder / NAME):
        say(f"kept {path}: what lay there had been changed since a run wrote it")
    for sentence in report.said:
        say(f"report: {sentence}")
    return True


def _refuse_others(report: Report, page: Path) -> None:
    """Raise `BenchError` where a file or folder of that name is none of a report's."""
    from bench.report.page import GENERATOR

    if page.is_symlink() or (page.exists() and not page.is_file()):
        raise BenchError(f"{page} is no regular file; name another --out")
    if page.exists() and f'content="{GENERATOR}"' not in read_text(page)[:_HEAD]:
        raise BenchError(f"{page} was not written by `bench report`; name another --out")
    for folder in sorted({Path(name).parts[0] for name in report.files if "/" in name}):
        place = page.parent / folder
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise BenchError(f"{place} is no folder; name another --out")
        own = _FIGURE if folder == "figures" else _PICTURE
        others = [p.name for p in sorted(place.glob("*")) if not own.fullmatch(p.name)]
        if others:
            raise BenchError(
                f"{place} holds {others[0]!r}, which no report has made; name another --out"
            )
