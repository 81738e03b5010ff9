"""Looking at every pair once: which can be read, and which the recipe's filters keep."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.api import contracts
from bench.api.kinds import PreferencePair, PreferenceSet
from bench.lib import checksums
from bench.lib.distributed import World
from bench.lib.errors import BenchError
from bench.lib.files import write_atomic
from bench.lib.images import decode
from bench.lib.prefetch import ahead
from bench.lib.turns import chunks_of, turns
from bench.preferences import pair_table
from bench.preferences.pair_table import PairTable
from bench.recipe.recipe import PairFilters

if TYPE_CHECKING:
    import pandas as pd

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


def look(pair: PreferencePair) -> tuple[tuple[tuple[int, int], ...], str]:
    """(width, height) of both upright images in pixels, and why the pair is broken.

    A broken pair has no sizes, one that is not has "" as the reason.
    """
    problem, sizes = pair.problem, []
    for number, image in enumerate(pair.images):
        if problem:
            break
        try:
            sizes.append(decode(image.data).size)
        except ValueError as error:
            problem = f"image_{number}: {error}"
    return () if problem else tuple(sizes), problem


def same_model(pair: PreferencePair) -> bool:
    """Whether both images come from the same known model."""
    first, second = pair.images
    return bool(first.model) and first.model == second.model


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
    chunks = chunks_of(everything, CHUNK)
    files = {chunk: work / f"inspected-{chunk.start:09d}.parquet" for chunk in chunks}
    enough = _Enough([files[chunk] for chunk in chunks], [len(chunk) for chunk in chunks], filters)
    with world.all_or_none():
        mine = turns(chunks, world)
        missing = {chunk for chunk, _ in mine if _read_chunk(files[chunk], len(chunk)) is None}
        wanted = (row for chunk, _ in mine if chunk in missing for row in chunk)
        notes = ahead(_note, contracts.read_pairs(pairs, wanted), _AHEAD, threads(world.size))
        for chunk, done in mine:
            if enough.without(chunk.start // CHUNK):
                break
            if chunk in missing:
                _write_chunk(files[chunk], list(islice(notes, len(chunk))))
            # The other processes are at their chunk of the same turn.
            advance(done)
    # Processes may have looked at chunks past the one that was enough; none of them counts.
    enough.without(len(chunks))
    seen = _joined([_read_chunk(files[c], len(c)) for c in chunks[: enough.chunks]])
    total, problems, human = len(seen), seen["problem"].to_list(), seen["human"].to_numpy()
    broken = [BrokenRow(row=row, reason=reason) for row, reason in enumerate(problems) if reason]
    if too_many(len(broken), total, max_broken_share):
        raise BenchError(
            f"{pairs.source}: {len(broken)} of {total} pairs have an image that cannot be "
            f"decoded, more than the {max_broken_share:.1%} that max_broken_share allows; "
            f"{describe(broken)}"
        )
    dropped, fine = _filter(seen, filters), _fine(seen)
    kept = fine & (dropped == "")
    counts = {
        "pairs": total,
        "broken": len(broken),
        "ties": int(((human == 0.5) & fine).sum()),
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
            captions=tuple(seen["caption"].iloc[rows]),
            human=human[rows],
        )
        pair_table.write(usable, folder)
        reasons = (
            (i, problems[i] or f"{_FILTER}{dropped[i]}") for i in np.flatnonzero(~kept).tolist()
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


class _Enough:
    """After which chunk `max_pairs` usable pairs are there, however many processes look."""

    def __init__(self, files: Sequence[Path], sizes: Sequence[int], filters: PairFilters) -> None:
        self._files, self._sizes, self._filters = files, sizes, filters
        self._each: Counter[str] = Counter()
        self._usable = 0
        self.chunks = 0
        """The first chunks that have been counted."""

    def without(self, chunk: int) -> bool:
        """Whether the chunks before this one are known to be enough."""
        most = self._filters.max_pairs
        while self.chunks < chunk and (most is None or self._usable < most):
            notes = _read_chunk(self._files[self.chunks], self._sizes[self.chunks])
            if notes is None:
                break
            if most is not None:
                self._count(notes)
            self.chunks += 1
        return most is not None and self._usable >= most

    def _count(self, notes: pd.DataFrame) -> None:
        looser = self._filters.model_copy(update={"per_prompt": None, "max_pairs": None})
        for caption in notes["caption"][_fine(notes) & (_filter(notes, looser) == "")]:
            self._each[caption] += 1
            self._usable += self._each[caption] <= (self._filters.per_prompt or np.inf)


def _filter(notes: pd.DataFrame, filters: PairFilters) -> np.ndarray:
    """The name of the filter that drops each pair, "" for those that are kept (or broken)."""
    dropped = np.full(len(notes), "", dtype=object)
    fine = _fine(notes)

    def passing() -> np.ndarray:
        kept: np.ndarray = fine & (dropped == "")
        return kept

    if filters.ties == "drop":
        dropped[passing() & (notes["human"] == 0.5)] = "ties"
    if filters.same_model:
        dropped[passing() & ~notes["same_model"]] = "same_model"
    if filters.min_resolution is not None:
        dropped[passing() & (notes["shorter"] < filters.min_resolution)] = "min_resolution"
    if filters.per_prompt is not None:
        earlier = notes[passing()].groupby("caption").cumcount()
        dropped[np.flatnonzero(passing())[earlier >= filters.per_prompt]] = "per_prompt"
    if filters.max_pairs is not None:
        dropped[np.flatnonzero(passing())[filters.max_pairs :]] = "max_pairs"
    return dropped


def _fine(notes: pd.DataFrame) -> np.ndarray:
    """bool [N]: the pairs that are not broken."""
    fine: np.ndarray = (notes["problem"] == "").to_numpy(dtype=bool)
    return fine


_KINDS = {"caption": str, "human": float, "same_model": bool, "shorter": int, "problem": str}
"""What is noted of a pair, in place of its images; `shorter`: the shortest of the four sides."""


def _note(pair: PreferencePair) -> tuple[str, float, bool, int, str]:
    sizes, problem = look(pair)
    shorter = min((side for size in sizes for side in size), default=0)
    return pair.caption, pair.human, same_model(pair), shorter, problem


def _write_chunk(file: Path, notes: Sequence[tuple[str, float, bool, int, str]]) -> None:
    import pandas as pd

    frame = pd.DataFrame(notes, columns=[*_KINDS]).astype(_KINDS)
    write_atomic(file, checksums.add_checksum(frame.to_parquet(index=False)))


def _read_chunk(file: Path, pairs: int) -> pd.DataFrame | None:
    """A finished chunk; None if it is absent or damaged, so that it is looked at again."""
    import pandas as pd
    import pyarrow as pa

    try:
        notes = pd.read_parquet(io.BytesIO(checksums.read_checked(file)))
    except (OSError, ValueError, pa.ArrowException):
        return None
    return notes if len(notes) == pairs else None


def _joined(parts: Sequence[pd.DataFrame | None]) -> pd.DataFrame:
    """All chunks, one after the other."""
    import pandas as pd

    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        raise BenchError("a chunk of the inspection has vanished; run the same command again")
    nothing = pd.DataFrame(columns=[*_KINDS]).astype(_KINDS)
    return pd.concat([nothing, *present], ignore_index=True)


def _write_skipped(path: Path, rows: Iterable[tuple[int, str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("row", "reason"))
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())
