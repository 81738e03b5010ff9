"""Methods of whoever derives from a class of ours, with a step of our own before each call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def run_first(cls: type, method: str, step: Callable[..., object]) -> None:
    """Have `step` run before a method, with the same arguments; for `__init_subclass__`.

    What a class inherits was wrapped where it was defined.
    """
    if method not in vars(cls):
        return
    function = getattr(cls, method)

    @functools.wraps(function)
    def both(*args: Any, **kwargs: Any) -> Any:
        step(*args, **kwargs)
        return function(*args, **kwargs)

    setattr(cls, method, both)
