"""Names that are markup, formulas or control characters stay text wherever they are shown."""

from __future__ import annotations

import csv
import io
from html import unescape

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from bench.lib import escaping

HOSTILE = [
    "a|b",
    "`rm`",
    "``",
    "`",
    "a `b`` c",
    "[text](https://example.org)",
    "![x](y.png)",
    "<script>alert(1)</script>",
    "<b>",
    "&lt;b&gt;",
    "&amp;",
    "*bold* _it_ ~~gone~~",
    "snake_case_name",
    "[red]x[/red]",
    "\\",
    "a\\|b",
    "\\`",
    "# heading",
    "=cmd|' /C calc'!A0",
    "e\u0301 ‘quoted’ 图",
]
_PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def _cell_tokens(source: str) -> tuple[list[str], str]:
    """Types and text of what stands in the second cell of a table with this source."""
    table = f"| a | b |\n| --- | --- |\n| x | {source} |\n"
    cells = [token for token in _PARSER.parse(table) if token.type == "inline"]
    assert len(cells) == 4, source
    children = cells[3].children or []
    return [child.type for child in children], "".join(child.content for child in children)


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text_itself(text: str) -> None:
    kinds, content = _cell_tokens(escaping.markdown(text))
    assert set(kinds) <= {"text", "text_special"}
    assert content == text
    (inline,) = [t for t in _PARSER.parse(f"- {escaping.markdown(text)}") if t.type == "inline"]
    assert {child.type for child in inline.children or []} <= {"text", "text_special"}
    assert unescape("".join(child.content for child in inline.children or [])) == unescape(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_code_shows_the_text_itself(text: str) -> None:
    kinds, content = _cell_tokens(escaping.code(text))
    assert kinds == ["code_inline"]
    assert content == text


@pytest.mark.parametrize("text", ["a\nb", "a\r\n## b", "a\u2028b", "a\x85b", "a\n\n\nb"])
def test_everything_stays_on_its_line(text: str) -> None:
    for escape in (escaping.markdown, escaping.code, escaping.printable):
        assert len(escape(text).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\0b", "a\\x00b"),
        ("a\u202eb", "a\\u202eb"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_what_cannot_be_printed_stands_as_its_escape(text: str, shown: str) -> None:
    assert escaping.printable(text) == shown
    escaping.markdown(text).encode()
    escaping.code(text).encode()


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\n=1",
    "\r=1",
    "'=1",
    "'",
    "plain",
    "",
    "a=b",
    "it's",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_spreadsheet_takes_a_cell_for_a_formula(text: str) -> None:
    cell = escaping.csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert escaping.from_csv_cell(cell) == text


def test_cells_survive_pandas_as_text() -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["text", "number"])
    writer.writerows([escaping.csv_cell(text), escaping.csv_cell(-0.5)] for text in FORMULAS)
    frame = pd.read_csv(
        io.StringIO(stream.getvalue(), newline=""), keep_default_na=False, dtype={"text": str}
    )
    assert [escaping.from_csv_cell(text) for text in frame["text"]] == FORMULAS
    assert set(frame["number"]) == {-0.5}
