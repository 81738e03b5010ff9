"""Where stages run: a store, a device, the processes of a run, and the models they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.api import contracts
from bench.api.kinds import Backbone, LoadedScorer, Scorer
from bench.lib import process_state
from bench.lib.distributed import ALONE, World
from bench.preferences.pair_table import PairTable
from bench.preferences.pair_table import read as read_table
from bench.scoring.isolation.scorer import load
from bench.store.store import Artefact, Store

if TYPE_CHECKING:
    from bench.api.policy import Policy


class Keyed(Protocol):
    """What has a place in the store: a stage."""

    @property
    def name(self) -> str:
        """Its kind."""
        ...

    @property
    def key(self) -> str:
        """Of its artefact."""
        ...


class Context:
    """One device's models and artefacts; models stay loaded from one stage to the next."""

    def __init__(self, store: Store, device: str, world: World = ALONE) -> None:
        """`device` is "cpu", "cuda", "cuda:1", ..."""
        self.store, self.device, self.world = store, device, world
        self._scorer: tuple[Scorer, LoadedScorer] | None = None
        self._policy: tuple[Any, tuple[Policy, int]] | None = None
        self._table = lru_cache(maxsize=1)(read_table)

    def artefact(self, stage: Keyed) -> Artefact:
        """What a finished stage left."""
        return Artefact(self.folder(stage))

    def folder(self, stage: Keyed) -> Path:
        """Where it lies."""
        return self.store.path(stage.name, stage.key)

    def table(self, inspect: Keyed) -> PairTable:
        """The usable pairs of an inspection; read once for all cells."""
        return self._table(self.folder(inspect))

    def scorer(self, scorer: Scorer) -> LoadedScorer:
        """The scorer's weights; only the last one used stays in memory."""
        if self._scorer is None or self._scorer[0] != scorer:
            self._scorer = None
            with contracts.asking(scorer):
                self._scorer = (scorer, load(scorer, self.device))
        return self._scorer[1]

    @contextmanager
    def untouched(self, backbone: Backbone) -> Iterator[Policy]:
        """The backbone as it is on disk; what becomes of it is gone afterwards."""
        self._let_go()
        policy = contracts.loaded(backbone, self.device)
        try:
            yield policy
        finally:
            _release(policy)

    def policy(
        self, backbone: Backbone, model: object, prepare: Callable[[Policy], tuple[Policy, int]]
    ) -> tuple[Policy, int]:
        """A policy made from the backbone; the same again costs nothing.

        Args:
            backbone: where it starts.
            model: tells apart what is made of one backbone.
            prepare: makes it of the untouched backbone; asked once.

        Returns:
            The policy, and the denoiser evaluations that `prepare` says it took.
        """
        name = (backbone, model)
        if self._policy is None or self._policy[0] != name:
            self._let_go()
            self._policy = (name, prepare(contracts.loaded(backbone, self.device)))
        return self._policy[1]

    def forget(self) -> None:
        """Hold no model any more: after a failure nobody knows what was done to it."""
        self._scorer = None
        self._let_go()
        process_state.collect_garbage()

    def _let_go(self) -> None:
        """Hold no policy: only one is in memory, and nobody is lent one that another has had."""
        if self._policy is not None:
            (policy, _), self._policy = self._policy[1], None
            _release(policy)


def _release(policy: Policy) -> None:
    """Give its memory back even where something still refers to it."""
    for denoiser in (False, True):
        # It may be in any state, and nobody asks it for anything any more.
        with suppress(Exception):
            policy.release(denoiser=denoiser)
