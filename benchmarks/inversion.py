"""ReNoise inversion of 16 pairs, each with its own timestep: one pair at a time, and batched."""

from __future__ import annotations

import torch
from side_by_side import compare

from bench.api.noising import NoiseRequest
from bench.registry.registry import default_registry


def main() -> None:
    registry = default_registry()
    policy = registry.build("backbones", "shapes").load("cpu")
    trajectory = registry.build("trajectories", "renoise")
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, 16, *policy.latent_shape, generator=generator)
    timesteps = torch.randint(0, 1000, (16,), generator=generator)
    condition = policy.encode_prompts(["a red circle"] * 16)

    def invert(rows: slice) -> None:
        trajectory.noise(
            NoiseRequest(
                clean=clean[:, rows],
                timesteps=timesteps[rows],
                noise=torch.zeros_like(clean[0, rows]),
                condition={k: v[rows] for k, v in condition.items()},
                schedule=policy.schedule,
                predict_epsilon=lambda x, t, c: policy.predict_epsilon(policy.denoiser, x, t, c),
            )
        )

    with torch.no_grad():
        compare(
            "one pair at a time",
            lambda: [invert(slice(i, i + 1)) for i in range(16)],
            "16 pairs at once",
            lambda: invert(slice(None)),
        )


if __name__ == "__main__":
    main()
