"""A board as CSV for git and spreadsheets, and as JSON for machines."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.leaderboard.results import Budget, Cost
from bench.leaderboard.signature import Signature
from bench.leaderboard.standings import HELD_OUT, HeadToHead, Row, Section, Tables
from bench.lib import escaping
from bench.lib.canonical_json import plain, to_json
from bench.statistics.model import LEVEL, WinRate
from bench.statistics.ranking import FAMILY

COMMON = "common"
"""Stands for the mean over `Section.ranked_by` where a scorer's name is expected."""
_RATE_FIELDS = (*(field.name for field in dataclasses.fields(WinRate)), "without_ties")


def _rate_fields(rate: WinRate | None) -> dict[str, Any]:
    """A win rate as plain fields; None throughout for a gap."""
    return {name: _rounded(getattr(rate, name)) if rate else None for name in _RATE_FIELDS}


_SECTION_FIELDS = [
    field.name
    for field in dataclasses.fields(Section)
    if field.name not in ("evaluation", "groups", "rows", "seed_rows", "head_to_head")
]


def _section_fields(section: Section) -> dict[str, str]:
    return {
        "protocol": section.protocol[:12],
        "backbone": section.backbone,
        "pairs": section.pairs,
    }


def _row_fields(row: Row) -> dict[str, Any]:
    """What a row says of its method: identity, budget, cost."""
    fields: dict[str, Any] = {
        "method": row.method,
        "variant": row.variant,
        "label": row.label,
        "base": row.base,
        "rank_best": row.rank_set[0] if row.rank_set else None,
        "rank_worst": row.rank_set[1] if row.rank_set else None,
        "letters": row.letters,
        "train_seeds": list(row.seeds),
        "failures": list(row.failures),
    }
    for kind, record in ((Budget, row.budget), (Cost, row.cost)):
        for field in dataclasses.fields(kind):
            fields[field.name] = _rounded(getattr(record, field.name)) if record else None
    return fields


def _rounded(value: Any) -> Any:
    """Plain data with six digits: finer than any interval, coarser than machines differ by."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_rounded(item) for item in value]
    return _rounded(plain(value)) if dataclasses.is_dataclass(value) else value


def render_csv(tables: Tables) -> str:
    """One line a method, train seeds (all or one) and scorer; empty cells are gaps.

    The scorer "common" is the mean over those held out for every row, "held-out" that over the
    row's own.
    """
    return _csv(
        {
            **_section_fields(section),
            "over_seeds": over_seeds,
            "scorer": scorer,
            "in_loop": scorer in row.in_loop,
            **_rate_fields(rate),
            "adjusted_p": _rounded(row.adjusted_p) if scorer == COMMON else None,
            **_row_fields(row),
            "signature": str(whole.narrowed(_scorers(section, row, scorer), row.seeds))
            if rate
            else "",
        }
        for section in tables.sections
        for whole in (Signature.parse(section.signature),)
        for over_seeds, rows in ((True, section.rows), (False, section.seed_rows))
        for row in rows
        for scorer, rate in _columns_of(section, row)
    )


def _columns_of(section: Section, row: Row) -> Iterator[tuple[str, WinRate | None]]:
    yield COMMON, row.common
    yield HELD_OUT, row.held_out
    for scorer in section.scorers:
        yield scorer, row.scores.get(scorer)


def _scorers(section: Section, row: Row, scorer: str) -> Sequence[str]:
    """Those that a number is of, or a mean over."""
    means = {COMMON: section.ranked_by, HELD_OUT: row.held_out_scorers}
    return means.get(scorer, (scorer,))


def render_head_to_head_csv(tables: Tables) -> str:
    """One line a pair: the method's win rate over the other, interval and p for all at once."""
    return _csv(
        {
            **_section_fields(section),
            **_pair_fields(pair),
            **_rate_fields(pair.rate),
        }
        for section in tables.sections
        for pair in section.head_to_head
    )


def _pair_fields(pair: HeadToHead) -> dict[str, Any]:
    return {
        "method": pair.method,
        "variant": pair.variant,
        "other": pair.other,
        "other_variant": pair.other_variant,
        "separated": pair.separated,
        "adjusted_p": _rounded(pair.adjusted_p),
    }


def render_groups_csv(tables: Tables) -> str:
    """One line a method, scorer and group of prompts; train seeds pooled."""
    return _csv(
        {
            **_section_fields(section),
            "method": row.method,
            "variant": row.variant,
            "prompt_set": row.prompt_set,
            "dimension": row.dimension,
            "group": row.group,
            "scorer": row.scorer,
            "in_loop": row.in_loop,
            **_rate_fields(row.result),
        }
        for section in tables.sections
        for row in section.groups
    )


def _csv(lines: Iterable[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    cells = [{key: _csv_cell(value) for key, value in line.items()} for line in lines]
    if cells:
        writer = csv.DictWriter(stream, list(cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    return stream.getvalue()


def _csv_cell(value: Any) -> Any:
    # Not every Python quotes a lone carriage return, which would then end the line.
    if isinstance(value, list):
        joint = " " if all(isinstance(item, int | float) for item in value) else "; "
        value = joint.join(map(str, value))
    text = value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value
    return escaping.csv_cell(text)


def render_json(tables: Tables) -> str:
    """The rows, pooled and by train seed, with how the intervals were made."""

    def rows(section: Section, of: Iterable[Row]) -> list[dict[str, Any]]:
        whole = Signature.parse(section.signature)
        return [
            {
                **_row_fields(row),
                "signature": str(whole.narrowed(row.scores, row.seeds)) if row.scores else "",
                "in_loop": list(row.in_loop),
                "held_out_scorers": list(row.held_out_scorers),
                "held_out": _rate_fields(row.held_out) if row.held_out else None,
                "common": _rate_fields(row.common) if row.common else None,
                "adjusted_p": _rounded(row.adjusted_p),
                "panel": _rounded(row.panel),
                "scores": {scorer: _rate_fields(rate) for scorer, rate in row.scores.items()},
            }
            for row in of
        ]

    return to_json(
        {
            "schema": 3,
            "interval": {
                "method": "two-way random effects, prompts by train seeds; Student's t",
                "level": LEVEL,
            },
            "family": {"method": "max-t over all pairs, base included", "level": FAMILY},
            "sections": [
                {
                    **{name: _rounded(getattr(section, name)) for name in _SECTION_FIELDS},
                    **_section_fields(section),
                    "rows": rows(section, section.rows),
                    "seed_rows": rows(section, section.seed_rows),
                    "head_to_head": [
                        {**_pair_fields(pair), **_rate_fields(pair.rate)}
                        for pair in section.head_to_head
                    ],
                }
                for section in tables.sections
            ],
        }
    )
