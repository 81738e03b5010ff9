"""Charts as files and as part of the page, drawn by vl-convert without network or browser."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

from bench.lib.escaping import csv_cell
from bench.report.charts import Figure

_SVG = "http://www.w3.org/2000/svg"
_NAMED = re.compile(rb"(?:[ ]*/[a-z]+\d+ \d+ 0 R\n)+")
"""The fonts, states and drawings of a PDF page, one a line."""


def svg(figure: Figure) -> str:
    """The chart as a file of its own, with a white ground."""
    import vl_convert

    spec = {**figure.spec, "background": "white"}
    return _renamed(str(vl_convert.vegalite_to_svg(spec)), figure.name)


def pdf(figure: Figure) -> bytes:
    """The chart for a paper, with its fonts."""
    import vl_convert

    drawn = bytes(vl_convert.vegalite_to_pdf(figure.spec))
    # They stand in an order of chance, which means nothing.
    return _NAMED.sub(lambda named: b"".join(sorted(named[0].splitlines(keepends=True))), drawn)


def data(figure: Figure) -> str:
    """What the chart shows, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(figure.columns)
    writer.writerows([csv_cell(value) for value in row] for row in figure.rows)
    return buffer.getvalue()


def inline(figure: Figure, prefix: str) -> str:
    """The chart as an element of a page that allows neither styles nor scripts in it.

    Names within it begin with `prefix`, so that two charts of a page do not share one. What is
    drawn says what it is (`aria-label`), as those who point at it are told too; all else is
    hidden from screen readers.
    """
    import vl_convert

    drawn = _renamed(str(vl_convert.vegalite_to_svg(figure.spec)), f"{prefix}-{figure.name}")
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
