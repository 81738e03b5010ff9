"""The head that LAION's aesthetic predictor and ImageReward share."""

from __future__ import annotations

from torch import nn


def linear_stack(width: int) -> nn.Sequential:
    """Linear layers width-1024-128-64-16-1 without activations, [N, width] -> [N, 1].

    The gaps keep the numbers that the official checkpoints know the layers by; dropout stood
    there in training.
    """
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Identity(),
        nn.Linear(1024, 128),
        nn.Identity(),
        nn.Linear(128, 64),
        nn.Identity(),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
