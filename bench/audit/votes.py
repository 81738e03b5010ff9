"""Votes as the page saves them: every row checked against the key."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.audit.records import AuditKey
from bench.lib.errors import BenchError
from bench.lib.escaping import from_csv_cell
from bench.lib.reading import text_lines
from bench.lib.wording import quoted

COLUMNS = ("item", "vote", "seconds", "rater")
CHOICES = {"left": 1.0, "tie": 0.5, "right": 0.0}
"""Vote -> the outcome of the picture on the left."""
_LONGEST_RATER = 200


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One person's answer to one item."""

    item: int
    """Its number in the key."""
    rater: str
    choice: str
    """left, right or tie."""
    seconds: float
    """From both pictures being there to the choice."""

    def outcome(self, *, first_left: bool) -> float:
        """1 where the pair's first method was preferred, 0.5 for a tie."""
        left = CHOICES[self.choice]
        return left if first_left else 1.0 - left


def load_votes(paths: Sequence[Path], key: AuditKey) -> list[Vote]:
    """Read the votes of one audit, from one file a person or more.

    Raises:
        BenchError: a row is no vote on an item of this audit, or a person votes twice on one;
            names file and row.
    """
    numbers = {item.item: number for number, item in enumerate(key.items)}
    seen: dict[tuple[int, str], str] = {}
    votes = []
    for path in paths:
        own = 0
        for where, cells in _rows(path):
            vote = _vote(where, cells, numbers, key)
            other = seen.get((vote.item, vote.rater))
            if other:
                raise BenchError(
                    f"{where}: {quoted(vote.rater)} votes on {cells['item']} a second time, after "
                    f"{other}; keep one (two people need two names)"
                )
            seen[vote.item, vote.rater] = where
            votes.append(vote)
            own += 1
        if not own:
            raise BenchError(f"{path}: holds no votes")
    return votes


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row's place in words, and its cells by column."""
    lines = text_lines(path)
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    try:
        header = next(reader, [])
        if sorted(header) != sorted(COLUMNS):
            raise BenchError(
                f"{path}: row 1: the columns are {quoted(','.join(header))}, not "
                f"{','.join(COLUMNS)}, as the page saves them"
            )
        for number, cells in enumerate(reader, start=2):
            if not cells:
                continue
            where = f"{path}: row {number}"
            if len(cells) != len(header):
                raise BenchError(f"{where}: has {len(cells)} cells, not {len(header)}")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise BenchError(f"{path}: row {reader.line_num}: is no CSV ({error})") from error


def _vote(where: str, cells: dict[str, str], numbers: dict[str, int], key: AuditKey) -> Vote:
    name, choice = cells["item"], cells["vote"]
    if name not in numbers:
        audit = name.partition("-")[0]
        why = (
            f"is of another audit ({quoted(audit)}, the key is of {key.audit}); give its own key"
            if audit != key.audit
            else "is no item of this audit"
        )
        raise BenchError(f"{where}: item {quoted(name)} {why}")
    if choice not in CHOICES:
        raise BenchError(f"{where}: vote is {quoted(choice)}, not {', '.join(CHOICES)}")
    rater = " ".join(from_csv_cell(cells["rater"]).split())
    if not 0 < len(rater) <= _LONGEST_RATER:
        raise BenchError(
            f"{where}: rater {'is empty' if not rater else 'is too long'}; name who voted"
        )
    try:
        seconds = float(cells["seconds"])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BenchError(f"{where}: seconds is {quoted(cells['seconds'])}, not a time")
    return Vote(item=numbers[name], rater=rater, choice=choice, seconds=seconds)
