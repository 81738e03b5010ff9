"""The page that people vote on: our own HTML, CSS and JavaScript, and no network.

Its content security policy allows the one script and the one style by their hashes, pictures, and
nothing else; prompts reach the page as data that the script puts in as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

_BESIDE = "'self' file: data:"
"""Pictures beside the page, opened from disk or put on a server; its empty icon is data."""


@dataclass(frozen=True)
class Picture:
    """A PNG file of the page."""

    path: str
    """Below the page's folder."""
    data: bytes


@dataclass(frozen=True)
class PageItem:
    """A question as people see it."""

    item: str
    prompt: str
    left: Picture
    right: Picture


def render(
    audit: str, question: str, items: Sequence[PageItem], *, single_file: bool = False
) -> dict[str, bytes]:
    """The files of a page, by path below its folder.

    Args:
        audit: the audit's name, under which votes are kept in the browser.
        question: what is asked of every item.
        items: in their order.
        single_file: put the pictures into the page.
    """
    script, style = _asset("vote.js"), _asset("vote.css")
    data = {
        "audit": audit,
        "question": question,
        "items": [
            {
                "item": item.item,
                "prompt": item.prompt,
                "left": _address(item.left, single_file=single_file),
                "right": _address(item.right, single_file=single_file),
            }
            for item in items
        ],
    }
    pictures = "data:" if single_file else _BESIDE
    policy = (
        f"default-src 'none'; img-src {pictures}; "
        f"script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        f"form-action 'none'"
    )
    page = _asset("page.html")
    for place, text in (
        ("{{policy}}", html.escape(policy, quote=True)),
        ("{{style}}", style),
        ("{{script}}", script),
        # Last, so that nothing in a prompt is taken for a place; "<" would end the element.
        ("{{data}}", json.dumps(data, sort_keys=True).replace("<", "\\u003c")),
    ):
        page = page.replace(place, text, 1)
    files = {"index.html": page.encode()}
    if not single_file:
        files |= {p.path: p.data for item in items for p in (item.left, item.right)}
    return files


def _address(picture: Picture, *, single_file: bool) -> str:
    if not single_file:
        return picture.path
    return f"data:image/png;base64,{base64.b64encode(picture.data).decode()}"


def _asset(name: str) -> str:
    return resources.files("bench.audit").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
