"""The page in a real browser: no console message, no request, and everything on it works."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.leaderboard.comparing import compare
from bench.leaderboard.results import Cell, CellResult, PromptSetScores, save_record
from bench.recipe.prompt_table import PromptTable
from bench.report import writing
from bench.report.writing import Choice
from bench.stages.sample import image_in
from bench.store.store import Store
from tests.leaderboard import small_board

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LIGHTNESS = """element => {
  const [r, g, b] = getComputedStyle(element).backgroundColor.match(/\\d+/g).map(Number);
  return (r + g + b) / 765;
}"""
CONTRAST = """() => {
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = rgb => {
    const [r, g, b] = rgb.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('main *, header *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.disabled || e.closest('script, option')) continue;
    const style = getComputedStyle(e);
    const ink = e instanceof SVGElement ? style.fill : style.color;
    if (!ink.startsWith('rgb')) continue;
    const [light, dark] = [luminance(numbers(ink).slice(0, 3)), luminance(ground(e))]
      .sort((a, b) => b - a);
    if ((light + 0.05) / (dark + 0.05) < 4.5) poor.push(`${e.tagName} ${e.textContent}`);
  }
  return poor;
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@dataclass
class Opened:
    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            args=QUIET,
            color_scheme="light",
            reduced_motion="reduce",
            viewport={"width": 1280, "height": 900},
        )
        browser = Opened(context.new_page())
        browser.watch()
        yield browser
        context.close()
        # Its own page and pictures, from disk or from within.
        assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
        assert not browser.complaints


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with pictures: three methods, prompts that are markup."""
    folder = tmp_path_factory.mktemp("drawn")
    store = Store(folder / "store")
    parti = dataclasses.replace(
        small_board.PARTI,
        texts=tuple(f"<img src=x onerror=alert({i})> bird {i}" for i in range(40)),
    )
    prompts = {"parti": parti.sha256, "styles": small_board.STYLES.sha256}
    evaluation = dataclasses.replace(small_board.EVALUATION, prompts=prompts)
    board = folder / "board"
    for table in (parti, small_board.STYLES):
        save_record(board, table)
    finished = [cell for cell in small_board.cells() if isinstance(cell, CellResult)]
    for number, cell in enumerate(finished):
        parts = []
        for part in cell.evaluations:
            keys = tuple(f"{number}{seed}{len(part.prompt_set)}" for seed in part.image_seeds)
            own = dataclasses.replace(part, samples=keys, prompts_sha256=prompts[part.prompt_set])
            parts.append(own)
            for key in keys:
                for row in range(part.prompts):
                    path = image_in(store.path("sample", key), row)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("RGB", (24, 24), (40 * number, 5 * row, 90)).save(path)
        changed = dataclasses.replace(cell, evaluations=tuple(parts), evaluation=evaluation)
        save_record(board, changed)
    return folder


@pytest.mark.parametrize("single_file", [False, True])
def test_a_reader_sorts_filters_and_enlarges(
    drawn: Path, opened: Opened, single_file: bool
) -> None:
    choice = Choice(within=single_file)
    report = writing.of_folder(drawn / "board", drawn / "store", choice)
    out = drawn / f"out-{single_file}" / "report.html"
    writing.write(report, out)
    page = opened.page
    page.goto(out.as_uri())

    # The board sorts, by numbers and by names.
    heading = page.locator(".lead th", has_text="win rate")
    rates = ".lead tbody td:nth-child(4) strong"
    for order in ("ascending", "descending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == order
        shown = [float(text.strip("%")) for text in page.locator(rates).all_inner_texts()]
        assert shown == sorted(shown, reverse=order == "descending")
    assert len(shown) == 3

    # The gallery: found by words and by group, pages, orders.
    count = page.locator(".count")
    assert count.inner_text() == "120 of 120 images"
    page.get_by_role("button", name="Next").click()
    assert "page 2 of 5" in page.inner_text(".pages")
    page.fill("input[name=text]", "BIRD 12")
    assert count.inner_text() == "2 of 120 images"
    assert page.inner_text(".item .prompt >> nth=0") == "<img src=x onerror=alert(12)> bird 12"
    page.fill("input[name=text]", "")
    page.select_option("select[name=group]", label="category: Animals")
    assert count.inner_text() == "40 of 120 images"
    page.select_option("select[name=group]", label="all")
    page.select_option("select[name=scorer]", label="gold")
    page.select_option("select[name=order]", "wins")
    dpo = ".item .strip figure:nth-child(2) .said dd:nth-of-type(2)"
    leads = [
        float(text.split()[1].replace("−", "-")) for text in page.locator(dpo).all_inner_texts()
    ]
    chosen = page.input_value("select[name=method]")
    assert chosen == "1"
    assert leads == sorted(leads, reverse=True)
    assert leads[0] > 0
    page.select_option("select[name=order]", "place")

    # Enlarged, and walked through by keys.
    page.wait_for_function(
        "[...document.querySelectorAll('.strip img')].slice(0, 4).every(i => i.naturalWidth == 24)"
    )
    page.locator(".strip .open").nth(1).press("Enter")
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    where = viewer.locator(".where")
    before = where.inner_text()
    page.keyboard.press("ArrowRight")
    assert where.inner_text().split(" · ")[0] != before.split(" · ")[0]
    page.keyboard.press("ArrowLeft")
    assert where.inner_text() == before
    page.keyboard.press("ArrowDown")
    assert "noise 1" in where.inner_text()
    page.keyboard.press("ArrowUp")
    assert where.inner_text() == before
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert page.evaluate("document.activeElement.className") == "open"

    # What a chart's mark is, for who points at it.
    page.locator(".chart .mark").first.hover()
    assert "%" in page.inner_text("#tip")


def test_light_and_dark_phone_and_wide(drawn: Path, opened: Opened) -> None:
    report = writing.of_folder(drawn / "board", drawn / "store", Choice())
    out = drawn / "out" / "report.html"
    writing.write(report, out)
    page = opened.page
    page.goto(out.as_uri())
    for width in (320, 390, 768, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    body = page.locator("body")
    assert body.evaluate(LIGHTNESS) > 0.9
    assert page.evaluate(CONTRAST) == []
    page.click("#theme")
    assert body.evaluate(LIGHTNESS) < 0.2
    assert page.evaluate(CONTRAST) == []
    page.emulate_media(color_scheme="dark")
    page.evaluate("localStorage.clear()")
    page.reload()
    assert body.evaluate(LIGHTNESS) < 0.2


def test_a_picture_that_is_gone_leaves_words(drawn: Path, opened: Opened) -> None:
    report = writing.of_folder(drawn / "board", drawn / "store", Choice())
    out = drawn / "gone" / "report.html"
    writing.write(report, out)
    (out.parent / "report" / "s0-00000-01.webp").unlink()
    page = opened.page
    page.goto(out.as_uri())
    page.locator(".absent", has_text="picture not found").wait_for()
    assert [text for text in opened.complaints if "ERR_FILE_NOT_FOUND" not in text] == []
    opened.complaints.clear()


def _big(
    methods: int, prompts: int, scorers: int, seeds: int
) -> tuple[dict[Path, Cell], dict[str, PromptTable]]:
    """A board of many results, made from seeds."""
    table = PromptTable(
        name="parti",
        texts=tuple(f"prompt {i} of a painter of the {i % 21}th century" for i in range(prompts)),
        groups=tuple(
            {"category": f"kind {i % 12}", "challenge": str(i % 11)} for i in range(prompts)
        ),
    )
    names = [f"scorer{k}" for k in range(scorers)]
    evaluation = dataclasses.replace(
        small_board.EVALUATION,
        image_seeds=(0,),
        prompts={"parti": table.sha256},
        scorers={name: {"name": name} for name in names},
    )
    rng = np.random.default_rng(0)
    base = rng.normal(size=(scorers, prompts))

    def cell(method: str, seed: int, lift: float) -> CellResult:
        values = base + lift + 0.6 * rng.normal(size=base.shape) * bool(lift)
        scores = {name: tuple(row.tolist()) for name, row in zip(names, values, strict=True)}
        part = PromptSetScores(
            prompt_set="parti",
            prompts_sha256=table.sha256,
            prompts=prompts,
            image_seeds=(0,),
            scores=scores,
        )
        made = small_board.cell(method, seed=seed)
        return dataclasses.replace(
            made, evaluation=evaluation, evaluations=(part,), held_out=(names[-1],)
        )

    cells: dict[Path, Cell] = {Path("base"): cell("base", 0, 0.0)}
    for number in range(methods):
        for seed in range(seeds):
            name = f"method{number:02d}[beta={number}]"
            cells[Path(f"{name}-{seed}")] = cell(name, seed, 0.02 * (number - methods / 3) or 0.001)
    return cells, {table.sha256: table}


def test_fifty_methods_on_thousands_of_prompts_stay_small_and_quick(
    opened: Opened, tmp_path: Path
) -> None:
    """Bar: under 15 MB without pictures, open within 3 s."""
    cells, prompts = _big(50, 3200, 8, 3)
    tables = compare(cells, prompts)
    report = writing.make(
        cells, prompts, title="big", store=tmp_path, tables=tables, choice=Choice(images=False)
    )
    html = report.files[writing.NAME]
    assert len(html) < 15e6
    (tmp_path / "big.html").write_bytes(html)
    began = time.monotonic()
    opened.page.goto((tmp_path / "big.html").as_uri())
    opened.page.locator(".item").first.wait_for()
    assert time.monotonic() - began < 3
    opened.page.fill("input[name=text]", "prompt 3199")
    assert opened.page.inner_text(".count") == "1 of 3,200 prompts"
    opened.page.set_viewport_size({"width": 390, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
