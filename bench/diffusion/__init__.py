"""The diffusion model seen as a policy: encode, noise, predict, invert, sample.

Part of the public API, for backbones, trajectories and methods of their own. Its modules are not;
names are read from them when they are first asked for, since most need torch and diffusers.
"""

from typing import TYPE_CHECKING

from bench.lib.lazy import lazy

if TYPE_CHECKING:
    from bench.diffusion.checkpoint_files import PEFT_CONFIG, PEFT_FILES, Checkpoint
    from bench.diffusion.checkpoint_files import find as find_checkpoint
    from bench.diffusion.checkpoints import load as load_checkpoint
    from bench.diffusion.checkpoints import save as save_checkpoint
    from bench.diffusion.files import (
        DENOISER,
        INDEX,
        STABLE_DIFFUSION,
        STABLE_DIFFUSION_XL,
        VAE,
        Files,
        PipelineFiles,
        read_json,
    )
    from bench.diffusion.inversion import (
        Inverted,
        ddim_invert,
        implied_noise,
        reference_code_invert,
        renoise_invert,
    )
    from bench.diffusion.pipeline import PipelinePolicy
    from bench.diffusion.sampling import Samples, denoise, initial_latent, sample
    from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
else:
    __getattr__ = lazy(
        __name__,
        {
            "bench.diffusion.checkpoint_files": (
                "PEFT_CONFIG, PEFT_FILES, Checkpoint, find as find_checkpoint"
            ),
            "bench.diffusion.checkpoints": "load as load_checkpoint, save as save_checkpoint",
            "bench.diffusion.files": (
                "DENOISER, INDEX, STABLE_DIFFUSION, STABLE_DIFFUSION_XL, VAE, "
                "Files, PipelineFiles, read_json"
            ),
            "bench.diffusion.inversion": (
                "Inverted, ddim_invert, implied_noise, reference_code_invert, renoise_invert"
            ),
            "bench.diffusion.pipeline": "PipelinePolicy",
            "bench.diffusion.sampling": "Samples, denoise, initial_latent, sample",
            "bench.diffusion.stable_diffusion": "StableDiffusionPolicy, StableDiffusionXLPolicy",
        },
    )

__all__ = [
    "DENOISER",
    "INDEX",
    "PEFT_CONFIG",
    "PEFT_FILES",
    "STABLE_DIFFUSION",
    "STABLE_DIFFUSION_XL",
    "VAE",
    "Checkpoint",
    "Files",
    "Inverted",
    "PipelineFiles",
    "PipelinePolicy",
    "Samples",
    "StableDiffusionPolicy",
    "StableDiffusionXLPolicy",
    "ddim_invert",
    "denoise",
    "find_checkpoint",
    "implied_noise",
    "initial_latent",
    "load_checkpoint",
    "read_json",
    "reference_code_invert",
    "renoise_invert",
    "sample",
    "save_checkpoint",
]
