"""The board's tables for a paper: LaTeX with booktabs, a table for each protocol.

A name is printed as it is, whatever LaTeX would make of it. The best of a column is bold only where
the data separate it from every other row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.leaderboard.standings import Row, Section, Tables, names_of_rows
from bench.lib.escaping import printable
from bench.statistics.model import LEVEL, Estimand, WinRate

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
    names = names_of_rows(rows)
    yield "method", [_name(row, names[row.key]) for row in rows]
    common = section.ranked_by
    if any(row.rank_set for row in rows):
        yield "rank", [_rank(row) for row in rows]
    if len(common) > 1:
        best = _best(section, lambda row: row.common, judged=True)
        yield "win rate", [_rate(row, row.common, bold=row is best) for row in rows]
    for scorer in (*common, *(s for s in section.scorers if s not in common)):
        dagger = r"$^\dagger$" if scorer in section.declared_held_out else ""
        best = _best(section, partial(_by, scorer), judged=(scorer,) == common)
        yield (
            f"{escaped(scorer)}{dagger}",
            [
                _rate(row, row.scores.get(scorer), bold=row is best, star=scorer in row.in_loop)
                for row in rows
            ],
        )
    if any(row.cost and not row.base for row in rows):
        yield "seconds", [_seconds(row) for row in rows]


def _by(scorer: str, row: Row) -> WinRate | None:
    return row.scores.get(scorer)


def _best(section: Section, rate: Callable[[Row], WinRate | None], *, judged: bool) -> Row | None:
    """The row that is separated from all others; None if there is none.

    Args:
        section: with or without ranks.
        rate: what stands in the column.
        judged: whether it is what methods are ranked by: then the ranks say it. Else an interval
            must lie above all others and the base's 50%, which paired rows that differ need not.
    """
    if judged and not section.unranked_because:
        return next((row for row in section.rows if row.rank_set == (1, 1)), None)
    rated = [(row, found) for row in section.rows if (found := rate(row)) is not None]
    if not rated:
        return None
    best, top = max(rated, key=lambda item: item[1].win_rate)
    others = [found.high for row, found in rated if row is not best]
    return best if top.low > max((0.5, *others)) else None


def _name(row: Row, name: str) -> str:
    # A label says what the spec is, so that the narrow table of a paper needs no more.
    return f"\\texttt{{{escaped(name)}}}" if name == row.shown else escaped(name)


def _rank(row: Row) -> str:
    if row.rank_set is None:
        return _GAP
    return "--".join(map(str, dict.fromkeys(row.rank_set)))


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
    if section.ranked_by:
        several = "Win rate and rank" if len(section.ranked_by) > 1 else "Rank"
        parts.append(
            f"{several} over {escaped(', '.join(section.ranked_by))}, held out for every method; a "
            f"rank is what the comparisons of all pairs leave open."
            if not section.unranked_because
            else f"Not ranked: {escaped(section.unranked_because)}."
        )
    if any(row.in_loop for row in rows):
        parts.append("$^*$: the scorer's rewards took part in training.")
    if section.declared_held_out:
        parts.append(r"$^\dagger$: declared held out.")
    parts.append("Bold: separated from all other rows.")
    return " ".join(parts)


def _estimands(rows: Sequence[Row]) -> Iterator[str]:
    """What the figures are of, and over which train seeds."""
    said = {
        Estimand.METHOD: "the method (over train seeds, prompts and noise)",
        Estimand.CHECKPOINT: "this checkpoint (over prompts; variation between trainings unknown)",
    }
    for estimand, words in said.items():
        counts = sorted({len(row.seeds) for row in rows if row.estimand == estimand})
        if counts:
            seeds = " or ".join(map(str, counts))
            trained = f"{seeds} train seed{'' if seeds == '1' else 's'}"
            yield f"Estimand: {words}, {trained}."
