"""Every score of a board's result files as a table, a row an image and scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.leaderboard.opening import Opened, cells_of
from bench.leaderboard.results import CellResult, PromptSetScores
from bench.lib import escaping
from bench.recipe.prompt_table import PromptTable

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "method",
    "label",
    "base",
    "train_seed",
    "prompt_set",
    "prompt_row",
    "image_seed",
    "scorer",
    "in_loop",
    "prompt",
    "score",
    "image",
    "protocol",
    "cell",
)
"""Beside these, one `group.<dimension>` for each dimension in which prompts are grouped."""


def score_frame(opened: Opened, methods: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of all finished cells, or of those of some methods and of the base.

    Columns: `COLUMNS` and the groups. `train_seed` is missing where nothing was trained, `image`
    is a path below the store, '' where it is not known.

    Raises:
        BenchError: a method is unknown; says what is close.
    """
    import pandas as pd

    cells = [cell for cell in opened.cells.values() if isinstance(cell, CellResult)]
    if methods:
        wanted = [c for name in methods for c in cells_of(opened.cells, name, opened.folder)]
        kept = {cell.identity for cell in wanted}
        cells = [cell for cell in cells if cell.base or cell.identity in kept]
    blocks = [
        pd.DataFrame(block).astype({"train_seed": "Int64"})
        for cell in cells
        for part in cell.evaluations
        for block in _blocks(cell, part, opened.prompts[part.prompts_sha256])
    ]
    if not blocks:
        return pd.DataFrame(columns=[*COLUMNS])
    frame = pd.concat(blocks, ignore_index=True)
    groups = sorted(set(frame.columns) - set(COLUMNS))
    return frame[[*COLUMNS[:10], *groups, *COLUMNS[10:]]]


def _blocks(
    cell: CellResult, part: PromptSetScores, table: PromptTable
) -> Iterator[dict[str, Any]]:
    """The columns of one cell's scores of one prompt set, a block a scorer."""
    images = len(part.image_seeds)
    rows = np.repeat(np.arange(part.prompts), images)
    dimensions = sorted({name for groups in table.groups for name in groups})
    shown = {
        "prompt_row": rows,
        "image_seed": np.tile(np.array(part.image_seeds, dtype=np.int64), part.prompts),
        "prompt": np.array(table.texts, dtype=object)[rows],
        **{
            f"group.{name}": np.array([g.get(name) for g in table.groups], dtype=object)[rows]
            for name in dimensions
        },
        "image": image_paths(part),
    }
    for scorer, values in sorted(part.scores.items()):
        yield {
            "method": cell.method,
            "label": cell.label,
            "base": cell.base,
            "train_seed": cell.seed if cell.training else None,
            "prompt_set": part.prompt_set,
            "scorer": scorer,
            "in_loop": scorer in cell.in_loop,
            "score": values,
            "protocol": cell.protocol.digest[:12],
            "cell": cell.identity[:12],
            **shown,
        }


def image_paths(part: PromptSetScores) -> list[str]:
    """Where the images lie below the store, in the order of the scores; '' if not known."""
    keys: tuple[str, ...] = getattr(part, "samples", ())
    if not keys:
        return [""] * (part.prompts * len(part.image_seeds))
    return [
        f"artefacts/sample/{key}/images/{row:05d}.png"
        for row in range(part.prompts)
        for key in keys
    ]


def as_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV whose cells no spreadsheet takes for formulas, with every digit."""
    text = frame.copy()
    for name in text.columns:
        if text[name].dtype == object or str(text[name].dtype) in ("str", "string"):
            text[name] = text[name].map(escaping.csv_cell)
    text.columns = [escaping.csv_cell(name) for name in text.columns]
    return text.to_csv(index=False, lineterminator="\n")
