"""How the builders of the shapes world train: one loop, which goes on where it was interrupted."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench_plugins.shapes import files
from bench_plugins.shapes.files import Report


class Average:
    """A slowly moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module as it is."""
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module."""
        # A young average forgets faster, so that it does not hold on to random weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = [*self.module.parameters()]
        theirs: list[Tensor] = [*module.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)


@dataclass(frozen=True)
class Checkpoint:
    """Where, how often and to whom a training says how far it is."""

    path: Path
    every: int
    report: Report
    title: str

    def load(self) -> dict[str, Any]:
        """What was saved last; empty before that."""
        if not self.path.exists():
            return {}
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return state

    def save(self, state: dict[str, Any], steps: int) -> None:
        """Save what a training of so many steps needs to go on."""
        self.report(f"{self.title}: step {state['step']}/{steps} loss {state['loss']:.5f}")
        with files.replacing(self.path) as part:
            torch.save(state, part)


def fit(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    steps: int,
    *,
    warmup: int,
    clip: float = 1.0,
    average: Average | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Minimise a loss, from the last checkpoint if there is one; says how it went.

    Args:
        model: what is trained; left in training mode.
        optimiser: of its weights; its learning rate is the peak.
        loss_of: the loss of a step, which must hang on nothing but its number.
        steps: how many in all.
        warmup: how many of them the learning rate rises to its peak.
        clip: the greatest norm of the gradient.
        average: follows the model.
        checkpoint: where the training is saved.
    """
    parts: dict[str, Any] = {"model": model, "optimiser": optimiser}
    if average:
        parts["average"] = average.module
    state = checkpoint.load() if checkpoint else {}
    for name in parts if state else ():
        parts[name].load_state_dict(state[name])
    running, began = state.get("loss", math.nan), time.monotonic() - state.get("seconds", 0.0)
    model.train()
    for step in range(state.get("step", 0), steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, warmup, optimiser.defaults["lr"])
        loss = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        optimiser.zero_grad()
        if average:
            average.update(model, step)
        running = loss.item() if step == 0 else 0.99 * running + 0.01 * loss.item()
        if checkpoint and ((step + 1) % checkpoint.every == 0 or step + 1 == steps):
            state = {name: part.state_dict() for name, part in parts.items()}
            progress = {"step": step + 1, "loss": running, "seconds": time.monotonic() - began}
            checkpoint.save(state | progress, steps)
    seconds = round(time.monotonic() - began, 1)
    return {"steps": steps, "final_loss": round(running, 5), "seconds": seconds}


def rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """The learning rate: a linear warm-up to the peak, then half a cosine down to nothing."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_at(step: int, count: int, batch: int, seed: int) -> NDArray[np.int64]:
    """The rows that a step takes of `count`: a fresh shuffle each epoch, no row twice in one."""
    epoch, turn = divmod(step, max(1, count // batch))
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[turn * batch : (turn + 1) * batch]
