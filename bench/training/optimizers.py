"""The optimisers that a recipe can name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.api.training import TrainingBudget
from bench.lib.errors import BenchError


def build(
    weights: Sequence[torch.nn.Parameter], budget: TrainingBudget, learning_rate: float
) -> torch.optim.Optimizer:
    """The budget's optimiser for float32 weights on one device.

    * adamw: torch's, fused (betas 0.9 and 0.999, eps 1e-8).
    * adamw8bit: the same with its states in 8 bits, by bitsandbytes.
    * adafactor: transformers', at the given learning rate, as Diffusion-DPO and SmPO-Diffusion
      train SDXL. torch's own always scales the learning rate by each weight's size, which these
      turn off (`scale_parameter=False`).

    Raises:
        BenchError: bitsandbytes is missing.
    """
    if budget.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(
            weights,
            lr=learning_rate,
            weight_decay=budget.weight_decay,
            scale_parameter=False,
            relative_step=False,
        )
        return adafactor
    if budget.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise BenchError(
                "optimizer adamw8bit needs bitsandbytes: "
                "pip install 'diffusion-preference-bench[8bit]'"
            ) from error
        # It would lay them out so at its first step; done now, a training that goes on from a
        # saved state computes with the same layout, and so with the same bits.
        for weight in weights:
            weight.data = weight.data.contiguous()
        adamw8bit: torch.optim.Optimizer = AdamW8bit(
            weights, lr=learning_rate, weight_decay=budget.weight_decay
        )
        return adamw8bit
    return torch.optim.AdamW(
        weights,
        lr=learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=budget.weight_decay,
        fused=True,
    )
