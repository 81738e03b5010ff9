"""inspect: which pairs of a preference set are used.

Reads the whole set once. Leaves the table of usable pairs, and why others were skipped.
Its key hashes the preference set and the filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.api.kinds import PreferenceSet
from bench.lib.errors import BenchError, PluginError, StoreError
from bench.preferences import inspecting
from bench.recipe.recipe import PairFilters
from bench.stages.generated import GeneratedPairs, opened
from bench.stages.stage import Made, Stage

if TYPE_CHECKING:
    from bench.lib.progress import Task
    from bench.stages.context import Context
    from bench.store.store import Partial


class InspectFailedError(BenchError):
    """The preference set itself cannot be used: nothing can be trained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InspectStage(Stage):
    """Pairs whose two images can be decoded and that pass the recipe's filters; units: pairs."""

    name: ClassVar[str] = "inspect"
    version: ClassVar[int] = 2

    pairs: PreferenceSet
    pair_count: int
    filters: PairFilters
    max_broken_share: float

    @property
    def inputs(self) -> tuple[Stage, ...]:  # noqa: D102
        return (self.pairs.stage,) if isinstance(self.pairs, GeneratedPairs) else ()

    def key_data(self) -> Mapping[str, Any]:  # noqa: D102
        return {"filters": self.filters.model_dump(), "max_broken_share": self.max_broken_share}

    @property
    def units(self) -> int:  # noqa: D102
        return self.pair_count

    @property
    def seconds_per_load(self) -> float:
        """Decoding two images in several threads."""
        return 0.002

    def run(self, context: Context, partial: Partial, task: Task) -> Made:  # noqa: D102
        try:
            info = inspecting.inspect(
                opened(self.pairs, context),
                self.filters,
                max_broken_share=self.max_broken_share,
                folder=partial.out,
                work=partial.work,
                world=context.world,
                advance=task.advance,
            )
        except (PluginError, StoreError):
            raise
        except BenchError as error:
            raise InspectFailedError(str(error)) from error
        return Made(info=info)

    def notice(self, info: Mapping[str, Any], folder: Path) -> str:
        """So that nobody trains on other pairs than thought."""
        skipped = inspecting.summary(info, folder)
        return (
            f"{info['usable']:,} of {info['pairs']:,} pairs are used; people tied {info['ties']:,}"
        ) + (f"; {skipped}; see {folder / inspecting.SKIPPED}" if skipped else "")
