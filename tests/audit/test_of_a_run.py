"""An audit of what a real run leaves: the way from a recipe to people's votes."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench.audit import compared, exporting
from bench.audit.findings import find
from bench.audit.votes import load_votes
from bench.lib.progress import Progress
from bench.outputs import writing
from bench.run import planning
from bench.run.walk import Walk, status
from bench.store.store import Store
from tests import toy
from tests.audit.voting import write_votes


def test_a_run_can_be_audited(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, training={"steps": 1}, methods=["dpo"])
    plan = planning.make(recipe, toy.registry())
    store = Store(tmp_path / "store")
    progress = Progress(Console(quiet=True))
    outcome = Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)
    out = tmp_path / "out"
    writing.write(plan, store, out, outcome)
    found = compared.load(out)
    assert [method.shown for method in found.methods] == ["dpo", "base"]
    audit = exporting.prepare(found, exporting.images_in(store.root, found), count=5)
    key = audit.key
    assert len(audit.files) == 1 + 2 * len(key.items)
    rows = [[i.item, "left" if i.first_left else "right", "1", "me"] for i in key.items]
    votes = load_votes([write_votes(tmp_path / "votes.csv", rows)], key)
    [pair] = find(key, compared.of_key(out, key), votes).pairs
    assert pair.human
    assert pair.human.win_rate > 0.99
