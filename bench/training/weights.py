"""What training changes, and the reference that it is measured against: all weights, or a LoRA."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.diffusion import lora
from bench.lib.errors import BenchError


class Weights(ABC):
    """The trained weights of a denoiser (float32), their origin and the reference.

    The reference is the origin until it follows the policy; until then the two are one in memory.
    """

    trained: list[torch.nn.Parameter]

    @abstractmethod
    def networks(self) -> list[torch.nn.Module]:
        """Every network in memory that is asked; the denoiser first."""

    @abstractmethod
    @contextmanager
    def reference(self) -> Iterator[torch.nn.Module]:
        """The network to ask as the reference, without gradient.

        It may be the denoiser itself with another adapter switched on for the time being. So
        nothing whose gradient is still to be taken may be computed inside, and, since gradient
        checkpointing asks the denoiser again in the backward pass, no backward pass either.
        """

    @abstractmethod
    def follow(self, keep: float) -> None:
        """reference <- keep * reference + (1 - keep) * policy."""

    @abstractmethod
    def relative_weight_change(self) -> float:
        """||policy - origin|| / ||origin||, over all weights of the denoiser that may change."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `restore` needs: the trained weights, and the reference's if it has moved."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`, on the untouched denoiser."""


class FullWeights(Weights):
    """All weights of the denoiser; the reference is a copy of it."""

    def __init__(self, denoiser: torch.nn.Module, *, with_reference: bool) -> None:
        """Take the denoiser as it is for the origin."""
        self.denoiser = denoiser
        self.trained = [w for w in denoiser.parameters() if w.requires_grad]
        if not self.trained:
            raise BenchError("the backbone's denoiser has no weights that require a gradient")
        self._copy = copy.deepcopy(denoiser).requires_grad_(False) if with_reference else None
        self._moved = False
        if self._copy is None:
            self._origin = _detached(self.trained, clone=True)
        else:
            pairs = zip(self._copy.parameters(), denoiser.parameters(), strict=True)
            self._followed = [copied.detach() for copied, w in pairs if w.requires_grad]
            self._origin = self._followed
        self._norm = _norm(self._origin)

    def networks(self) -> list[torch.nn.Module]:  # noqa: D102
        return [self.denoiser] if self._copy is None else [self.denoiser, self._copy]

    @contextmanager
    def reference(self) -> Iterator[torch.nn.Module]:  # noqa: D102
        assert self._copy is not None
        yield self._copy

    def follow(self, keep: float) -> None:  # noqa: D102
        if self._copy is not None and keep != 1:
            self._leave_origin()
            _blend(self._followed, _detached(self.trained), keep)

    def relative_weight_change(self) -> float:  # noqa: D102
        change = torch._foreach_sub(_detached(self.trained), self._origin)
        return float(_norm(list(change)) / self._norm)

    def state(self) -> dict[str, Any]:  # noqa: D102
        reference = self._copy.state_dict() if self._copy is not None and self._moved else None
        return {"policy": self.denoiser.state_dict(), "reference": reference}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.denoiser.load_state_dict(state["policy"])
        if self._copy is not None and state["reference"] is not None:
            self._leave_origin()
            self._copy.load_state_dict(state["reference"])

    def _leave_origin(self) -> None:
        if not self._moved:
            self._origin = _detached(self._followed, clone=True)
            self._moved = True


class LoraWeights(Weights):
    """A LoRA; the reference is the denoiser with the adapter off, or with a second adapter.

    The second adapter appears when the reference first moves, from the policy's own start. An
    average of policies is then the average of the factors A and B, as usual, not of their
    product; a hard copy is exact.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        settings: lora.LoraSettings,
        *,
        seed: int,
        with_reference: bool,
    ) -> None:
        """Add an adapter that changes nothing yet."""
        self.denoiser, self._settings, self._seed = denoiser, settings, seed
        self._with_reference = with_reference
        self._norm = float(_norm(_detached(denoiser.parameters())))
        self._add(lora.POLICY)
        self.trained = lora.parameters(denoiser)

    def networks(self) -> list[torch.nn.Module]:  # noqa: D102
        return [self.denoiser]

    @contextmanager
    def reference(self) -> Iterator[torch.nn.Module]:  # noqa: D102
        with lora.using(self.denoiser, lora.REFERENCE if self._moved else None):
            yield self.denoiser

    def follow(self, keep: float) -> None:  # noqa: D102
        if self._with_reference and keep != 1:
            self._leave_origin()
            _blend(self._followed, _detached(self.trained), keep)

    def relative_weight_change(self) -> float:  # noqa: D102
        return lora.change_norm(self.denoiser) / self._norm

    def state(self) -> dict[str, Any]:  # noqa: D102
        reference = self._followed if self._moved else None
        return {"policy": _detached(self.trained), "reference": reference}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: D102
        _copy(_detached(self.trained), state["policy"])
        if state["reference"] is not None:
            self._leave_origin()
            _copy(self._followed, state["reference"])

    @property
    def _moved(self) -> bool:
        return lora.REFERENCE in lora.names(self.denoiser)

    @property
    def _followed(self) -> list[torch.Tensor]:
        return _detached(lora.parameters(self.denoiser, lora.REFERENCE))

    def _leave_origin(self) -> None:
        if not self._moved:
            self._add(lora.REFERENCE)

    def _add(self, name: str) -> None:
        # peft draws a start of its own, from the global generator, before ours takes its place.
        with torch.random.fork_rng(devices=[]):
            # The same seed: the second adapter starts where the first one did.
            lora.add(self.denoiser, self._settings, seed=self._seed, name=name)
        self.denoiser.eval()


def _blend(followed: list[torch.Tensor], policy: list[torch.Tensor], keep: float) -> None:
    if keep == 0:
        torch._foreach_copy_(followed, policy)
    else:
        torch._foreach_lerp_(followed, policy, 1 - keep)


def _copy(to: list[torch.Tensor], saved: list[torch.Tensor]) -> None:
    for tensor, value in zip(to, saved, strict=True):
        tensor.copy_(value)


def _detached(weights: Iterable[torch.Tensor], *, clone: bool = False) -> list[torch.Tensor]:
    return [w.detach().clone() if clone else w.detach() for w in weights]


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
