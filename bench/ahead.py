"""Work that runs beside other work: items are made ahead of the one who uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

THREADS = 2


def ahead(
    function: Callable[[A], B], items: Iterable[A], depth: int, threads: int = THREADS
) -> Iterator[B]:
    """`map(function, items)`, computed by threads up to `depth` items ahead, in order.

    Decoding and resizing images release the interpreter lock, so they run while a model does.
    An exception appears where its item would; what is under way is then dropped.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    waiting: deque[Future[B]] = deque()
    try:
        for item in source:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
