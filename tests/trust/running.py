"""Run a plan, and what its board says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.leaderboard.standings import Row
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.running.plan import Plan
from bench.running.walk import Walk, status
from bench.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a run."""

    store: Store
    failures: Mapping[str, str]
    rows: tuple[Row, ...]

    def row(self, method: str) -> Row:
        """The row of one method, base or failed ones too."""
        return next(row for row in self.rows if row.method == method)

    def nfe(self, method: str) -> tuple[int, int]:
        """Its evaluations of training and of sampling."""
        cost = self.row(method).cost
        assert cost is not None
        return cost.train_nfe, cost.sample_nfe


def run(plan: Plan, folder: Path) -> Done:
    """Run what is missing in the store in `folder`, and build the board."""
    store = Store(folder / "store")
    progress = Progress(Console(quiet=True))
    outcome = Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)
    built = writing.write(plan, store, folder / "out", outcome)
    rows = tuple(row for section in built.sections for row in section.rows)
    return Done(store=store, failures=outcome.failures, rows=rows)
