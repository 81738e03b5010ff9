"""Preference pairs as training reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from bench.api.policy import Condition, Moments


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPairs:
    """Preference pairs as the denoiser sees them; arrays may be files that are read by the row."""

    mean: np.ndarray
    """[N, 2, V, C, h, w] latent means of image 0 and image 1; V is 2 with mirrored views, or 1."""
    std: np.ndarray
    """[N, 2, V, C, h, w] latent standard deviations."""
    prompt_index: torch.Tensor
    """int64 [N]: row of each pair's caption in `conditions`; row 0 is the empty prompt."""
    conditions: Mapping[str, np.ndarray]
    """[M, ...] conditions of the empty prompt and every distinct caption."""

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.mean)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w)."""
        return self.mean.shape[3:]

    @property
    def has_mirrored(self) -> bool:
        """Whether every image was also encoded mirrored."""
        return bool(self.mean.shape[2] == 2)

    def moments(self, rows: torch.Tensor, mirrored: torch.Tensor) -> Moments:
        """Moments of B pairs, float32 [B, 2, C, h, w] on the CPU.

        Args:
            rows: int64 [B].
            mirrored: bool [B, 2]: which images are shown mirrored.
        """
        chosen = rows.numpy()[:, None], np.arange(2), mirrored.numpy().astype(np.int64)
        mean, std = (
            torch.from_numpy(np.asarray(array[chosen], dtype=np.float32))
            for array in (self.mean, self.std)
        )
        return Moments(mean=mean, std=std)

    def condition(self, prompts: torch.Tensor) -> Condition:
        """Conditions [B, ...] at the rows `prompts` (int64 [B]), floats as float32, on the CPU."""
        chosen = {
            name: np.asarray(array[prompts.numpy()]) for name, array in self.conditions.items()
        }
        # Copied into torch's own memory: it is aligned alike in every run, and matrix products may
        # depend on that in their last bits.
        tensors = {name: torch.from_numpy(rows).clone() for name, rows in chosen.items()}
        return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
