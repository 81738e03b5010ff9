"""Charts as files and as part of the page, drawn by vl-convert without network or browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from xml.etree import ElementTree

from bench.lib.errors import BenchError
from bench.lib.escaping import csv_cell
from bench.report.charts import Figure

_SVG = "http://www.w3.org/2000/svg"
_NAMED = re.compile(rb"(?:[ ]*/[a-z]+\d+ \d+ 0 R\n)+")
"""The fonts, states and drawings of a PDF page, one a line."""


def files(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Each chart as files: name -> SVG on a white ground, PDF with its fonts, data as CSV."""
    jobs: list[_Job] = [("svg", {**figure.spec, "background": "white"}) for figure in figures]
    jobs += [("pdf", figure.spec) for figure in figures]
    made = _drawn(jobs)
    drawn = {}
    for figure, picture, page in zip(figures, made, made[len(figures) :], strict=False):
        drawn[f"{figure.name}.svg"] = _renamed(picture.decode(), figure.name).encode()
        # A PDF lists what a page uses in an order of chance, which means nothing.
        drawn[f"{figure.name}.pdf"] = _NAMED.sub(_sorted, page)
        drawn[f"{figure.name}.csv"] = data(figure).encode()
    return drawn


def _sorted(lines: re.Match[bytes]) -> bytes:
    return b"".join(sorted(lines[0].splitlines(keepends=True)))


def data(figure: Figure) -> str:
    """What the chart shows, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(figure.columns)
    writer.writerows([csv_cell(value) for value in row] for row in figure.rows)
    return buffer.getvalue()


def inline(figures: Sequence[Figure], prefix: str) -> list[str]:
    """Charts as elements of a page that allows neither styles nor scripts in them.

    Names within them begin with `prefix`, so that two charts of a page do not share one. What is
    drawn says what it is (`aria-label`), as those who point at it are told too; all else is
    hidden from screen readers.
    """
    made = _drawn([("svg", figure.spec) for figure in figures])
    return [
        _element(figure, _renamed(picture.decode(), f"{prefix}-{figure.name}"))
        for figure, picture in zip(figures, made, strict=True)
    ]


def _element(figure: Figure, drawn: str) -> str:
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(drawn)
    width, height = root.get("width", "0"), root.get("height", "0")
    root.attrib.clear()
    root.attrib |= {
        "class": "chart",
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "height": height,
        "role": "group",
        "aria-label": f"{figure.title}. {figure.note}",
    }
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("display") == "none" or _is_ground(child):
                parent.remove(child)
    for element in list(root.iter())[1:]:
        _quiet(element)
    return ElementTree.tostring(root, encoding="unicode")


def _quiet(element: ElementTree.Element) -> None:
    said = element.get("aria-label") if element.tag == f"{{{_SVG}}}path" else None
    for name in ("role", "aria-roledescription", "aria-hidden", "aria-label", "pointer-events"):
        element.attrib.pop(name, None)
    for name in [n for n in element.attrib if n in ("style", "class", "href") or n[:2] == "on"]:
        del element.attrib[name]
    if element.get("opacity") == "1":
        del element.attrib["opacity"]
    if said:
        element.attrib |= {"role": "img", "aria-label": said, "class": "mark"}


def _is_ground(element: ElementTree.Element) -> bool:
    """A rectangle behind everything that has no colour."""
    invisible = element.get("d") == "M0,0h0v0h0Z" or element.get("class") == "background"
    return invisible and not element.get("stroke") and not list(element)


def _renamed(drawn: str, prefix: str) -> str:
    """vl-convert numbers clip paths over all that a process has drawn."""
    numbers: dict[str, str] = {}

    def own(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"{prefix}-{len(numbers)}")

    return re.sub(r"(?<=id=\")clip\d+(?=\")|(?<=url\(#)clip\d+(?=\))", own, drawn)


_Job: TypeAlias = tuple[str, Mapping[str, Any]]
"""A form, "svg" or "pdf", and a Vega-Lite spec."""
_owner: int | None = None
"""The process that has drawn first: vl-convert keeps threads, which its forks lack."""
_APART = """
import base64, json, sys
from bench.report.drawing import _here
made = _here(json.load(sys.stdin))
json.dump([base64.b64encode(each).decode() for each in made], sys.stdout)
"""


def _drawn(jobs: Sequence[_Job]) -> list[bytes]:
    """Each job's picture; in a fork of a process that has drawn, by a process of its own."""
    global _owner
    _owner = _owner or os.getpid()
    if _owner == os.getpid():
        return _here(jobs)
    command = [sys.executable, "-c", _APART]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise BenchError(f"the charts of the report cannot be drawn ({last}); try `bench report`")
    return [base64.b64decode(each) for each in json.loads(done.stdout)]


def _here(jobs: Sequence[_Job]) -> list[bytes]:
    import vl_convert

    return [
        str(vl_convert.vegalite_to_svg(_drawable(spec))).encode()
        if form == "svg"
        else bytes(vl_convert.vegalite_to_pdf(_drawable(spec)))
        for form, spec in jobs
    ]


def _drawable(spec: Mapping[str, Any]) -> Any:
    """The spec with its number for every character beyond 16 bits, which the fonts here lack.

    Vega cuts a long name between the two halves of such a character, and vl-convert then fails.
    """
    text = json.dumps(spec, ensure_ascii=False)
    beyond = "[\U00010000-\U0010ffff]"
    return json.loads(re.sub(beyond, lambda found: f"U+{ord(found[0]):X}", text))
