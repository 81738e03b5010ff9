"""Work that runs beside other work: items are made ahead of the one who uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

THREADS = 2


def ahead(
    function: Callable[[A], B], items: Iterable[A], depth: int, threads: int = THREADS
) -> Iterator[B]:
    """`map(function, items)`, computed by threads up to `depth` items ahead, in order.

    The first `depth` items are begun by the call itself, before anyone asks for one. Decoding and
    resizing images release the interpreter lock, so they run while a model does. An exception
    appears where its item would; what is under way is then dropped.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    begun = deque(pool.submit(function, item) for item in islice(source, depth))

    def in_order() -> Iterator[B]:
        try:
            for item in source:
                begun.append(pool.submit(function, item))
                yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return in_order()
