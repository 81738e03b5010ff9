"""What papers report: figures with their source, protocol and how far to trust them.

They lie in `leaderboards/published/published.yaml`, which people write and machines check, and are
shown in a README.md of their own: never in one ranking with what was measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bench.leaderboard import tables as board_tables
from bench.leaderboard.columns import GAP
from bench.lib import escaping
from bench.lib.strict import Count, Number, StrictModel, read_yaml

FILE = "published.yaml"
UNKNOWN = "unknown"

Text: TypeAlias = Annotated[str, Field(strict=True, min_length=1, max_length=1000)]
Counted: TypeAlias = Count | Text
Trust: TypeAlias = Literal["paper", "code", "thread", "secondary"]
TRUST: dict[Trust, str] = {
    "paper": "read in the paper itself",
    "code": "read in the official code or its README",
    "thread": "read in an issue, a pull request or a review",
    "secondary": "from other people's notes on the paper, whose tables were not seen: check them "
    "before citing",
}
"""How a figure came here -> what that says."""


class Paper(StrictModel):
    """A source."""

    title: Text
    arxiv: Text = Field(description="its id, or unknown")
    venue: Text


class PaperProtocol(StrictModel):
    """How a table was made, as far as its source says."""

    backbone: Text = UNKNOWN
    prompts: Text = UNKNOWN
    images_per_prompt: Counted = UNKNOWN
    image_seeds: Text = UNKNOWN
    scheduler: Text = UNKNOWN
    steps: Counted = UNKNOWN
    guidance: Number | Text = UNKNOWN
    judged_by: Text = UNKNOWN
    against: Text = UNKNOWN
    ties: Text = UNKNOWN
    train_seeds: Counted = UNKNOWN


class PaperRow(StrictModel):
    """A line of a table."""

    method: Text
    against: Text | None = Field(default=None, description="where it differs from row to row")
    values: tuple[Number | None, ...] = Field(min_length=1, description="null: not reported")


class Table(StrictModel):
    """Figures of one paper that were made alike."""

    paper: Text = Field(description="key of `papers`")
    title: Text
    trust: Trust
    quantity: Text = Field(description="win rate, mean score, ...")
    unit: Text
    protocol: PaperProtocol
    columns: tuple[Text, ...] = Field(min_length=1)
    rows: tuple[PaperRow, ...] = Field(min_length=1)
    cautions: tuple[Text, ...] = Field(default=(), description="what a reader should beware of")

    @property
    def facts(self) -> dict[str, str | int | float]:
        """How it was made, `UNKNOWN` where nobody says, by what people call each fact."""
        facts = {
            name.replace("_", " "): getattr(self.protocol, name)
            for name in PaperProtocol.model_fields
        }
        own = dict.fromkeys(row.against for row in self.rows if row.against)
        if own and facts["against"] == UNKNOWN:
            facts["against"] = ", ".join(own)
        return facts

    @field_validator("rows")
    @classmethod
    def _have_all_columns(
        cls, rows: tuple[PaperRow, ...], info: ValidationInfo
    ) -> tuple[PaperRow, ...]:
        columns = info.data.get("columns", ())
        for row in rows:
            if len(row.values) != len(columns):
                raise ValueError(
                    f"{row.method} has {len(row.values)} values for {len(columns)} columns"
                )
        return rows


class Published(StrictModel):
    """`published.yaml`."""

    papers: dict[str, Paper]
    tables: tuple[Table, ...]

    @model_validator(mode="after")
    def _name_their_papers(self) -> Published:
        for number, table in enumerate(self.tables):
            if table.paper not in self.papers:
                raise ValueError(f"tables.{number}.paper: {table.paper!r} is none of papers")
        unused = sorted(self.papers.keys() - {table.paper for table in self.tables})
        if unused:
            raise ValueError(f"papers.{unused[0]}: no table is of this paper; remove it")
        return self

    def called(self, table: Table) -> str:
        """What messages call a table."""
        return f"{self.papers[table.paper].title}, {table.title} ({table.trust})"


def is_published(folder: Path) -> bool:
    """Whether a folder of `leaderboards/` holds what papers report."""
    return (folder / FILE).is_file()


def load(folder: Path) -> Published:
    """Read `published.yaml`.

    Raises:
        BenchError: it is not there or not valid; names the key.
    """
    return read_yaml(Published, folder / FILE)


def write(folder: Path) -> None:
    """Regenerate README.md.

    Raises:
        BenchError: as `load`, or a README.md is there that was not written by this.
    """
    board_tables.write_files(folder, {"README.md": render(load(folder))})


def check(folder: Path) -> None:
    """Raise `BenchError` if README.md is not what `published.yaml` gives, to the byte."""
    board_tables.check_files(folder, {"README.md": render(load(folder))})


def render(document: Published) -> str:
    """The README.md: a table with its protocol for each of a paper's."""
    lines = [
        "# What papers report",
        "",
        f"Written by `bench leaderboard build` from `{FILE}`; do not edit by hand.",
        "",
        "These figures were not measured here. Each table has a protocol of its own, most of it "
        "unknown: no row can be compared with one of another table, nor with any of the boards "
        "beside it. `bench leaderboard compare --published BOARD` names each difference.",
        "",
    ]
    for key, paper in document.papers.items():
        place = f"arXiv {paper.arxiv}" if paper.arxiv != UNKNOWN else "arXiv id unknown"
        lines += [f"## {_text(paper.title)}", "", f"{_text(place)}; {_text(paper.venue)}.", ""]
        for table in document.tables:
            if table.paper == key:
                lines += _table(table)
    lines += ["## How far to trust them", ""]
    lines += [f"- {trust}: {what}." for trust, what in TRUST.items()]
    return "\n".join([*lines, ""])


def _table(table: Table) -> Iterator[str]:
    against = any(row.against for row in table.rows)
    header = ["method", *(["against"] if against else []), *map(_text, table.columns)]
    yield f"### {_text(table.title)}"
    yield ""
    yield f"{_text(table.quantity)}, {_text(table.unit)}. Trust: **{table.trust}**."
    yield ""
    yield f"| {' | '.join(header)} |"
    yield f"| --- | {'--- | ' if against else ''}{' | '.join(['---:'] * len(table.columns))} |"
    for row in table.rows:
        names = [row.method, *([row.against or table.protocol.against] if against else [])]
        cells = [*map(_text, names), *(_value(value) for value in row.values)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    facts = table.facts
    yield from (
        f"- {key}: {_text(str(value))}." for key, value in facts.items() if value != UNKNOWN
    )
    if unknown := [key for key, value in facts.items() if value == UNKNOWN]:
        yield f"- **Unknown**: {', '.join(unknown)}."
    yield from (f"- **Beware**: {_text(caution)}." for caution in table.cautions)
    yield ""


def _text(text: str) -> str:
    return escaping.markdown(text)


def _value(value: float | None) -> str:
    return GAP if value is None else f"{value:.10g}"
