"""The board's tables for a paper: LaTeX with booktabs, a table for each protocol.

A name is printed as it is, whatever LaTeX would make of it. The best of a column is bold only where
the data separate it from every other row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.leaderboard.standings import Row, Section, Tables
from bench.lib.escaping import printable
from bench.statistics.intervals import LEVEL, WinRate

PREAMBLE = r"% In the preamble: \usepackage{booktabs}"
_GAP = "--"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "…": r"\dots{}",
    "–": "--",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
}


def escaped(text: str) -> str:
    """A text on one line that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in printable(text))


def render_latex(tables: Tables) -> str:
    """Every section as a `table` with its caption; the same board gives the same bytes."""
    return "\n\n".join((PREAMBLE, *map(_table, tables.sections))) + "\n"


def _table(section: Section) -> str:
    columns = list(_columns(section))
    headings = [heading for heading, _ in columns]
    lines = zip(*(cells for _, cells in columns), strict=True)
    return "\n".join(
        (
            r"\begin{table}[t]",
            r"  \centering",
            f"  \\caption{{{_caption(section)}}}",
            f"  \\label{{tab:bench-{section.protocol[:12]}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(headings)} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(line)} \\\\" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        )
    )


def _columns(section: Section) -> Iterator[tuple[str, list[str]]]:
    """A heading, and what stands under it for each row."""
    rows = section.rows
    yield "method", [_name(row) for row in rows]
    ranks = [_field(row, "rank_set") for row in rows]
    common = [_field(row, "common") for row in rows]
    if any(ranks):
        yield "rank", [_rank(rank) for rank in ranks]
    if any(common):
        cells = zip(rows, common, ranks, strict=True)
        yield "win rate", [_rate(row, rate, bold=rank == (1, 1)) for row, rate, rank in cells]
    for scorer in section.scorers:
        dagger = r"$^\dagger$" if scorer in section.declared_held_out else ""
        best = _separated(rows, lambda row, of=scorer: row.scores.get(of))  # type: ignore[misc]
        yield (
            f"{escaped(scorer)}{dagger}",
            [
                _rate(row, row.scores.get(scorer), bold=row is best, star=scorer in row.in_loop)
                for row in rows
            ],
        )
    if any(row.cost and not row.base for row in rows):
        yield "seconds", [_seconds(row) for row in rows]


def _separated(rows: Sequence[Row], rate: Callable[[Row], WinRate | None]) -> Row | None:
    """The row whose interval lies above every other's, and above the base's 50%.

    Rows of one board are paired by prompt, so that intervals that do not overlap say less than a
    direct comparison would find: nothing is bold by chance.
    """
    found = [(row, rate(row)) for row in rows]
    rated = [(row, of) for row, of in found if of is not None]
    if not rated:
        return None
    best, top = max(rated, key=lambda item: item[1].win_rate)
    others = [of.high for row, of in rated if row is not best]
    return best if top.low > max((0.5, *others)) else None


def _name(row: Row) -> str:
    spec = f"\\texttt{{{escaped(row.shown)}}}"
    # A label says what the spec is, so that the narrow table of a paper needs no more.
    return escaped(row.label) if row.label else spec


def _field(record: Row | Section, name: str) -> Any:
    """What a board has where its rows are compared with each other."""
    return getattr(record, name, None)


def _rank(rank: tuple[int, int] | None) -> str:
    if rank is None:
        return _GAP
    low, high = rank
    return str(low) if low == high else f"{low}--{high}"


def _rate(row: Row, rate: WinRate | None, *, bold: bool, star: bool = False) -> str:
    if row.base:
        return "50.0"
    if rate is None:
        return _GAP
    value = f"{100 * rate.win_rate:.1f}"
    value = f"\\textbf{{{value}}}" if bold else value
    bounds = f"{{\\scriptsize [{100 * rate.low:.1f}, {100 * rate.high:.1f}]}}"
    return f"{value}{'$^*$' if star else ''} {bounds}"


def _seconds(row: Row) -> str:
    if row.base or row.cost is None:
        return _GAP
    seconds = row.cost.label_seconds + row.cost.train_seconds
    return f"{seconds:.{1 if seconds < 100 else 0}f}"


def _caption(section: Section) -> str:
    """What is estimated from how much, and how the table is read."""
    rows = [row for row in section.rows if row.seeds]
    prompts = sum(section.prompt_sets.values())
    sets = ", ".join(f"{escaped(name)} ({n})" for name, n in section.prompt_sets.items())
    parts = [
        f"{escaped(section.heading)}: win rates in percent against the base, "
        f"[{100 * LEVEL:.0f}\\% interval]; ties count one half.",
        f"$n = {prompts}$ prompts ({section.distinct_prompts} distinct), "
        f"{section.images_per_prompt} image{'s' if section.images_per_prompt > 1 else ''} each: "
        f"{sets}.",
        *_estimands(rows),
    ]
    if ranked_by := _field(section, "ranked_by"):
        parts.append(
            f"Win rate and rank over {escaped(', '.join(ranked_by))}, held out for every "
            f"method; ranks are sets that the data cannot separate."
        )
    elif unranked := _field(section, "unranked_because"):
        parts.append(f"Not ranked: {escaped(unranked)}.")
    if any(row.in_loop for row in rows):
        parts.append("$^*$: the scorer's rewards took part in training.")
    if section.declared_held_out:
        parts.append(r"$^\dagger$: declared held out.")
    parts.append("Bold: separated from all other rows.")
    return " ".join(parts)


def _estimands(rows: Sequence[Row]) -> Iterator[str]:
    """What the figures are of, and over which train seeds."""
    said = {
        "method": "the method (over train seeds, prompts and noise)",
        "checkpoint": "this checkpoint (over prompts; variation between trainings unknown)",
    }
    for estimand, words in said.items():
        counts = sorted({len(row.seeds) for row in rows if _estimand(row) == estimand})
        if counts:
            seeds = " or ".join(map(str, counts))
            trained = f"{seeds} train seed{'' if seeds == '1' else 's'}"
            yield f"Estimand: {words}, {trained}."


def _estimand(row: Row) -> str:
    return _field(row, "estimand") or ("method" if len(row.seeds) > 1 else "checkpoint")
