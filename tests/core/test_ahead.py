from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bench.lib.prefetch import ahead


def test_items_come_in_order_and_are_made_beside_their_user() -> None:
    made: list[int] = []
    second = threading.Event()

    def make(item: int) -> int:
        made.append(item)
        if item == 1:
            second.set()
        return item * item

    stream = ahead(make, range(5), depth=2)
    assert next(stream) == 0
    # Nobody has asked for the second item yet.
    assert second.wait(timeout=10)
    assert list(stream) == [1, 4, 9, 16]
    assert sorted(made) == [0, 1, 2, 3, 4]


def test_the_call_itself_begins() -> None:
    begun = threading.Event()
    stream = ahead(lambda _: begun.set(), range(1), depth=1)
    assert begun.wait(timeout=10)
    assert list(stream) == [None]


def test_no_more_than_the_depth_is_taken_from_the_source() -> None:
    taken = []

    def source() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    stream = ahead(lambda item: item, source(), depth=3)
    assert next(stream) == 0
    assert len(taken) == 4
    stream.close()  # type: ignore[attr-defined]


def test_an_error_appears_at_its_item() -> None:
    def fragile(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    stream = ahead(fragile, range(4), depth=10)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(stream)
