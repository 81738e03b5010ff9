"""The page: one HTML document that opens from disk and asks no network for anything.

Its content security policy allows the one script and the one style sheet by their hashes, and
pictures of the page itself and beside it; nothing else, so that whatever a prompt or a label
holds can neither run nor call out. Charts are SVG drawn when the page is made: the same bytes
everywhere, no library of scripts in the page (which would need `unsafe-eval` or an interpreter and
800 kB), colours by the style sheet, so that dark pages are dark, and readable without scripts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from bench.leaderboard.notes import GENERAL
from bench.report import charts, drawing, words
from bench.report.views import SectionView

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

GENERATOR = "bench report"
"""What the page's `generator` says; a file that says it may be replaced."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page, and what its script reads."""

    view: SectionView
    gallery: str
    """JSON, see `bench.report.gallery.payload`; '' where there is no gallery."""
    about_gallery: str
    """What is left out of it, in words."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A chart in the page."""

    name: str
    title: str
    note: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """The charts of a section."""

    cost: Drawn | None
    forests: tuple[Drawn, ...]
    curves: tuple[Drawn, ...]
    gold_and_proxy: Drawn | None


def render(title: str, about: str, parts: Sequence[Part], recipe: str, version: str) -> str:
    """The page.

    Args:
        title: of the window and the top line.
        about: what the board is, in words; '' if nobody says.
        parts: sections, in their order.
        recipe: YAML of the run; '' for a board.
        version: of this package, by which the page can be made again.
    """
    environment = _environment()
    style, script = _text("page.css"), _text("page.js")
    return environment.get_template("report.html.jinja").render(
        title=title,
        about=about,
        parts=[(part, _charts(part.view)) for part in parts],
        recipe=recipe,
        version=version,
        # Written for Markdown, where a star needs a mark before it.
        general=[note.replace("\\*", "*") for note in GENERAL],
        generator=GENERATOR,
        drawn_by=drawn_by(),
        style=style,
        script=script,
        policy=policy(style, script),
    )


def drawn_by() -> str:
    """The libraries on whose versions the bytes of charts depend."""
    libraries = ("altair", "vl-convert-python")
    return ", ".join(f"{name} {version_of(name)}" for name in libraries)


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this style sheet and this script."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _charts(view: SectionView) -> Charts:
    cost, gold = charts.cost(view), charts.gold_and_proxy(view)
    forests, curves = charts.forests(view), charts.curves(view)
    some = [*(figure for figure in (cost, gold) if figure), *forests, *curves]
    drawn = {
        figure.name: Drawn(name=figure.name, title=figure.title, note=figure.note, svg=svg)
        for figure, svg in zip(some, drawing.inline(some, view.id), strict=True)
    }
    return Charts(
        cost=drawn[cost.name] if cost else None,
        forests=tuple(drawn[figure.name] for figure in forests),
        curves=tuple(drawn[figure.name] for figure in curves),
        gold_and_proxy=drawn[gold.name] if gold else None,
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "p": words.p_value,
        "duration": words.duration,
        "count": words.count,
        "at": _at,
        "value": _value,
        "coded": _coded,
    }
    environment.globals |= {"span": words.span, "in_words": words.in_words, "ticks": _ticks}
    return environment


def _at(percent: float, axis: tuple[float, float], width: float) -> str:
    """Where a percentage lies on an axis that is so many units wide."""
    low, high = axis
    return f"{width * (words.rounded(percent) - low) / (high - low):.1f}"


def _ticks(axis: tuple[float, float]) -> list[int]:
    """Round percentages within an axis, 50 among them."""
    low, high = axis
    step = next(step for step in (5, 10, 25) if (high - low) / step <= 6 or step == 25)
    return [tick for tick in range(0, 101, step) if low <= tick <= high]


def _text(name: str) -> str:
    from importlib.resources import files

    return (files("bench.report") / "templates" / name).read_text("utf-8")


def _value(number: float | None) -> str:
    """What a cell is sorted by."""
    return "" if number is None else f"{words.rounded(number):g}"


def _coded(text: str) -> Markup:
    """Text in which `commands` are set as code."""
    from markupsafe import Markup, escape

    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    marked = (
        Markup("<code>{}</code>").format(piece) if number % 2 else escape(piece)
        for number, piece in enumerate(pieces)
    )
    return Markup("").join(marked)
