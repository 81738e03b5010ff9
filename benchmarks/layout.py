"""A denoiser pass on 32 latents, contiguous and channels_last."""

from __future__ import annotations

import copy

import torch
from side_by_side import compare

from bench.registry.registry import default_registry


def main() -> None:
    policy = default_registry().build("backbones", "shapes").load("cpu")
    last = copy.deepcopy(policy.denoiser).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(policy.denoiser).to(memory_format=torch.contiguous_format)
    latents = torch.randn(32, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((32,), 500)
    condition = policy.encode_prompts(["a red circle"] * 32)

    def passes(network: torch.nn.Module) -> None:
        with torch.no_grad():
            for _ in range(10):
                policy.predict_epsilon(network, latents, timesteps, condition)

    compare("contiguous", lambda: passes(plain), "channels_last", lambda: passes(last))


if __name__ == "__main__":
    main()
