"""Scorers that run in a worker: in an environment of their own, or in this one."""

from __future__ import annotations

import base64
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.api import scorer_loads
from bench.api.kinds import LoadedScorer, Scorer, is_held_out, option
from bench.lib.errors import BenchError
from bench.lib.files import content_key, file_sha256
from bench.scoring.isolation import environments, same_python
from bench.scoring.isolation.client import COUNTED, Order, Worker
from bench.scoring.isolation.environments import EnvironmentSpec

TIMEOUT = 60.0
"""Seconds an image after which a worker counts as hung."""
LOAD_TIMEOUT = 1800.0
"""Seconds that reading weights may take."""
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class IsolatedScorer(Scorer):
    """The base of scorers with an environment of their own.

    A subclass names its `environment` and the `adapter` that does the work there, and gives the
    adapter's options in `options` (local paths: what comes from the Hub is fetched here, in the
    parent).
    """

    environment: ClassVar[EnvironmentSpec]
    adapter: ClassVar[Path]
    """The file that runs there: `load(device, **options)` gives an object with
    `score(images, prompts)`; `check()`, if there is one, imports what `load` needs."""
    images_per_request: ClassVar[int] = COUNTED
    """Small, since the packages' own code scores one image after the other anyway."""

    timeout: float = option(
        TIMEOUT,
        f"seconds an image after which the worker is ended; {COUNTED} images of a request count",
        gt=0,
        le=_DAY,
        affects_results=False,
        affects_identity=False,
    )
    load_timeout: float = option(
        LOAD_TIMEOUT,
        "seconds that loading may take",
        gt=0,
        le=_DAY,
        affects_results=False,
        affects_identity=False,
    )

    def options(self) -> Mapping[str, Any]:
        """Keyword arguments of the adapter's `load`, as JSON data."""
        return {}

    def weights_fingerprint(self) -> str:
        """What identifies the weights: a hash of their files or their commit on the Hub."""
        return ""

    def fingerprint(self) -> str:
        """A hash of the adapter and of the environment, as declared and as built; the weights'.

        Raises:
            BenchError: the adapter cannot be read.
        """
        built = environments.find(self.environment)
        try:
            adapter = file_sha256(self.adapter)
        except OSError as error:
            raise BenchError(
                f"scorer {self.name!r}: its adapter cannot be read: {error.filename}: "
                f"{error.strerror}"
            ) from error
        code = content_key(
            {
                "declared": self.environment.fingerprint,
                "adapter": adapter,
                "installed": built.contents if built else "unbuilt",
            }
        )
        return f"{code} {self.weights_fingerprint()}".strip()

    def unavailable_reason(self) -> str:
        """Why it cannot be loaded now, with the remedy, or ""; cheap enough for a plan."""
        return environments.unavailable_reason(self.environment)

    def load(self, device: str) -> Worker:
        """Start a worker in the environment.

        Raises:
            BenchError: the environment is absent or broken; names the command that mends it.
        """
        environment = environments.require(self.environment)
        return Worker(
            Order(
                name=self.name,
                python=environment.python,
                adapter=self.adapter,
                device=device,
                options=self.options(),
                timeout=self.timeout,
                load_timeout=self.load_timeout,
                images_per_request=self.images_per_request,
                adjustable=True,
                remedy=f"run: bench env check {self.environment.name}",
            )
        )


def load(scorer: Scorer, device: str) -> LoadedScorer:
    """Load a scorer where its option `isolate` says; one with an environment is isolated anyway."""
    if scorer.isolate and not isinstance(scorer, IsolatedScorer):
        return load_in_worker(scorer, device)
    return scorer.load(device)


def load_in_worker(
    scorer: Scorer, device: str, timeout: float = TIMEOUT, load_timeout: float = LOAD_TIMEOUT
) -> Worker:
    """Load any scorer in a worker of this same Python: what it breaks, it breaks there.

    Args:
        scorer: a plugin; its class must be importable.
        device: as for `Scorer.load`.
        timeout: seconds an image (default 60); of a request, at most eight images count.
        load_timeout: seconds for loading (default 1800).

    Raises:
        BenchError: the scorer cannot be sent to another process, or cannot be loaded there.
    """
    # Its own `load` is called in the worker only.
    scorer_loads.check(scorer.name, held_out=is_held_out(type(scorer)))
    try:
        packed = base64.b64encode(pickle.dumps(scorer)).decode()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BenchError(f"scorer {scorer.name!r} cannot be run in a worker: {error}") from error
    if type(scorer).__module__ == "__main__":
        raise BenchError(
            f"scorer {scorer.name!r} cannot be run in a worker: its class stands in the script "
            f"that is being run; put it into a module of its own"
        )
    return Worker(
        Order(
            name=scorer.name,
            python=Path(sys.executable),
            adapter=Path(same_python.__file__),
            device=device,
            options={"scorer": packed},
            timeout=timeout,
            load_timeout=load_timeout,
            path=tuple(str(Path(entry).absolute()) for entry in sys.path),
        )
    )
