"""Looking at every pair once: which can be read, and which the recipe's filters keep."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from bench.api import contracts
from bench.api.kinds import PreferencePair, PreferenceSet
from bench.lib import checksums
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.images import decode
from bench.lib.prefetch import ahead
from bench.preferences import pair_table as table
from bench.preferences.pair_table import PairTable
from bench.recipe.recipe import PairFilters

CHUNK = 256
"""Pairs looked at between two saves."""
SKIPPED = "skipped.csv"
_FILTER = "filter "
_AHEAD = 32
"""Pairs held encoded at a time, while threads decode them."""
_MOST_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """A pair that cannot be used, and why."""

    row: int
    """Position in the preference set, from 0."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class SeenPair:
    """What is left of a pair once its images have been looked at."""

    row: int
    caption: str
    human: float
    same_model: bool
    """Whether both images come from the same known model."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of both upright images in pixels; empty for a broken pair."""
    problem: str
    """Why the pair is broken; "" if it is not."""


def look(pair: PreferencePair) -> SeenPair:
    """Decode both images of a pair."""
    problem, sizes = pair.problem, []
    for name, data in (("image_0", pair.image_0), ("image_1", pair.image_1)):
        if problem:
            break
        try:
            sizes.append(decode(data).size)
        except ValueError as error:
            problem = f"{name}: {error}"
    return SeenPair(
        row=pair.row,
        caption=pair.caption,
        human=pair.human,
        same_model=bool(pair.model_0) and pair.model_0 == pair.model_1,
        sizes=() if problem else tuple(sizes),
        problem=problem,
    )


def threads(processes: int = 1) -> int:
    """How many threads of this process should decode images."""
    return max(1, min(_MOST_THREADS, (os.cpu_count() or 1) // processes))


def inspect(
    pairs: PreferenceSet,
    filters: PairFilters,
    *,
    max_broken_share: float,
    folder: Path,
    work: Path,
    world: World,
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Find the usable pairs and write them to `folder`, the others with reasons beside them.

    A pair is broken if an image cannot be decoded. What is not broken passes the filters in the
    order of `PairFilters`: ties, same_model, min_resolution, per_prompt, max_pairs. A pair
    counts for the first filter that drops it.

    Args:
        pairs: the preference set; read once, as a stream.
        filters: which pairs the recipe wants.
        max_broken_share: more broken pairs than this share are an error.
        folder: gets the table of usable pairs and `skipped.csv` (row, reason).
        work: finished chunks are kept here.
        world: the processes that share the chunks; each returns the same counts.
        advance: called with the number of pairs of each finished chunk.

    Returns:
        `pairs`, `broken`, `ties` (people tied, not broken), `dropped_<filter>` for every filter,
        `usable`, and `unread`: once `max_pairs` are found, the rest of the set is not read, and
        the other counts are those of the pairs that were.

    Raises:
        BenchError: too many pairs are broken, or none is left.
    """
    everything = contracts.pair_count(pairs)
    chunks = [range(i, min(i + CHUNK, everything)) for i in range(0, everything, CHUNK)]
    files = {chunk: work / f"inspected-{chunk.start:09d}.parquet" for chunk in chunks}
    enough = _Enough([files[chunk] for chunk in chunks], [len(chunk) for chunk in chunks], filters)
    with world.all_or_none():
        mine = world.shard(chunks)
        missing = {chunk for chunk in mine if _read_chunk(files[chunk], len(chunk)) is None}
        wanted = (row for chunk in mine if chunk in missing for row in chunk)
        seen = ahead(look, contracts.read_pairs(pairs, wanted), _AHEAD, threads(world.size))
        for turn, chunk in enumerate(mine):
            if enough.without(chunk.start // CHUNK):
                break
            if chunk in missing:
                found = list(islice(seen, len(chunk)))
                _check_rows(found, chunk, pairs.source)
                _write_chunk(files[chunk], found)
            # The other processes are at their chunk of the same turn.
            advance(sum(map(len, chunks[turn * world.size : (turn + 1) * world.size])))
    # Processes may have looked at chunks past the one that was enough; none of them counts.
    enough.without(len(chunks))
    notes = _Notes.joined([_read_chunk(files[c], len(c)) for c in chunks[: enough.chunks]])
    total = len(notes.captions)
    broken = [BrokenRow(row=int(i), reason=notes.problems[i]) for i in np.flatnonzero(notes.broken)]
    if too_many(len(broken), total, max_broken_share):
        raise BenchError(
            f"{pairs.source}: {len(broken)} of {total} pairs have an image that cannot be "
            f"decoded, more than the {max_broken_share:.1%} that max_broken_share allows; "
            f"{describe(broken)}"
        )
    dropped = _filter(notes, filters)
    kept = ~notes.broken & (dropped == "")
    counts = {
        "pairs": total,
        "broken": len(broken),
        "ties": int(((notes.human == 0.5) & ~notes.broken).sum()),
        **{f"dropped_{name}": int((dropped == name).sum()) for name in PairFilters.model_fields},
        "usable": int(kept.sum()),
        "unread": everything - total,
    }
    if not counts["usable"]:
        why = _spell(counts) or "the set is empty"
        raise BenchError(f"{pairs.source}: no pair is left to train on ({why})")
    if world.is_main:
        rows = np.flatnonzero(kept)
        usable = PairTable(
            rows=rows,
            captions=tuple(notes.captions[i] for i in rows),
            human=notes.human[rows],
        )
        table.write(usable, folder)
        reasons = (
            (i, notes.problems[i] or f"{_FILTER}{dropped[i]}")
            for i in np.flatnonzero(~kept).tolist()
        )
        _write_skipped(folder / SKIPPED, reasons)
    return counts


def too_many(broken: int, total: int, max_share: float) -> bool:
    """Whether more pairs are broken than allowed."""
    return broken > max_share * total


def describe(broken: Sequence[BrokenRow], most: int = 3) -> str:
    """The first few broken rows in words."""
    shown = "; ".join(f"row {b.row} ({b.reason})" for b in broken[:most])
    more = f"; and {len(broken) - most} more" if len(broken) > most else ""
    return shown + more


def summary(counts: Mapping[str, int], folder: Path) -> str:
    """One line about the pairs that `inspect` skipped into `folder`; "" if it skipped none."""
    skipped = counts["pairs"] - counts["usable"]
    if not skipped:
        return ""
    named = f": {describe(read_broken(folder))}" if counts["broken"] else ""
    return f"{skipped} of {counts['pairs']} pairs skipped, {_spell(counts)}{named}"


def read_broken(folder: Path) -> list[BrokenRow]:
    """The broken pairs that `inspect` named in `folder`."""
    with (folder / SKIPPED).open(newline="", encoding="utf-8") as file:
        return [
            BrokenRow(row=int(line["row"]), reason=line["reason"])
            for line in csv.DictReader(file)
            if not line["reason"].startswith(_FILTER)
        ]


def _spell(counts: Mapping[str, int]) -> str:
    """The counts of what was skipped, without the zeros."""
    parts = [
        f"{counts[f'dropped_{name}']} by the filter {name}"
        for name in PairFilters.model_fields
        if counts[f"dropped_{name}"]
    ]
    parts += [f"{counts['broken']} broken"] if counts["broken"] else []
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Notes:
    """What was seen of N pairs, in the order of the preference set."""

    captions: list[str]
    human: np.ndarray
    same_model: np.ndarray
    shorter: np.ndarray
    """int64 [N]: the shortest of the four sides in pixels; 0 for a broken pair."""
    problems: list[str]

    @cached_property
    def broken(self) -> np.ndarray:
        """bool [N]."""
        return np.array([bool(problem) for problem in self.problems], dtype=bool)

    @classmethod
    def joined(cls, parts: Sequence[_Notes | None]) -> _Notes:
        """All chunks, one after the other."""
        present = [part for part in parts if part is not None]
        if len(present) < len(parts):
            raise BenchError("a chunk of the inspection has vanished; run the same command again")
        return cls(
            captions=[caption for part in present for caption in part.captions],
            human=np.concatenate([np.zeros(0), *(part.human for part in present)]),
            same_model=np.concatenate([np.zeros(0, bool), *(p.same_model for p in present)]),
            shorter=np.concatenate([np.zeros(0, np.int64), *(p.shorter for p in present)]),
            problems=[problem for part in present for problem in part.problems],
        )


class _Enough:
    """After which chunk `max_pairs` usable pairs are there, however many processes look."""

    def __init__(self, files: Sequence[Path], sizes: Sequence[int], filters: PairFilters) -> None:
        self._files, self._sizes, self._filters = files, sizes, filters
        self._each: Counter[str] = Counter()
        self._found = 0
        self.chunks = 0
        """The first chunks that have been counted."""

    def without(self, chunk: int) -> bool:
        """Whether the chunks before this one are known to be enough."""
        most = self._filters.max_pairs
        while self.chunks < chunk and (most is None or self._found < most):
            notes = _read_chunk(self._files[self.chunks], self._sizes[self.chunks])
            if notes is None:
                break
            if most is not None:
                self._count(notes)
            self.chunks += 1
        return most is not None and self._found >= most

    def _count(self, notes: _Notes) -> None:
        looser = self._filters.model_copy(update={"per_prompt": None, "max_pairs": None})
        passing = np.flatnonzero(~notes.broken & (_filter(notes, looser) == ""))
        for i in passing.tolist():
            self._each[notes.captions[i]] += 1
            self._found += self._each[notes.captions[i]] <= (self._filters.per_prompt or np.inf)


def _filter(notes: _Notes, filters: PairFilters) -> np.ndarray:
    """The name of the filter that drops each pair, "" for those that are kept (or broken)."""
    dropped = np.full(len(notes.captions), "", dtype=object)

    def passing() -> np.ndarray:
        kept: np.ndarray = ~notes.broken & (dropped == "")
        return kept

    if filters.ties == "drop":
        dropped[passing() & (notes.human == 0.5)] = "ties"
    if filters.same_model:
        dropped[passing() & ~notes.same_model] = "same_model"
    if filters.min_resolution is not None:
        dropped[passing() & (notes.shorter < filters.min_resolution)] = "min_resolution"
    if filters.per_prompt is not None:
        seen: Counter[str] = Counter()
        for i in np.flatnonzero(passing()).tolist():
            seen[notes.captions[i]] += 1
            if seen[notes.captions[i]] > filters.per_prompt:
                dropped[i] = "per_prompt"
    if filters.max_pairs is not None:
        dropped[np.flatnonzero(passing())[filters.max_pairs :]] = "max_pairs"
    return dropped


def _check_rows(found: Sequence[SeenPair], chunk: range, source: str) -> None:
    rows = [seen.row for seen in found]
    if rows != list(chunk):
        at = next((want for want, got in zip(chunk, rows, strict=False) if want != got), None)
        missing = chunk.start + len(rows) if at is None else at
        raise BenchError(f"{source}: row {missing} was counted but is not there")


def _write_chunk(file: Path, found: Sequence[SeenPair]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "caption": pa.array([seen.caption for seen in found], pa.string()),
        "human": pa.array([seen.human for seen in found], pa.float64()),
        "same_model": pa.array([seen.same_model for seen in found], pa.bool_()),
        "shorter": pa.array(
            [min((side for size in seen.sizes for side in size), default=0) for seen in found],
            pa.int64(),
        ),
        "problem": pa.array([seen.problem for seen in found], pa.string()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    write_atomic(file, checksums.add_checksum(buffer.getvalue()))


def _read_chunk(file: Path, pairs: int) -> _Notes | None:
    """A finished chunk; None if it is absent or damaged, so that it is looked at again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(pa.BufferReader(checksums.read_checked(file)))
    except (OSError, ValueError, pa.ArrowException):
        return None
    if found.num_rows != pairs:
        return None
    return _Notes(
        captions=found["caption"].to_pylist(),
        human=found["human"].to_numpy(),
        same_model=found["same_model"].to_numpy(),
        shorter=found["shorter"].to_numpy(),
        problems=found["problem"].to_pylist(),
    )


def _write_skipped(path: Path, rows: Iterable[tuple[int, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("row", "reason"))
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())
