"""Importing packages that may be missing or broken, with one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench import BenchError


@contextmanager
def importing(user: str, **pip_names: str) -> Iterator[None]:
    """Turn a failed import into one sentence.

    Args:
        user: who needs the packages ("pickscore").
        pip_names: import name -> what pip installs, for all packages that are imported.

    Raises:
        BenchError: a package is missing, or is there but cannot be imported.
    """
    try:
        yield
    except Exception as error:
        # A torchvision that does not match torch raises RuntimeError, AttributeError and others.
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        # A missing part of a package is no missing package.
        if missing and "." not in missing:
            raise BenchError(
                f"{user} needs {missing}, which is not installed: pip install "
                f"'{pip_names.get(missing, missing)}'"
            ) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BenchError(
            f"{user} needs {' and '.join(pip_names)}, which cannot be imported ({reason}); most "
            f"often torchvision was built for another torch: install both from one index, as in "
            f"pip install --upgrade torch torchvision"
        ) from error
