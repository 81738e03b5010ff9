"""The noise schedule of a discrete-time diffusion model and the conversions that it defines.

Notation: abar_t is the product of (1 - beta) up to timestep t, a_t = sqrt(abar_t) and
s_t = sqrt(1 - abar_t), so that x_t = a_t x_0 + s_t eps (Ho et al. 2020, Eq. 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch

from bench.lib.errors import BenchError

PredictionType: TypeAlias = Literal["epsilon", "v_prediction"]

CLEAN = -1
"""The timestep of the clean image, one before the first noisy one: abar = 1."""


def per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape `values` [B] to multiply `like` [B, ...], in the dtype of `like`."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class DdimSettings:
    """What diffusers' DDIM schedulers read in a scheduler's configuration, beside its levels.

    The defaults are those of `DDIMScheduler` and `DDIMInverseScheduler`. Stable Diffusion's own
    configurations (1.5, 2.1, XL) say otherwise: False, 1 and no clipping.
    """

    set_alpha_to_one: bool = True
    """Before the first noisy level lies abar = 1; if False, abar of timestep 0."""
    steps_offset: int = 0
    """Added to every timestep of a grid."""
    timestep_spacing: str = "leading"
    clip_range: float | None = 1.0
    """Estimates of the clean image are clipped to plus and minus this; None: not at all."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DdimSettings:
        """The settings of a scheduler's configuration; what it does not say stays the default."""
        clips = config.get("clip_sample", True)
        return cls(
            set_alpha_to_one=config.get("set_alpha_to_one", cls.set_alpha_to_one),
            steps_offset=config.get("steps_offset", cls.steps_offset),
            timestep_spacing=config.get("timestep_spacing", cls.timestep_spacing),
            clip_range=config.get("clip_sample_range", cls.clip_range) if clips else None,
        )


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much noise there is at each timestep, and what the network predicts."""

    alphas_cumprod: torch.Tensor
    """float64 [T]: abar_t, strictly between 0 and 1."""
    prediction_type: PredictionType
    ddim: DdimSettings = DdimSettings()
    """Read by nothing but the inversion of published code (`reference_code_invert`)."""

    def __post_init__(self) -> None:
        """Check the table and the prediction type."""
        table = self.alphas_cumprod
        if table.dtype != torch.float64 or table.ndim != 1:
            raise ValueError(f"alphas_cumprod must be float64 [T], not {table.dtype} {table.shape}")
        if self.prediction_type not in get_args(PredictionType):
            raise BenchError(
                f"the noise schedule predicts {self.prediction_type!r}, but only "
                f"{' and '.join(map(repr, get_args(PredictionType)))} are supported"
            )
        # At abar = 0 the latent holds no image at all, so no image follows from a noise
        # estimate: epsilon space, where all losses live, does not exist there. diffusers'
        # Euler scheduler writes such an end as 2^-24.
        if not bool(((table > 2**-24) & (table < 1)).all()):
            raise BenchError(
                "the noise schedule reaches abar = 0 or 1 (zero terminal signal-to-noise ratio), "
                "which has no epsilon form; choose a backbone without rescale_betas_zero_snr"
            )

    @classmethod
    def from_scheduler(cls, scheduler: Any, device: torch.device | str = "cpu") -> NoiseSchedule:
        """The schedule of a diffusers scheduler, its table on `device`."""
        return cls(
            scheduler.alphas_cumprod.to(device=device, dtype=torch.float64),
            scheduler.config.prediction_type,
            DdimSettings.from_config(scheduler.config),
        )

    @property
    def steps(self) -> int:
        """T, the number of noisy timesteps."""
        return self.alphas_cumprod.shape[0]

    @property
    def initial_abar(self) -> float:
        """Where diffusers' inverse DDIM starts, by the scheduler's `set_alpha_to_one`."""
        return 1.0 if self.ddim.set_alpha_to_one else float(self.alphas_cumprod[0])

    def alpha_sigma(
        self, timesteps: torch.Tensor, *, clean_abar: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """a_t and s_t, float64 with the shape of `timesteps`.

        Negative timesteps are the clean image: a = 1, s = 0 unless told. Fractional ones, which
        Euler samplers ask for, interpolate s/a linearly in t, as diffusers' Euler scheduler does.

        Args:
            timesteps: int64, below T; or floating point, 0 to T - 1.
            clean_abar: of negative timesteps.
        """
        table = self.alphas_cumprod.to(timesteps.device)
        if timesteps.is_floating_point():
            ratio = ((1 - table) / table).sqrt()
            lower = timesteps.floor().long()
            upper = (lower + 1).clamp(max=self.steps - 1)
            share = timesteps.double() - lower
            noise_to_signal = (1 - share) * ratio[lower] + share * ratio[upper]
            abar = 1 / (1 + noise_to_signal**2)
        else:
            abar = torch.where(timesteps < 0, clean_abar, table[timesteps.clamp(min=0)])
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(
        self, x_0: torch.Tensor, epsilon: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x_t = a_t x_0 + s_t eps (Ho et al. 2020, Eq. 4).

        Args:
            x_0: [B, ...] clean latents.
            epsilon: [B, ...] standard normal noise.
            timesteps: [B].
        """
        a, s = self.alpha_sigma(timesteps)
        return per_sample(a, x_0) * x_0 + per_sample(s, x_0) * epsilon

    def to_epsilon(
        self, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The noise estimate that follows from the network's `output` at `x_t`, both [B, ...].

        Velocity v = a_t eps - s_t x_0 (Salimans & Ho 2022, Sec. 4) and x_t = a_t x_0 + s_t eps
        give eps = a_t v + s_t x_t, since a_t^2 + s_t^2 = 1.
        """
        if self.prediction_type == "epsilon":
            return output
        a, s = self.alpha_sigma(timesteps)
        return per_sample(a, output) * output + per_sample(s, x_t) * x_t
