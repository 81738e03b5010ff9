"""What the report draws: each chart with the data that it shows, as a Vega-Lite spec by Altair.

One spec gives the page's drawing and the SVG and PDF of a paper. Colours are those of the light
page; `drawing.inline` hands them to the style sheet, which has another set for the dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bench.report import words
from bench.report.views import FEW, Group, Line, Matrix, SectionView
from bench.statistics.model import WinRate

if TYPE_CHECKING:
    import altair as alt

INK, FAINT, RULE = "#1b1f24", "#59626c", "#d5dae0"
BETTER, WORSE, OPEN = "#0b6bb0", "#b3470b", "#6f7780"
_COLOURS = {"better": BETTER, "worse": WORSE, "open": OPEN}
HUES = ("#00795a", "#99398b", "#8a6100", "#3f4fb5", "#a3274f", "#4d5661")
"""One for each method, in the order of the board: none that says better or worse, and all of 4.5:1
or more on the light page."""
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
"""Of lines whose hue was given out before."""
FONT = "Liberation Sans"
"""vl-convert carries it and measures texts with it, whatever fonts a machine has."""
MOST_IN_FOREST = 6
MOST_GROUPS = 40

_MAIN = "main"

Value: TypeAlias = str | float | int | None
_Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart and its data."""

    name: str
    """Of its files: letters, digits and "-"."""
    title: str
    note: str
    """How to read it, in a sentence."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    """The data, as its CSV has them."""
    spec: dict[str, Any]
    """Vega-Lite."""
    wide: bool = False
    """Asks for the whole width of the page."""


def hue(index: int) -> str:
    """The colour of the method that is the index-th of the board."""
    return HUES[index % len(HUES)]


def board(view: SectionView) -> Figure:
    """Win rates of all methods with their intervals: the figure that papers show."""
    import altair as alt

    lines = [line for line in view.lines if line.rate]
    rows = [_interval_row(line.name, line.rate) for line in lines if line.rate]
    data = [
        {**_interval(line.rate), "method": line.name, "colour": _COLOURS[line.verdict]}
        for line in lines
        if line.rate
    ]
    bounds = _bounds(_ends(line.rate for line in lines))
    names = [line.name for line in lines]
    y = alt.Y("method:N", sort=names, title=None, axis=_name_axis())
    base = _main().encode(y=y, color=alt.Color("colour:N", scale=None))
    x = alt.X("low:Q", scale=bounds, title="win rate against the base (%)")
    chart = alt.layer(
        _base_line("x", bounds),
        base.mark_rule(strokeWidth=3).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=alt.X("rate:Q", scale=bounds)),
    )
    return _figure(
        "board",
        "Win rate against the base",
        "Point: estimate; bar: 95% interval; dashed: the base.",
        ("method", *_INTERVAL),
        rows,
        chart.properties(width=420, height={"step": 26}),
        data,
    )


def cost(view: SectionView) -> Figure | None:
    """What a win rate costs: seconds of labelling and training against the rate."""
    import altair as alt

    lines = [line for line in view.lines if line.rate and line.seconds]
    if len(lines) < 2:
        return None
    seconds = [words.rounded(line.seconds or 0.0) for line in lines]
    low, high = min(seconds), max(seconds)
    if high > 3 * low:
        domain = [low / 1.5, high * 2]
        scale = alt.Scale(type="log", domain=domain, nice=False)
        across = [math.log(s / domain[0]) / math.log(domain[1] / domain[0]) for s in seconds]
    else:
        scale = alt.Scale(domain=[0, 1.3 * high], nice=False)
        across = [s / (1.3 * high) for s in seconds]
    ends = _ends(line.rate for line in lines)
    bottom, top = _reach(ends)
    up = [(100 * line.rate.win_rate - bottom) / (top - bottom) for line in lines if line.rate]
    sides = _sides([(380 * x, 250 * y) for x, y in zip(across, up, strict=True)], lines)
    data = [
        {
            **_interval(line.rate),
            "right": line.name if side == "right" else "",
            "left": line.name if side == "left" else "",
            "seconds": spent,
            "colour": _COLOURS[line.verdict],
            "says": f"{line.name}: {words.duration(spent)} of training, "
            f"{words.in_words(line.rate)}",
        }
        for line, side, spent in zip(lines, sides, seconds, strict=True)
        if line.rate
    ]
    bounds = _bounds(ends)
    x = alt.X(
        "seconds:Q",
        scale=scale,
        title="seconds of labelling and training, one device",
        axis=alt.Axis(grid=False, tickCount=4, format="~s"),
    )
    y = alt.Y("rate:Q", scale=bounds, title="win rate against the base (%)")
    base = _main().encode(x=x)
    colour = alt.Color("colour:N", scale=None, legend=None)

    def text(side: Literal["left", "right"], dx: int) -> Any:
        align: Literal["left", "right"] = "left" if side == "right" else "right"
        mark = base.mark_text(align=align, dx=dx, dy=-1, fontSize=12, limit=130, aria=False)
        return mark.encode(y=y, text=f"{side}:N", color=alt.value(INK))

    chart = alt.layer(
        _base_line("y", bounds),
        base.mark_rule(strokeWidth=2, opacity=0.75, aria=False).encode(
            y=alt.Y("low:Q", scale=bounds), y2="high:Q", color=colour
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            y=y, color=colour, description="says:N"
        ),
        text("right", 8),
        text("left", -8),
    )
    return _figure(
        "cost",
        "Wins against cost",
        "Higher is better, further left is cheaper.",
        ("method", "seconds", *_INTERVAL),
        [
            (line.name, spent, *_interval_row("", line.rate)[1:])
            for line, spent in zip(lines, seconds, strict=True)
            if line.rate
        ],
        chart.properties(width=380, height=250),
        data,
    )


def _sides(places: Sequence[tuple[float, float]], lines: Sequence[Line]) -> list[str]:
    """On which side of its point a name stands, or "" where it would cover others.

    Args:
        places: of the points, in pixels.
        lines: the methods; those of the first place are named first.
    """
    taken = [(x - 5, y - 7, x + 5, y + 7) for x, y in places]
    sides = []
    for (x, y), line in zip(places, lines, strict=True):
        length = 8 + 6.5 * min(len(line.name), 20)
        for side, left, right in (("right", x + 6, x + length), ("left", x - length, x - 6)):
            box = (left, y - 7, right, y + 7)
            if left >= 0 and right <= 380 and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                sides.append(side)
                break
        else:
            sides.append("")
    return sides


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def forests(view: SectionView) -> list[Figure]:
    """Win rates by prompt set and by group, a chart for each prompt set."""
    figures = []
    for number, prompt_set in enumerate(view.prompt_sets):
        groups = [group for group in view.groups if group.prompt_set == prompt_set]
        if groups:
            figures.append(_forest(view, number, prompt_set, groups))
    return figures


def _forest(view: SectionView, number: int, prompt_set: str, groups: Sequence[Group]) -> Figure:
    import altair as alt

    shown = [line.name for line in view.lines if line.rate][:MOST_IN_FOREST]
    labels = list(dict.fromkeys(group.label for group in groups))[:MOST_GROUPS]
    some = [group for group in groups if group.method in shown and group.label in labels]
    data = [
        {
            **_interval(group.rate),
            "group": group.label,
            "method": group.method,
            "few": group.descriptive,
            "says": f"{group.method}, {group.label}: {words.in_words(group.rate)}",
        }
        for group in some
    ]
    hues = [hue(_index(view, name)) for name in shown]
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=shown, range=hues),
        legend=alt.Legend(orient="top", title=None, symbolType="circle", labelLimit=200, columns=6),
    )
    y = alt.Y("group:N", sort=labels, title=None, axis=_name_axis())
    offset = alt.YOffset("method:N", sort=shown, scale=alt.Scale(paddingOuter=0.3))
    bounds = _bounds(_ends(group.rate for group in some))
    base = _main()
    solid = alt.condition("datum.few", alt.value(0.55), alt.value(1))
    chart = alt.layer(
        _base_line("x", bounds),
        base.mark_rule(strokeWidth=2, aria=False).encode(
            x=alt.X("low:Q", scale=bounds, title="win rate against the base (%)"),
            x2="high:Q",
            y=y,
            yOffset=offset,
            color=colour,
            opacity=solid,
        ),
        base.mark_point(filled=True, size=42).encode(
            x=alt.X("rate:Q", scale=bounds),
            y=y,
            yOffset=offset,
            color=colour,
            opacity=solid,
            description="says:N",
        ),
    ).properties(width=330, height={"step": 10 if len(shown) > 1 else 22})
    left_out = sum(1 for line in view.lines if line.rate) - len(shown)
    more = f" The first {len(shown)} methods; by_group.csv has all." if left_out > 0 else ""
    pale = any(group.descriptive for group in some)
    few = f" Pale: fewer than {FEW} prompts, descriptive only." if pale else ""
    return _figure(
        f"groups-{number}",
        prompt_set,
        f"By prompt set and group; {view.ranked_by_words}.{few}{more}",
        ("prompt set", "group", "method", *_INTERVAL),
        [(prompt_set, group.label, *_interval_row(group.method, group.rate)) for group in groups],
        chart,
        data,
    )


def gold_and_proxy(view: SectionView) -> Figure | None:
    """Held-out gold against the scorers that training read: off the diagonal is overoptimised."""
    import altair as alt

    points = view.proxies
    if not points:
        return None
    data = [
        {
            "method": point.method,
            "proxy": 100 * words.rounded(point.proxy),
            "gold": 100 * words.rounded(point.gold),
            "label": "" if point.seed is not None else point.method,
            "colour": hue(_index(view, point.method)),
            "size": 30 if point.seed is not None else 110,
            "solid": 0.45 if point.seed is not None else 1.0,
            "says": f"{point.method}"
            + (f", train seed {point.seed}" if point.seed is not None else "")
            + f": proxy {words.percent(point.proxy)}%, gold {words.percent(point.gold)}%",
        }
        for point in points
    ]
    ends = [value for point in points for value in (point.proxy, point.gold)]
    low, high = _reach(ends)
    bounds = _bounds(ends)
    base = _main()
    axis = alt.Axis(tickCount=6)
    x = alt.X("proxy:Q", scale=bounds, title="proxy: scorers that trainings read (%)", axis=axis)
    y = alt.Y("gold:Q", scale=bounds, title="gold: declared held out (%)")
    ends_of_it = [{"x": low, "y": low}, {"x": high, "y": high}]
    diagonal = alt.Chart(_values(ends_of_it)).mark_line(
        color=FAINT, strokeDash=[2, 3], strokeWidth=1, aria=False
    )
    chart = alt.layer(
        _base_line("x", bounds),
        _base_line("y", bounds),
        diagonal.encode(x="x:Q", y="y:Q"),
        base.mark_point(filled=True).encode(
            x=x,
            y=y,
            color=alt.Color("colour:N", scale=None, legend=None),
            size=alt.Size("size:Q", scale=None, legend=None),
            opacity=alt.Opacity("solid:Q", scale=None, legend=None),
            description="says:N",
        ),
        base.mark_text(align="left", dx=9, fontSize=12, limit=130, aria=False).encode(
            x=x, y=y, text="label:N", color=alt.value(INK)
        ),
    )
    return _figure(
        "gold-proxy",
        "Gold against proxy",
        "Large: the method; small: its train seeds. Far below the dotted diagonal, a method won "
        "on what it was trained for and not on what it was not.",
        ("method", "train seed", "proxy", "gold"),
        [
            (point.method, point.seed, words.rounded(point.proxy), words.rounded(point.gold))
            for point in points
        ],
        chart.properties(width=330, height=270),
        data,
    )


def curves(view: SectionView) -> list[Figure]:
    """What training said of itself, a chart for each column."""
    columns = sorted({c for curve in view.curves for c in curve.values} - {"step", "nfe"})
    return [_curve(view, number, column) for number, column in enumerate(columns)]


def _curve(view: SectionView, number: int, column: str) -> Figure:
    import altair as alt

    mine = [curve for curve in view.curves if column in curve.values]
    names = sorted({curve.method for curve in mine}, key=lambda name: _index(view, name))
    rows: list[tuple[Value, ...]] = [
        (curve.method, curve.seed, words.rounded(step), words.rounded(value))
        for curve in mine
        for step, value in zip(curve.values["step"], curve.values[column], strict=True)
    ]
    data = [
        {"method": name, "line": f"{name} {seed}", "step": step, "value": value}
        for name, seed, step, value in rows
    ]
    indices = [_index(view, name) for name in names]
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=names, range=[hue(i) for i in indices]),
        legend=alt.Legend(orient="top", title=None, symbolType="stroke", labelLimit=220, columns=4),
    )
    dash = alt.StrokeDash(
        "method:N",
        scale=alt.Scale(domain=names, range=[list(DASHES[i // len(HUES) % 4]) for i in indices]),
        legend=None,
    )
    chart = (
        _main()
        .mark_line(strokeWidth=1.5, opacity=0.85, aria=False)
        .encode(
            x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(grid=False, tickCount=5)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=colour,
            strokeDash=dash,
            detail="line:N",
        )
    )
    return _figure(
        f"curve-{number}",
        column.replace("_", " "),
        "A line a train seed.",
        ("method", "train seed", "step", column),
        rows,
        chart.properties(width=330, height=170),
        data,
    )


def head_to_head(matrix: Matrix) -> Figure:
    """Who wins over whom, as a heat map."""
    import altair as alt

    cells = [
        (name, other, cell)
        for name, row in zip(matrix.names, matrix.rows, strict=True)
        for other, cell in zip(matrix.names, row, strict=True)
        if cell
    ]
    data = [
        {
            "method": name,
            "other": other,
            "rate": 100 * words.rounded(cell.rate),
            "text": f"{words.percent(cell.rate)}{'*' if cell.separated else ''}",
        }
        for name, other, cell in cells
    ]
    names = list(matrix.names)
    across = alt.Axis(labelAngle=-40, orient="top")
    base = _main().encode(
        x=alt.X("other:N", sort=names, title="wins over", axis=across),
        y=alt.Y("method:N", sort=names, title=None, axis=_name_axis()),
    )
    scale = alt.Scale(domain=[25, 50, 75], range=["#e8a77a", "#f4f5f6", "#7db6de"], clamp=True)
    chart = alt.layer(
        base.mark_rect(stroke="#ffffff", aria=False).encode(
            color=alt.Color("rate:Q", scale=scale, legend=None)
        ),
        base.mark_text(fontSize=11, aria=False).encode(text="text:N", color=alt.value(INK)),
    )
    return _figure(
        "head-to-head",
        "Head to head",
        "How often the row wins over the column (%); *: separated.",
        ("method", "other", "rate", "low", "high", "adjusted_p"),
        [
            (
                name,
                other,
                *(words.rounded(v) for v in (cell.rate, cell.low, cell.high)),
                None if cell.adjusted_p is None else words.rounded(cell.adjusted_p),
            )
            for name, other, cell in cells
        ],
        chart.properties(width={"step": 46}, height={"step": 28}),
        data,
    )


def of(view: SectionView) -> list[Figure]:
    """Every chart of a section, as `--figures` writes them."""
    figures = [board(view), cost(view), *forests(view), *curves(view), gold_and_proxy(view)]
    figures += [head_to_head(view.matrix)] if view.matrix else []
    return [figure for figure in figures if figure]


_INTERVAL = ("win_rate", "low", "high", "prompts", "train_seeds", "estimand")


def _interval_row(name: str, rate: WinRate) -> tuple[Value, ...]:
    ends = (words.rounded(value) for value in (rate.win_rate, rate.low, rate.high))
    return (name, *ends, rate.prompts, rate.seeds, str(rate.estimand))


def _interval(rate: WinRate | None) -> dict[str, Any]:
    if rate is None:
        return {}
    of = {"rate": rate.win_rate, "low": rate.low, "high": rate.high}
    return {name: words.rounded(100 * value) for name, value in of.items()}


def _name_axis() -> alt.Axis:
    import altair as alt

    return alt.Axis(labelLimit=240, ticks=False, domain=False, labelPadding=8)


def _base_line(channel: str, bounds: alt.Scale) -> Any:
    """The base, which wins half of the time against itself."""
    import altair as alt

    rule = alt.Chart(_values([{"base": 50}])).mark_rule(
        color=FAINT, strokeDash=[4, 3], strokeWidth=1, aria=False
    )
    if channel == "x":
        return rule.encode(x=alt.X("base:Q", scale=bounds))
    return rule.encode(y=alt.Y("base:Q", scale=bounds))


def _ends(rates: Iterable[WinRate | None]) -> list[float]:
    return [end for rate in rates if rate for end in (rate.low, rate.high)]


def _bounds(ends: Sequence[float]) -> alt.Scale:
    """An axis in percent that shows all ends, and the base."""
    import altair as alt

    return alt.Scale(domain=list(_reach(ends)), nice=False)


def _reach(ends: Sequence[float]) -> tuple[int, int]:
    """The same as multiples of 5, in percent."""
    low, high = min([0.47, *ends]), max([0.53, *ends])
    return max(0, 5 * int(20 * low - 0.1)), min(100, 5 * int(20 * high + 1.1))


def _index(view: SectionView, name: str) -> int:
    return next(i for i, line in enumerate(view.trained) if line.name == name)


def _main() -> alt.Chart:
    """A chart of the figure's own data."""
    import altair as alt

    return alt.Chart(alt.NamedData(name=_MAIN))


def _values(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    import altair as alt

    return alt.InlineData(values=list(rows))


def _figure(
    name: str,
    title: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Value, ...]],
    chart: Any,
    data: Sequence[dict[str, Any]],
) -> Figure:
    # Named and put in here, since Altair checks every value of data that it is given.
    spec = _styled(chart).to_dict()
    return Figure(
        name=name,
        title=title,
        note=note,
        columns=tuple(columns),
        rows=tuple(rows),
        spec={**spec, "datasets": {**spec.get("datasets", {}), _MAIN: list(data)}},
    )


def _styled(chart: Any) -> Any:
    return (
        chart.configure(font=FONT, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            aria=False,
            labelFont=FONT,
            titleFont=FONT,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
            labelColor=FAINT,
            titleColor=FAINT,
            gridColor=RULE,
            domainColor=RULE,
            tickColor=RULE,
            gridOpacity=0.7,
        )
        .configure_axisY(labelFontSize=12)
        .configure_legend(
            aria=False, labelFont=FONT, labelFontSize=12, labelColor=INK, symbolStrokeWidth=3
        )
        .configure_text(font=FONT)
    )
