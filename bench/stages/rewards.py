"""rewards: what one scorer says of both images of every usable pair.

Leaves `rewards.parquet` (row, reward_0, reward_1).
Its key hashes the scorer and the inspected pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.api import contracts, scorer_loads
from bench.api.kinds import PreferenceSet, Scorer
from bench.lib import images as image_files
from bench.lib.prefetch import ahead
from bench.scoring.chunks import DECODE_AHEAD, score_in_chunks
from bench.stages.generated import opened
from bench.stages.inspect import InspectStage
from bench.stages.stage import Made, Stage
from bench.stages.tables import read_columns, write_columns

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial

FILE = "rewards.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardsStage(Stage):
    """Rewards of both images of every pair by one scorer; units: images."""

    name: ClassVar[str] = "rewards"
    version: ClassVar[int] = 1

    inspect: InspectStage
    """Says which pairs are usable."""
    pairs: PreferenceSet
    pair_count: int
    scorer: Scorer
    reads: tuple[str, ...]
    """Names of the scorers, without options, that may be loaded: its own, and what it holds."""

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.inspect,)

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {"pairs": self.inspect.key}

    @property
    def units(self) -> int:  # noqa: D102
        return 2 * self.pair_count

    def units_now(self, context: Context) -> int:  # noqa: D102
        return 2 * len(context.table(self.inspect).rows)

    @property
    def seconds_per_load(self) -> float:  # noqa: D102
        return self.scorer.seconds_per_image

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        usable, pairs = context.table(self.inspect), opened(self.pairs, context)

        def images(positions: Sequence[int]) -> Iterator[Image]:
            """Image i % 2 of usable pair i // 2; both of a pair come from one reading."""
            wanted = dict.fromkeys(int(usable.rows[i // 2]) for i in positions)
            sides: dict[int, list[int]] = {row: [] for row in wanted}
            for i in positions:
                sides[int(usable.rows[i // 2])].append(i % 2)
            encoded = (
                pair.images[side].data
                for pair in contracts.read_pairs(pairs, wanted)
                for side in sides[pair.row]
            )
            return ahead(image_files.decode, encoded, DECODE_AHEAD)

        with scorer_loads.only(self.label, self.reads):
            scores = score_in_chunks(
                lambda: context.scorer(self.scorer),
                self.scorer.name,
                images,
                [caption for caption in usable.captions for _ in (0, 1)],
                partial.work,
                task.advance,
                context.world,
            ).reshape(-1, 2)
        if context.world.is_main:
            columns = {"row": usable.rows, "reward_0": scores[:, 0], "reward_1": scores[:, 1]}
            write_columns(partial.out / FILE, columns)
        return Made(info={"pairs": len(usable.rows)})


def read_rewards(folder: Path) -> np.ndarray:
    """float64 [N, 2]: the rewards of image 0 and image 1 of the usable pairs."""
    return np.stack(read_columns(folder / FILE, "reward_0", "reward_1"), axis=1)
