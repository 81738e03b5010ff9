from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.leaderboard import differing, published
from bench.lib.errors import BenchError
from tests.leaderboard import small_board
from tests.leaderboard.frozen_board import cell, run

COMMITTED = Path(__file__).parents[2] / "leaderboards" / "published"
SMALL = """\
papers:
  one: {title: One, arxiv: "2401.00001", venue: none}
tables:
  - paper: one
    title: its <Table>
    trust: secondary
    quantity: win rate
    unit: percent
    protocol:
      backbone: tiny
      prompts: parti (40), styles (20)
      images_per_prompt: 2
      image_seeds: 0, 1
      steps: 50
      guidance: 7.5
    columns: [a, b]
    rows:
      - {method: x, values: [60, null]}
      - {method: x, against: "y|z", values: [50.5, 1.25]}
    cautions: [labels and score are of one model]
"""


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "published.yaml").write_text(SMALL)
    return folder


def test_figures_stand_with_protocol_trust_and_what_is_unknown(papers: Path) -> None:
    published.write(papers)
    text = (papers / "README.md").read_text()
    assert "### its &lt;Table&gt;\n\nwin rate, percent. Trust: **secondary**." in text
    assert "| x | y\\|z | 50.5 | 1.25 |" in text
    assert "| x | unknown | 60 | – |" in text
    assert "- **Unknown**: scheduler, judged by, ties, train seeds." in text
    assert "- **Beware**: labels and score are of one model." in text
    published.check(papers)
    (papers / "README.md").write_text(text.replace("60", "61"))
    with pytest.raises(BenchError, match=r"README\.md not as"):
        published.check(papers)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trust: secondary", "trust: sure", r"tables\.0\.trust: input should be 'paper', 'code'"),
        ("trust: secondary\n", "\n", r"tables\.0\.trust: field required"),
        ("[50.5, 1.25]", "[50.5]", r"tables\.0\.rows: x has 1 values for 2 columns"),
        ("[50.5, 1.25]", "[50.5, .nan]", r"values\.1: .*finite"),
        ("[50.5, 1.25]", "[50.5, many]", r"values\.1: .*number"),
        ("paper: one", "paper: two", r"tables\.0\.paper: 'two' is none of papers"),
        ("backbone:", "bakbone:", r"tables\.0\.protocol\.bakbone: .*Did you mean 'backbone'"),
        ("tables:", "  two: {title: T, arxiv: x, venue: y}\ntables:", r"papers\.two: no table"),
    ],
)
def test_a_file_that_is_not_as_it_should_be(papers: Path, old: str, new: str, message: str) -> None:
    assert old in SMALL
    (papers / "published.yaml").write_text(SMALL.replace(old, new, 1))
    with pytest.raises(BenchError, match=message):
        published.load(papers)


def test_each_difference_of_protocol_is_named(papers: Path, tmp_path: Path) -> None:
    board = run(tmp_path / "board", cell("dpo"), cell("dpo", 1))
    heading, *away = differing.lines([board], papers)
    assert heading == "board against One, its <Table> (secondary):"
    assert [line.strip() for line in away] == [
        "against (the untouched backbone against y|z)",
        "steps (20 against 50)",
        "unknown there: judged by, ties, scheduler, train seeds",
    ]


def test_sections_and_boards_are_compared_with_the_first(tmp_path: Path) -> None:
    one = run(tmp_path / "one", cell("dpo"), cell("sft", training=small_board.steps(3)))
    other = small_board.save(
        tmp_path / "other",
        [cell(m, evaluation=small_board.sampled(steps=50)) for m in ("base", "dpo")],
    )
    lines = list(differing.lines([one, other], None))
    assert [line for line in lines if line.startswith("  ")] == [
        "  training.options.steps (3 against 10)"
        if lines[0].startswith("one, 3 steps")
        else "  training.options.steps (10 against 3)",
        "  sampling.steps (20 against 50)",
        *(["  training.options.steps (3 against 10)"] if lines[0].startswith("one, 3") else []),
    ]
    with pytest.raises(BenchError, match=r"other: has one section; name another board"):
        list(differing.lines([other], None))
    same = list(differing.lines([other, other], None))
    assert same[-1] == "  no difference: one protocol"


def test_every_paper_can_be_found() -> None:
    document = published.load(COMMITTED)
    assert all(re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv) for paper in document.papers.values())


def test_the_committed_figures_are_those_of_their_sources() -> None:
    """Some of each kind, so that no figure moves unseen."""
    figures = {
        (table.paper, table.title, row.method, row.against): row.values
        for table in published.load(COMMITTED).tables
        for row in table.rows
    }
    assert figures["smpo", "SD1.5, median scores", "SmPO-SD1.5", None][:2] == (22.08, 29.31)
    assert figures["balanced-dpo", "Gain over DiffusionDPO", "BalancedDPO", None] == (15, 7.1, 10.3)
    assert figures["leapalign", "SD3.5-M", "LeapAlign", None] == (0.3915,)
