"""Where a report goes, with what pictures, and what it never overwrites."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path
from shutil import copytree

import pytest
from PIL import Image

from bench.leaderboard import board as boards
from bench.leaderboard.results import load_cells, save_record
from bench.leaderboard.run_folder import RunFolder
from bench.lib.errors import BenchError
from bench.report import pictures, writing
from bench.report.writing import Choice
from bench.stages.sample import image_in
from bench.store.store import Store
from tests.commands import Bench, in_folder
from tests.leaderboard import small_board
from tests.report.reading import parse

SHAPES = Path(__file__).parents[2] / "leaderboards" / "shapes"


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    return in_folder(tmp_path, monkeypatch, capsys)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board whose first prompt set was drawn from two methods; one picture is gone."""
    store = Store(tmp_path / "store")
    cells = [small_board.cell("base"), small_board.cell("dpo", lift=0.3)]
    for number, cell in enumerate(cells):
        parts = []
        for part in cell.evaluations:
            keys = tuple(f"{number}{seed}{len(part.prompt_set)}" for seed in part.image_seeds)
            parts.append(dataclasses.replace(part, samples=keys))
            for seed, key in enumerate(keys):
                for row in range(part.prompts):
                    path = image_in(store.path("sample", key), row)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (16, 12), (40 * number, row, 90 * seed)).save(path)
        cells[number] = dataclasses.replace(cell, evaluations=tuple(parts))
    image_in(store.path("sample", "115"), 3).unlink()
    return small_board.save(tmp_path / "board", list(cells))


def decoded(url: str) -> Image.Image:
    data = base64.b64decode(url.removeprefix("data:image/webp;base64,"))
    return Image.open(io.BytesIO(data))


def test_pictures_lie_beside_the_page_or_within_it(board: Path, bench: Bench) -> None:
    code, said, _ = bench("report", "board", "--store", "store")
    assert code == 0
    assert "1 of 240 pictures are not in the store;" in said
    page = parse((board / "report.html").read_bytes())
    shown = page.gallery()["pictures"]
    urls = [url for urls in shown.values() for url in urls if url]
    assert len(urls) == len(set(urls)) == 239
    assert all((board / url).is_file() for url in urls)
    assert {path.name for path in (board / "report").iterdir()} == {Path(u).name for u in urls}
    assert shown["7"] == ["report/s0-00007-00.webp", None]
    with Image.open(board / shown["12"][1]) as image:
        assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((16, 12), (40, 6, 0))

    code, said, _ = bench(
        "report", "board", "--store", "store", "--single-file", "--out", "one.html"
    )
    assert code == 0
    one = parse(Path("one.html").read_bytes()).gallery()["pictures"]
    assert decoded(one["13"][1]).convert("RGB").getpixel((0, 0)) == (40, 6, 90)
    assert not Path("one").exists()


def test_a_run_is_found_by_its_name(board: Path, bench: Bench) -> None:
    runs = board.parent / "bench-runs"
    runs.mkdir()
    board.rename(runs / "mine")
    code, _, err = bench("report", "mine", "--no-images")
    assert (code, err) == (0, "")
    assert (runs / "mine" / "report.html").is_file()


def test_a_boards_own_page_is_the_one_that_is_checked(bench: Bench) -> None:
    board = Path("leaderboards", "mine")
    copytree(SHAPES, board)
    (board / "report.html").unlink()
    code, said, _ = bench("report", "mine")
    assert code == 0
    assert "--out makes one with them" in said
    assert bench("leaderboard", "check", "mine")[0] == 0
    page = parse((board / "report.html").read_bytes())
    assert page.one("p", class_="note about").text.startswith("The embedded world")


def test_without_pictures_the_page_says_so(board: Path, bench: Bench) -> None:
    code, said, _ = bench("report", "board", "--store", "elsewhere")
    assert code == 0
    assert "240 of 240 pictures are not in the store;" in said
    page = parse((board / "report.html").read_bytes())
    assert page.gallery()["pictures"] == {}
    assert "240 of 240 pictures are not in the store" in page.one("section", class_="gallery").text
    assert not (board / "report").exists()
    code, said, _ = bench("report", "board", "--no-images")
    assert "pictures" not in said


def test_a_report_is_written_again_and_over_nothing_else(board: Path, bench: Bench) -> None:
    for _ in range(2):
        assert bench("report", "board", "--store", "store", "--figures", "--out", "there")[0] == 0
    assert Path("there/figures/s0-board.pdf").is_file()
    Path("mine.html").write_text("<p>mine")
    code, _, problem = bench("report", "board", "--out", "mine.html")
    assert (code, Path("mine.html").read_text()) == (1, "<p>mine")
    assert "mine.html was not written by `bench report`" in problem
    Path("there/report/holiday.jpg").write_bytes(b"")
    code, _, problem = bench("report", "board", "--store", "store", "--out", "there")
    assert code == 1
    assert "holds 'holiday.jpg', which no report has made" in problem
    Path("file").write_text("")
    assert (
        "name a folder, or a file that ends in .html"
        in bench("report", "board", "--out", "file")[2]
    )
    code, _, problem = bench("report", "there")
    assert code == 1
    assert "there is neither a run's folder nor a board" in problem


def test_in_a_runs_folder_what_somebody_changed_is_kept(board: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cells = load_cells(board)
    with RunFolder(run).held():
        for table in small_board.TABLES:
            save_record(run, table)
        for cell in cells.values():
            save_record(run, cell)
    said: list[str] = []
    assert writing.add_to_run(run, tmp_path / "store", said.append)
    assert said == [
        "report: 1 of 240 pictures are not in the store; "
        "`bench report --store STORE` names another."
    ]
    first = (run / "report.html").read_bytes()
    (run / "report.html").write_text("changed")
    assert writing.add_to_run(run, tmp_path / "store", said.append)
    assert (run / "report.html").read_bytes() == first
    assert (run / "report.html.kept").read_text() == "changed"
    assert said[1].startswith(f"kept {run / 'report.html.kept'}")


def test_many_pictures_are_cut_to_a_number_that_opens(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST", 20)
    report = writing.of_folder(board, tmp_path / "store", Choice())
    assert sum(name.endswith(".webp") for name in report.files) <= 20
    assert any("Pictures of 10 of 120 prompts" in sentence for sentence in report.said)


def test_results_that_know_no_pictures_have_none(tmp_path: Path) -> None:
    board = small_board.save(tmp_path, small_board.cells())
    report = writing.of_folder(board, tmp_path / "store", Choice())
    assert report.said == ("The results do not say where their pictures are, so none are shown.",)


def test_a_folder_that_is_no_board(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no results/"):
        writing.of_folder(tmp_path, tmp_path)


def test_a_boards_page_is_built_and_checked_with_its_tables(tmp_path: Path) -> None:
    folder = small_board.save(tmp_path, [small_board.cell("base"), small_board.cell("dpo")])
    boards.write(folder, (writing.board_pages,))
    boards.check(folder, (writing.checked_pages,))
    page = folder / "report.html"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole.replace("a picture of 3 birds", "a picture of 4 birds"), encoding="utf-8")
    with pytest.raises(BenchError, match=r"report\.html not as the result files give"):
        boards.check(folder, (writing.checked_pages,))
    # Drawn by other versions, whose bytes are theirs; or never asked for.
    page.write_text(whole.replace("altair ", "altair 0."), encoding="utf-8")
    boards.check(folder, (writing.checked_pages,))
    page.unlink()
    boards.check(folder, (writing.checked_pages,))
