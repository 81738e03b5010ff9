"""The page in a real browser: keys, a reload, the saved file; no console message, no request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.audit import compared, exporting
from bench.audit.page import PageItem, Picture, render
from bench.audit.votes import load_votes
from bench.lib.images import png
from tests.audit.voting import World

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

    def ready(self) -> None:
        self.until("!document.getElementById('tie').disabled")

    def until(self, holds: str) -> None:
        """Ask from outside: a script that polls within the page is stopped by its policy."""
        for _ in range(500):
            if self.page.evaluate(holds):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"{holds} never held")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.ready()
            self.page.keyboard.press(key)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"), executable_path=CHROMIUM, headless=True, args=QUIET
        )
        browser = Opened(context.new_page())
        browser.watch()
        yield browser
        context.close()


@pytest.mark.parametrize("single_file", [False, True])
def test_a_person_votes(world: World, opened: Opened, tmp_path: Path, single_file: bool) -> None:
    found = compared.load(world.run)
    audit = exporting.prepare(
        found, exporting.images_in(world.store, found), count=12, single_file=single_file
    )
    exporting.write(audit, tmp_path / "asked")
    page = opened.page
    address = (tmp_path / "asked" / "index.html").as_uri()
    page.goto(address)
    assert page.inner_text("#count") == "12"
    page.fill("#rater", "=Ada, L.")
    page.keyboard.press("Enter")
    opened.press("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "Backspace")
    opened.ready()
    assert page.inner_text("#progress") == "4 of 12"
    # Kept, and gone on with.
    page.reload()
    opened.ready()
    assert page.inner_text("#progress") == "4 of 12"
    # A phone: everything is there without scrolling sideways.
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.click("#image-right")
    opened.press(*["ArrowDown"] * 7)
    opened.ready()
    page.click("#choose-left")
    page.wait_for_selector("#end", state="visible")
    with page.expect_download() as download:
        page.click("#download")
    file = tmp_path / download.value.suggested_filename
    assert file.name == "votes-Ada-L.csv"
    download.value.save_as(file)
    votes = load_votes([file], audit.key)
    said = ["left", "right", "tie", "right", *["tie"] * 7, "left"]
    assert [(v.item, v.choice, v.rater) for v in votes] == [
        (number, choice, "=Ada, L.") for number, choice in enumerate(said)
    ]
    # Somebody else begins anew, the first one's votes stay.
    page.click("#next-person")
    page.fill("#rater", "Bo")
    page.keyboard.press("Enter")
    opened.ready()
    assert page.inner_text("#progress") == "1 of 12"
    page.click("#other")
    page.fill("#rater", "=Ada, L.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#end", state="visible")
    assert opened.complaints == []
    assert {request.partition(":")[0] for request in opened.requests} <= {"file", "data", "blob"}


def test_markup_in_a_prompt_stays_text(opened: Opened, tmp_path: Path) -> None:
    hostile = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    picture = Picture("images/a.png", png(Image.new("RGB", (8, 8))))
    files = render("abc", hostile, [PageItem("abc-001", hostile, picture, picture)])
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    opened.page.goto((tmp_path / "index.html").as_uri())
    opened.page.fill("#rater", "me")
    opened.page.keyboard.press("Enter")
    opened.ready()
    assert opened.page.inner_text("#prompt") == hostile
    assert opened.page.title() == "Which picture is better?"
    # The policy stops what a mistake would let in.
    opened.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"document.title=1\" id=bad>')"
    )
    opened.page.dispatch_event("#bad", "click")
    assert opened.page.title() == "Which picture is better?"
    assert len(opened.complaints) == 1
    assert "Content Security Policy" in opened.complaints[0]


def test_a_missing_picture_is_said(opened: Opened, tmp_path: Path) -> None:
    picture = Picture("images/a.png", b"")
    page = render("abc", "?", [PageItem("abc-001", "a prompt", picture, picture)])["index.html"]
    (tmp_path / "index.html").write_bytes(page)
    opened.page.goto((tmp_path / "index.html").as_uri())
    opened.page.fill("#rater", "me")
    opened.page.keyboard.press("Enter")
    opened.until("document.getElementById('trouble').textContent !== ''")
    assert "cannot be shown" in opened.page.inner_text("#trouble")
    assert opened.page.is_disabled("#tie")
