"""The page: valid, closed to everything outside, and nothing in it but text runs from prompts."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.leaderboard.results import CellResult, load_cells, load_prompts
from bench.lib.errors import BenchError
from bench.recipe.prompt_table import PromptTable
from bench.report import gallery, views, writing
from bench.report.page import drawn_by
from bench.report.writing import Choice
from tests.leaderboard import small_board
from tests.report.reading import Page, parse

SHAPES = Path(__file__).parents[2] / "leaderboards" / "shapes"
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- <script> --> ]]> &lt;b&gt; \u2028 {{ 7 * 7 }} {% raw %}",
    "\"' onmouseover='alert(1)' x=\"",
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_board.save(tmp_path_factory.mktemp("board"), small_board.cells())


def made(board: Path, **changes: Any) -> writing.Report:
    choice = Choice(**{"images": False, **changes})
    return writing.of_folder(board, board / "store", choice)


@pytest.fixture(scope="module")
def page(board: Path) -> Page:
    return parse(made(board).files[writing.NAME])


def test_a_page_says_what_the_board_says(page: Page, board: Path) -> None:
    from bench.leaderboard.comparing import build

    (section,) = build(board).sections
    assert page.one("h1").text == section.answer
    lead = page.one("table", class_="sortable lead ranked")
    for row in section.rows:
        assert row.label or row.shown in lead.text
        if row.common:
            assert f"{100 * row.common.win_rate:.1f}%" in lead.text
    assert "loss is not finite at step 3" in "".join(e.text for e in page.all("li"))
    signatures = page.one("dl", class_="signatures").text
    assert "Diffusion-DPO" in signatures
    assert f"protocol:{section.protocol[:8]}|scorer:gold" in signatures
    data = page.gallery()
    assert data["methods"][0]["name"] == "base"
    assert len(data["texts"]) == (40 + 20) * 2


def test_nothing_from_outside_and_only_its_own_script_and_style_may_run(page: Page) -> None:
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"] or ""
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'"
    assert parts["img-src"] == "'self' data:"
    assert "unsafe" not in policy
    scripts = [s for s in page.all("script") if s.attributes.get("type") != "application/json"]
    for tag, (element,) in (("script", scripts), ("style", page.all("style"))):
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert parts[f"{tag}-src"] == f"'sha256-{digest}'"
    for element in page.elements:
        names = set(element.attributes)
        assert not {name for name in names if name.startswith("on") or name == "style"}
        for name in names & {"src", "href", "xlink:href", "action"}:
            assert re.match("#|data:,", element.attributes[name] or ""), element


@pytest.fixture(scope="module")
def shapes() -> Page:
    """The page of the committed board."""
    return parse(made(SHAPES).files[writing.NAME])


def hostile_board(folder: Path) -> Path:
    """Prompts, groups, labels, methods and reasons that are markup."""
    parti = dataclasses.replace(
        small_board.PARTI,
        texts=tuple(f"{HOSTILE[i % 4]} {i}" for i in range(40)),
        groups=tuple({f"<b>{i % 2}": HOSTILE[i % 3]} for i in range(40)),
    )
    prompts = {"parti": parti.sha256, "styles": small_board.STYLES.sha256}
    evaluation = dataclasses.replace(small_board.EVALUATION, prompts=prompts)

    def with_it(cell: Any) -> Any:
        both = {"evaluation": evaluation, "recipe": HOSTILE[0]}
        if not isinstance(cell, CellResult):
            return dataclasses.replace(cell, reason=HOSTILE[0], **both)
        parts = [
            dataclasses.replace(part, prompts_sha256=prompts[part.prompt_set])
            for part in cell.evaluations
        ]
        label = HOSTILE[1] if cell.label else ""
        curve = {"step": (1.0, 2.0), HOSTILE[2]: (0.5, 0.25)} if cell.training else {}
        changes = {**both, "evaluations": tuple(parts), "label": label, "curve": curve}
        return dataclasses.replace(cell, **changes)

    from bench.leaderboard.results import save_record

    for table in (parti, small_board.STYLES):
        save_record(folder, table)
    for cell in small_board.cells():
        save_record(folder, with_it(cell))
    (folder / "recipe.yaml").write_text(f"name: {HOSTILE[0]}\n")
    return folder


def test_markup_in_prompts_labels_groups_and_recipes_stays_text(tmp_path: Path, page: Page) -> None:
    html = made(hostile_board(tmp_path)).files[writing.NAME].decode()
    hostile = parse(html)
    assert [e.tag for e in hostile.all("script")] == [e.tag for e in page.all("script")]
    assert not hostile.all("img")
    assert not hostile.all("b")
    assert not {n for e in hostile.elements for n in e.attributes if n.startswith("on")}
    data = hostile.gallery()
    texts = [text.rsplit(" ", 1)[0] for text in data["texts"][:8:2]]
    assert texts == list(HOSTILE)
    assert HOSTILE[0] in hostile.one("pre").text
    assert HOSTILE[1] in hostile.one("table", class_="sortable lead ranked").text
    assert "7 * 7" in html
    # No text of the data may end its element or begin a comment in it.
    start = html.index('id="s0-data"')
    raw = html[html.index(">", start) + 1 : html.index("</script>", start)]
    assert not set("<>&") & set(raw)


def test_the_same_results_give_the_same_bytes_in_any_process(board: Path) -> None:
    code = (
        "import sys, hashlib, pathlib\n"
        "from bench.report import writing\n"
        "b = pathlib.Path(sys.argv[1])\n"
        "c = writing.Choice(images=False, figures=True)\n"
        "r = writing.of_folder(b, b / 'store', c)\n"
        "print({n: hashlib.sha256(d).hexdigest() for n, d in sorted(r.files.items())})\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(board)]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    # This process has drawn charts before: what it counts does not show.
    files = made(board, figures=True).files
    ours = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    assert str(ours) == other


def test_figures_are_drawn_with_their_data(board: Path) -> None:
    files = made(board, figures=True).files
    names = {Path(name).stem for name in files if name.startswith("figures/")}
    assert {"s0-board", "s0-cost", "s0-groups-0", "s0-groups-1"} <= names
    for name in names:
        assert files[f"figures/{name}.svg"].startswith(b"<svg")
        assert files[f"figures/{name}.pdf"].startswith(b"%PDF")
        header, *lines = files[f"figures/{name}.csv"].decode().splitlines()
        assert lines
        assert {line.count(",") >= header.count(",") for line in lines} == {True}
    (row,) = [r for r in files["figures/s0-board.csv"].decode().splitlines() if "Diffusion" in r]
    assert row.split(",")[-1] == "checkpoint"


def test_charts_in_the_page_share_no_name_and_say_what_they_show(shapes: Page) -> None:
    page = shapes
    ids = [e.attributes["id"] for e in page.elements if e.attributes.get("id")]
    assert len(ids) == len(set(ids))
    charts = page.all("svg", class_="chart")
    assert len(charts) >= 4
    marks = page.all("path", class_="mark")
    said = [mark.attributes["aria-label"] or "" for mark in marks]
    assert any("smpo: 111 s of training, 59.7%" in text for text in said)
    assert all(m.attributes["role"] == "img" for m in marks)
    for table in page.all("table"):
        assert "nan" not in table.text.lower().split()
    for link in page.all("a"):
        assert (link.attributes["href"] or "")[1:] in ids


def test_every_number_is_that_of_the_results_to_16_bits(shapes: Page) -> None:
    cells, prompts = load_cells(SHAPES), load_prompts(SHAPES)
    from bench.leaderboard.comparing import compare

    (section,) = compare(cells, prompts).sections
    view = views.section_view(section, cells, 0)
    shown = gallery.gallery(view, section, cells, prompts)
    data = shapes.gallery()
    levels = np.frombuffer(base64.b64decode(data["scores"]), "<u2").reshape(shown.scores.shape)
    low, high = np.array(data["ends"]).T[:, None, :, None]
    values = low + (high - low) * levels / gallery.LEVELS
    assert np.abs(values - shown.scores).max() <= ((high - low) / gallery.LEVELS).max()
    smpo = shown.names.index("smpo")
    cell = next(c for c in cells.values() if c.method == "smpo" and c.seed == 0)
    assert isinstance(cell, CellResult)
    part = next(p for p in cell.evaluations if p.prompt_set == "shapes-parti")
    item = next(
        i for i, it in enumerate(shown.items) if (it.prompt_set, it.row) == ("shapes-parti", 7)
    )
    assert shown.scores[smpo, shown.scorers.index("gold"), item] == part.scores["gold"][7]
    assert shown.items[item].text == prompts[part.prompts_sha256].texts[7]


def test_scores_that_are_missing_or_all_alike_are_shown_as_such() -> None:
    scores = np.array([[[1.0, 1.0]], [[np.nan, 1.0]]])
    ends, levels = gallery.quantised(scores)
    assert levels.tolist() == [[[0, 0]], [[gallery.MISSING, 0]]]
    assert ends.tolist() == [[1.0, 1.0]]


def test_more_pictures_than_there_is_room_for_are_those_worth_a_look() -> None:
    count = 400
    scores = np.zeros((3, 1, count))
    scores[0, 0] = np.arange(count) % 7
    scores[1:] = scores[0]
    scores[1, 0, 123], scores[1, 0, 321], scores[2, 0, 77] = 50, -50, 60
    item = gallery.Item(prompt_set="p", row=0, image_seed=0, text="", groups=())
    shown = gallery.Gallery(
        names=("base", "a", "b"),
        seeds=(0, 0, 0),
        scorers=("s",),
        items=(item,) * count,
        scores=scores,
        pictures=(),
        left_out="",
    )
    chosen = gallery.choose(shown, 40)
    assert len(chosen) == 40
    assert {123, 321, 77} <= set(chosen)
    assert max(np.diff(chosen)) <= count / 12
    assert gallery.choose(shown, count) == tuple(range(count))


def test_methods_without_a_score_in_common_are_chosen_from_all_the_same() -> None:
    item = gallery.Item(prompt_set="p", row=0, image_seed=0, text="", groups=())
    scores = np.full((2, 1, 30), np.nan)
    shown = gallery.Gallery(
        names=("base", "a"),
        seeds=(0, 0),
        scorers=("s",),
        items=(item,) * 30,
        scores=scores,
        pictures=(),
        left_out="",
    )
    assert shown.spread.tolist() == [1.0]
    assert len(gallery.choose(shown, 12)) == 12


@pytest.mark.parametrize("missing", ["altair", "jinja2", "vl_convert"])
def test_without_the_extra_the_line_that_installs_it_is_said(
    missing: str, monkeypatch: pytest.MonkeyPatch, board: Path, tmp_path: Path
) -> None:
    found = writing.find_spec
    monkeypatch.setattr(writing, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(BenchError, match=r"pip install 'diffusion-preference-bench\[report\]'"):
        made(board)
    said: list[str] = []
    assert not writing.add_to_run(tmp_path, tmp_path, said.append)
    assert said == [f"no report: a report needs {missing}: {writing.REMEDY}"]
    assert not list(tmp_path.iterdir())


def test_a_table_of_prompts_without_groups(tmp_path: Path) -> None:
    texts = small_board.PARTI.texts
    table = PromptTable(name="parti", texts=texts, groups=tuple({} for _ in texts))
    evaluation = dataclasses.replace(small_board.EVALUATION, prompts={"parti": table.sha256})
    from bench.leaderboard.results import save_record

    save_record(tmp_path, table)
    for cell in (small_board.cell("base"), small_board.cell("dpo")):
        (part, _) = cell.evaluations
        part = dataclasses.replace(part, prompts_sha256=table.sha256)
        save_record(tmp_path, dataclasses.replace(cell, evaluation=evaluation, evaluations=(part,)))
    page = parse(made(tmp_path).files[writing.NAME])
    assert page.gallery()["groups"] == []


def test_a_fork_of_a_process_that_has_drawn_draws_too(board: Path) -> None:
    """vl-convert's threads are not in a fork, which would wait for them for ever."""
    first = made(board).files[writing.NAME]
    reading, writing_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing_end, hashlib.sha256(made(board).files[writing.NAME]).digest())
        finally:
            os._exit(0)
    os.close(writing_end)
    ready, _, _ = select.select([reading], [], [], 100)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert ready, "it hangs"
    assert os.read(reading, 100) == hashlib.sha256(first).digest()


def test_what_lies_beside_the_win_rates_is_shown(shapes: Page) -> None:
    page = shapes
    tables = [t.text.strip() for t in page.all("table", class_="sortable plainly")]
    assert any(text.startswith("scorergold") for text in tables)
    titles = {e.text for e in page.all("h3")}
    assert {"How much", "At what price", "Scorer agreement", "Costs", "Signatures"} <= titles


def test_a_method_that_games_its_scorer_is_marked(tmp_path: Path) -> None:
    def gamed(seed: int) -> CellResult:
        cell = small_board.cell("smpo", seed=seed, in_loop=("colour",))
        parts = []
        for part in cell.evaluations:
            base = next(p for p in untouched.evaluations if p.prompt_set == part.prompt_set).scores
            scores = {
                "colour": tuple(value + 1 for value in base["colour"]),
                "gold": tuple(value - 1 for value in base["gold"]),
                "shape": base["shape"],
            }
            parts.append(dataclasses.replace(part, scores=scores))
        return dataclasses.replace(cell, evaluations=tuple(parts))

    untouched = small_board.cell("base")
    board = small_board.save(tmp_path, [untouched, gamed(0), gamed(1)])
    page = parse(made(board).files[writing.NAME])
    (mark,) = page.all("span", class_="warning")
    assert mark.text.startswith("proxy up (colour")
    assert "gold down" in mark.text


def test_protocols_stand_apart_on_one_page(tmp_path: Path) -> None:
    longer = dataclasses.replace(small_board.cell("dpo", lift=0.2), training=small_board.steps(20))
    board = small_board.save(tmp_path, [*small_board.cells(), longer])
    page = parse(made(board).files[writing.NAME])
    ids = [e.attributes["id"] for e in page.elements if e.attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert [e.attributes["id"] for e in page.all("article")] == ["s0", "s1"]
    links = [e.attributes["href"] for e in page.all("a")]
    assert {"#s0", "#s1"} <= set(links)
    names = [[m["name"] for m in page.gallery(section)["methods"]] for section in ("s0", "s1")]
    assert sorted(map(len, names)) == [2, 4]


def test_a_board_of_the_base_and_a_failure(tmp_path: Path) -> None:
    board = small_board.save(tmp_path, [small_board.cell("base"), small_board.failure("dpo")])
    page = parse(made(board, figures=True).files[writing.NAME])
    assert "train seed 0: killed" in "".join(e.text for e in page.all("li"))
    assert [m["name"] for m in page.gallery()["methods"]] == ["base"]


def test_a_page_of_a_checkpoint_ranks_nothing_and_says_so(tmp_path: Path) -> None:
    board = small_board.save(tmp_path, [small_board.cell("base"), small_board.cell("dpo", lift=1)])
    lead = parse(made(board).files[writing.NAME]).one("table", class_="sortable lead")
    assert "this checkpoint" in lead.text
    assert "rank" not in lead.text


def test_the_committed_page_is_what_the_results_give() -> None:
    """`bench leaderboard check` compares it too, where the same libraries are installed."""
    from bench.leaderboard import board as boards

    loaded = boards.load(SHAPES)
    built = boards.standings_of(loaded)
    page = (SHAPES / writing.NAME).read_text(encoding="utf-8")
    ours = writing.board_pages(loaded, built)[writing.NAME]
    # Where other versions draw, all but the drawings.
    drawings = re.compile(r'<svg class="chart".*?</svg>|<meta name="drawn-by"[^>]*>', re.DOTALL)
    if drawn_by() in page:
        assert ours == page
    assert drawings.sub("", ours) == drawings.sub("", page)
