from __future__ import annotations

from bench_plugins.references import Ema, Frozen, HardCopy, NoReference, bench_references


def test_what_each_keeps() -> None:
    steps = range(1, 8)
    assert [Frozen().decay_at(s) for s in steps] == [1] * 7
    assert [HardCopy(every=3).decay_at(s) for s in steps] == [1, 1, 0, 1, 1, 0, 1]
    assert [HardCopy(every=1).decay_at(s) for s in steps] == [0] * 7
    assert [Ema(decay=0.9).decay_at(s) for s in steps] == [0.9] * 7


def test_only_none_holds_no_model() -> None:
    assert [cls.name for cls in bench_references() if not cls.needed] == ["none"]
    assert not NoReference().needed


def test_names() -> None:
    assert [cls.name for cls in bench_references()] == ["frozen", "hard_copy", "ema", "none"]
