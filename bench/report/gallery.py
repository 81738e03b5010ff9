"""The gallery: every prompt with every method's scores and, where there are, its pictures.

The page gets the scores of the first train seed in 16 bits each (65,534 levels between the lowest
and the highest of a scorer), so that fifty methods on thousands of prompts stay small.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.leaderboard.results import Cell, CellResult, PromptSetScores
from bench.leaderboard.standings import Section
from bench.lib.escaping import printable
from bench.recipe.prompt_table import PromptTable
from bench.report import words
from bench.report.views import SectionView, cells_of, name_of

LEVELS = 65_534
MISSING = 65_535
MOST_SCORES = 4_000_000
"""Of a section: more are shown for the first image seed alone."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image of a prompt, drawn by a method from one noise."""

    prompt_set: str
    sample: str
    """Key of the stage that drew it; '' where it is not known."""
    row: int


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt and a noise: what all methods drew from it stands side by side."""

    prompt_set: str
    row: int
    image_seed: int
    text: str
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of a section, of one train seed."""

    names: tuple[str, ...]
    """Methods, the base first."""
    seeds: tuple[int, ...]
    """Train seed of each."""
    scorers: tuple[str, ...]
    items: tuple[Item, ...]
    scores: Floats
    """[methods, scorers, items]; NaN where a scorer did not score."""
    pictures: tuple[tuple[Picture, ...], ...]
    """[items][methods]."""
    left_out: str
    """What is not shown, in a sentence; '' if all is."""

    @property
    def spread(self) -> Floats:
        """[scorers]: standard deviation of the base's scores, the unit of differences."""
        known = (row[np.isfinite(row)] for row in self.scores[0])
        sd = np.array([row.std() if row.size else 0.0 for row in known])
        return np.where(sd > 0, sd, 1.0)


def gallery(
    view: SectionView,
    section: Section,
    cells: Mapping[Path, Cell],
    prompts: Mapping[str, PromptTable],
) -> Gallery:
    """The gallery of a section: the base, then its methods in the order of the board."""
    first: dict[str, CellResult] = {}
    mine = [cell for _, cell in cells_of(section, cells) if isinstance(cell, CellResult)]
    for cell in sorted(mine, key=lambda cell: cell.seed):
        first.setdefault(name_of(cell, section), cell)
    order = sorted(view.lines, key=lambda line: not line.base)
    names = [line.name for line in order if line.name in first]
    chosen = [first[name] for name in names]
    base = chosen[0]
    parts = sorted(base.evaluations, key=lambda part: part.prompt_set)
    all_seeds = base.evaluation.image_seeds
    total = len(chosen) * len(view.scorers) * sum(part.prompts for part in parts) * len(all_seeds)
    kept = list(range(len(all_seeds) if total <= MOST_SCORES else 1))
    items = [
        Item(
            prompt_set=part.prompt_set,
            row=row,
            image_seed=all_seeds[seed],
            text=prompts[part.prompts_sha256].texts[row],
            groups=tuple(
                f"{dimension}: {value}"
                for dimension, value in prompts[part.prompts_sha256].groups[row].items()
            ),
        )
        for part in parts
        for row in range(part.prompts)
        for seed in kept
    ]
    return Gallery(
        names=tuple(names),
        seeds=tuple(cell.seed for cell in chosen),
        scorers=view.scorers,
        items=tuple(items),
        scores=np.stack([_scores(cell, view.scorers, kept) for cell in chosen]),
        pictures=tuple(zip(*(_pictures(cell, kept) for cell in chosen), strict=True)),
        left_out=""
        if len(kept) == len(all_seeds)
        else f"Image seed {all_seeds[0]} of {len(all_seeds)}; scores.parquet has all.",
    )


def _parts(cell: CellResult) -> list[PromptSetScores]:
    return sorted(cell.evaluations, key=lambda part: part.prompt_set)


def _scores(cell: CellResult, scorers: Sequence[str], kept: Sequence[int]) -> Floats:
    """[scorers, items]."""

    def of(part: PromptSetScores, scorer: str) -> Floats:
        if scorer not in part.scores:
            return np.full(part.prompts * len(kept), np.nan)
        return np.array(part.scores[scorer]).reshape(part.prompts, -1)[:, kept].ravel()

    return np.stack([np.concatenate([of(p, scorer) for p in _parts(cell)]) for scorer in scorers])


def _pictures(cell: CellResult, kept: Sequence[int]) -> list[Picture]:
    return [
        Picture(
            prompt_set=part.prompt_set, sample=part.samples[seed] if part.samples else "", row=row
        )
        for part in _parts(cell)
        for row in range(part.prompts)
        for seed in kept
    ]


def choose(shown: Gallery, most: int) -> tuple[int, ...]:
    """The items whose pictures are kept where there are more than `most`: those worth a look.

    A third is an even spread over all. Then, in turn, the biggest win and the biggest loss of each
    method and its most disputed, until there are so many.
    """
    count = len(shown.items)
    if count <= most:
        return tuple(range(count))
    queues: list[npt.NDArray[np.int64]] = []
    for method in range(1, len(shown.names)):
        change = _standardised(shown, method)
        if not len(change):
            continue
        mean, dispute = change.mean(axis=0), change.max(axis=0) - change.min(axis=0)
        # Rounded, so that equal differences are equal on every machine; then by place.
        several = (np.round(worth, 9) for worth in (-mean, mean, -dispute))
        queues.extend(np.argsort(worth, kind="stable")[:most] for worth in several)
    even = -(-most // 3) if queues else most
    spread = np.linspace(0, count - 1, even).round().astype(int)
    chosen: dict[int, None] = dict.fromkeys(spread.tolist())
    for turn in range(most):
        for queue in queues:
            if len(chosen) < most and turn < len(queue):
                chosen.setdefault(int(queue[turn]))
    return tuple(sorted(chosen))


def _standardised(shown: Gallery, method: int) -> Floats:
    """[scorers that scored, items]: difference to the base in standard deviations of the base."""
    change: Floats = (shown.scores[method] - shown.scores[0]) / shown.spread[:, None]
    return change[np.isfinite(change).all(axis=1)]


def quantised(scores: Floats) -> tuple[Floats, npt.NDArray[np.uint16]]:
    """Scores in 16 bits.

    Args:
        scores: [methods, scorers, items].

    Returns:
        [scorers, 2], the lowest and the highest of each, and levels of the same shape as scores.
    """
    count = scores.shape[1]
    low, high = np.zeros(count), np.ones(count)
    for scorer in range(count):
        known = scores[:, scorer][np.isfinite(scores[:, scorer])]
        if known.size:
            low[scorer], high[scorer] = known.min(), known.max()
    low = np.array([words.rounded(value, 9) for value in low])
    high = np.array([words.rounded(value, 9) for value in high])
    step = np.where(high > low, high - low, 1.0)[None, :, None]
    levels = np.rint((scores - low[None, :, None]) / step * LEVELS)
    levels = np.where(np.isfinite(levels), np.clip(levels, 0, LEVELS), MISSING)
    return np.stack([low, high], axis=1), levels.astype("<u2")


def payload(shown: Gallery, view: SectionView, urls: Mapping[tuple[int, int], str]) -> str:
    """What the page's script reads, as JSON that may stand within an element of HTML.

    Args:
        shown: the gallery.
        view: of the same section.
        urls: item and method -> where the picture is; what is not there has none.
    """
    ends, levels = quantised(shown.scores)
    sets = list(dict.fromkeys(item.prompt_set for item in shown.items))
    groups = sorted({group for item in shown.items for group in item.groups})
    number = {group: i for i, group in enumerate(groups)}
    with_pictures = sorted({item for item, _ in urls})
    data: dict[str, Any] = {
        "methods": [
            {"name": name, "seed": seed}
            for name, seed in zip(shown.names, shown.seeds, strict=True)
        ],
        "scorers": [printable(scorer) for scorer in shown.scorers],
        "judges": [i for i, s in enumerate(shown.scorers) if printable(s) in view.ranked_by],
        "ends": ends.tolist(),
        "spread": [words.rounded(float(value)) for value in shown.spread],
        "sets": list(map(printable, sets)),
        "groups": list(map(printable, groups)),
        "texts": [item.text for item in shown.items],
        "of": [sets.index(item.prompt_set) for item in shown.items],
        "rows": [item.row for item in shown.items],
        "noise": [item.image_seed for item in shown.items],
        "in": [[number[group] for group in item.groups] for item in shown.items],
        "scores": base64.b64encode(levels.tobytes()).decode(),
        "pictures": {
            str(item): [urls.get((item, method)) for method in range(len(shown.names))]
            for item in with_pictures
        },
    }
    return embedded(data)


def embedded(data: Any) -> str:
    """JSON in which no text ends the script element that holds it, or begins another."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def wanted(shown: Gallery, chosen: Sequence[int]) -> Iterator[tuple[int, int, Picture]]:
    """Item, method and picture of everything that the page may show."""
    for item in chosen:
        for method, picture in enumerate(shown.pictures[item]):
            yield item, method, picture
