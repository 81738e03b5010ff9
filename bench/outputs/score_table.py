"""Every score of a board as one table, a row an image and scorer: `scores.parquet`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.leaderboard.results import Cell, CellResult, PromptSetScores
from bench.lib import escaping
from bench.recipe.prompt_table import PromptTable
from bench.stages.sample import SampleStage, image_in
from bench.store.store import place

if TYPE_CHECKING:
    import pandas as pd

GROUP = "group."
"""What stands before the name of a dimension of prompts in its column's name."""
_BEFORE = (
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
)
_AFTER = ("score", "image", "protocol", "cell")


def score_table(cells: Mapping[Path, Cell], prompts: Mapping[str, PromptTable]) -> pd.DataFrame:
    """Every score, in the order of result files, prompt sets, scorers, prompts and image seeds.

    Args:
        cells: of one board, by their files.
        prompts: by `PromptTable.sha256`.

    Returns:
        The columns method, label, base, train_seed (none where nothing was trained), prompt_set,
        prompt_row (from 0), image_seed, scorer, in_loop (whether the method read it), prompt,
        `group.<dimension>` for each dimension of any prompt (none where a prompt has no such
        group), score, image (its path below the store's folder, '' where it is not known),
        protocol and cell (first digits of `Protocol.digest` and `CellResult.identity`).
    """
    import pandas as pd

    used = {
        part.prompts_sha256
        for cell in cells.values()
        for part in (cell.evaluations if isinstance(cell, CellResult) else ())
    }
    groups = {key: _groups(prompts[key]) for key in used}
    dimensions = sorted({dimension for found in groups.values() for dimension in found})
    blocks = []
    for _, cell in sorted(cells.items()):
        for part in cell.evaluations if isinstance(cell, CellResult) else ():
            assert isinstance(cell, CellResult)
            table, seeds = prompts[part.prompts_sha256], len(part.image_seeds)
            rows = np.arange(part.prompts)
            of_images = {
                "prompt_row": np.repeat(rows, seeds),
                "image_seed": np.tile(part.image_seeds, part.prompts),
                "prompt": np.repeat(np.array(table.texts, dtype=object), seeds),
                "image": image_paths(part),
            } | {
                GROUP + dimension: np.repeat(values, seeds)
                for dimension, values in groups[table.sha256].items()
            }
            for scorer, values in sorted(part.scores.items()):
                block = {
                    **of_images,
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
                }
                blocks.append(pd.DataFrame(block).astype({"train_seed": "Int64"}))
    columns = [*_BEFORE, *(GROUP + dimension for dimension in dimensions), *_AFTER]
    if not blocks:
        return pd.DataFrame(columns=columns)
    return pd.concat(blocks, ignore_index=True).reindex(columns=columns)


def parquet(frame: pd.DataFrame) -> bytes:
    """The table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _groups(table: PromptTable) -> dict[str, np.ndarray]:
    """Dimension -> object [prompts]: each prompt's group, None where it has none."""
    dimensions = sorted({dimension for groups in table.groups for dimension in groups})
    return {
        dimension: np.array([groups.get(dimension) for groups in table.groups], dtype=object)
        for dimension in dimensions
    }


def csv_text(frame: pd.DataFrame) -> str:
    """The table as CSV with every digit, whose cells no spreadsheet takes for formulas."""
    text = frame.map(escaping.csv_cell)
    text.columns = [escaping.csv_cell(name) for name in frame.columns]
    return text.to_csv(index=False, lineterminator="\n")


def image_paths(part: PromptSetScores) -> np.ndarray:
    """object [prompts * image seeds]: each image's path below the store's folder, or ''."""
    if not part.samples:
        return np.full(part.prompts * len(part.image_seeds), "", dtype=object)
    folders = [place(SampleStage.name, key) for key in part.samples]
    paths = [image_in(f, row).as_posix() for row in range(part.prompts) for f in folders]
    return np.array(paths, dtype=object)
