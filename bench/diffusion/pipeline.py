"""What the policies of all diffusers pipelines with a U-Net and a KL autoencoder have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from transformers import CLIPTokenizer

from bench.api.kinds import PipelineLayout
from bench.api.policy import Condition, Moments, Policy
from bench.api.schedule import NoiseSchedule
from bench.diffusion import checkpoints
from bench.diffusion.files import DENOISER, SCHEDULER, VAE, Files, PipelineFiles, read_json
from bench.lib.errors import BenchError, DivergedError
from bench.lib.wording import one_line

PROMPTS_AT_ONCE = 64
IMAGES_AT_ONCE = 8
PIXELS_AT_ONCE = 8 * 512**2
"""The VAE holds a few KB a pixel, in float32 some 4 GB for an image of 1024 x 1024."""


def _spans(length: int, size: int) -> list[slice]:
    """Slices that cut `length` items into chunks of at most `size`."""
    return [slice(start, start + size) for start in range(0, length, size)]


class PipelinePolicy(Policy):
    """A diffusers pipeline whose parts are read when they are first used.

    A subclass names the pipeline's class and says how prompts are encoded and the denoiser is
    asked; everything else follows from the configuration files.
    """

    layout: ClassVar[PipelineLayout]
    """Its pipeline's class, which model_index.json names, and where its denoiser lies in it."""
    vae_remedy: ClassVar[str] = ""
    """What else helps where the pipeline's own VAE overflows in float16."""
    forced_scheduler_options: ClassVar[dict[str, Any]] = {}
    """What the pipeline's class sets on any scheduler that it is given."""

    def __init__(
        self,
        files: PipelineFiles,
        device: str | torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        resolution: int | None = None,
    ) -> None:
        """Read the configuration; see `load`."""
        self.files, self.device, self.dtype = files, torch.device(device), dtype
        family = files.index.get("_class_name")
        if family != self.layout.pipeline:
            raise BenchError(
                f"{files.pipeline.where} is a {family}, but this backbone reads a "
                f"{self.layout.pipeline}"
            )
        self._parts: dict[str, Any] = {}
        unet, vae = files.config(DENOISER), files.config(VAE)
        self._check_channels(unet, vae)
        factor = files.vae_factor
        self.resolution: int = resolution or files.native_resolution
        if self.resolution % factor:
            raise BenchError(
                f"resolution {self.resolution} is no multiple of {factor}, the factor by which "
                f"the VAE of {files.pipeline.where} shrinks images"
            )
        side = self.resolution // factor
        self.latent_shape = (unet["in_channels"], side, side)
        scheduler_config = read_json(files.folder / SCHEDULER)
        self.scheduler_config = scheduler_config | self.forced_scheduler_options
        # Of the file alone, as training scripts read it: they build no pipeline.
        self.schedule = NoiseSchedule.from_scheduler(_ddim(scheduler_config, files), self.device)
        self._vae_dtype = dtype
        if dtype == torch.float16 and vae.get("force_upcast") and files.vae is None:
            self._vae_dtype = torch.float32
        self._vae_shift, self._vae_scale = _latent_scaling(vae, files)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device,
        *,
        revision: str = "main",
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
        vae: Files | None = None,
        denoiser: Files | None = None,
        resolution: int | None = None,
    ) -> Self:
        """A pipeline; its configuration is read now, each part when it is first used.

        Args:
            path: a folder that `save_pretrained` of the pipeline wrote, or a Hub id.
            device: "cpu", "cuda", ...
            revision: commit, tag or branch of the Hub id.
            variant: of the pipeline's weights, such as "fp16".
            dtype: of all weights. A VAE whose configuration says `force_upcast` stays in
                float32 where this is float16, unless it is an own one.
            vae: an own VAE.
            denoiser: an own denoiser of the same structure, such as a fine-tuned start.
            resolution: height and width in pixels; None: what the denoiser was trained on.

        Raises:
            BenchError: it is missing, incomplete or of another family.
        """
        own = Files(source=str(path), revision=revision, variant=variant)
        files = PipelineFiles(pipeline=own, vae=vae, denoiser=denoiser)
        policy = cls(files, device, dtype=dtype, resolution=resolution)
        files.check()
        return policy

    @property
    def denoiser(self) -> torch.nn.Module:
        """The U-Net: the backbone's own until it is trained or a checkpoint is loaded."""
        unet: torch.nn.Module = self._part(DENOISER, self._read_denoiser)
        return unet

    @denoiser.setter
    def denoiser(self, module: torch.nn.Module) -> None:
        self._parts[DENOISER] = module

    @property
    def vae(self) -> Any:
        """The autoencoder, frozen."""
        return self._part(VAE, self._read_vae)

    @abstractmethod
    def _encode_chunk(self, prompts: list[str]) -> Condition:
        """Conditions of a few prompts."""

    @abstractmethod
    def _inputs(self, condition: Condition) -> dict[str, Any]:
        """What the denoiser is given beside latents and timesteps, by its parameters' names."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Conditions of B prompts; "" is the unconditional one."""
        chunks = [
            self._encode_chunk(list(prompts[span]))
            for span in _spans(len(prompts), PROMPTS_AT_ONCE)
        ]
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Moments:
        """Moments [B, C, h, w] scaled as the denoiser expects; 8-bit pixels become [-1, 1]."""
        for image in images:
            if image.size != (self.resolution, self.resolution) or image.mode != "RGB":
                raise BenchError(
                    f"an image is {image.mode} {image.size[0]}x{image.size[1]}, but the backbone "
                    f"takes RGB {self.resolution}x{self.resolution}; crop and resize it first"
                )
        means, stds = [], []
        for span in _spans(len(images), self._images_at_once):
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images[span]]))
            scaled = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
            posterior = self.vae.encode(scaled.to(self._vae_dtype)).latent_dist
            means.append(posterior.mean.float())
            stds.append(posterior.std.float())
        mean, std = torch.cat(means), torch.cat(stds)
        if not bool(mean.isfinite().all() and std.isfinite().all()):
            raise BenchError(self._vae_overflow("encoding an image"))
        shift, scale = self._vae_shift.to(self.device), self._vae_scale.to(self.device)
        return Moments(mean=(mean - shift) * scale, std=std * scale)

    @torch.no_grad()
    def decode_pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] of latents [B, C, h, w], float32 in [0, 1] before rounding.

        Raises:
            DivergedError: a latent is not finite.
            BenchError: the VAE overflows.
        """
        if not bool(latents.isfinite().all()):
            raise DivergedError("a sampled latent is not finite: the denoiser has diverged")
        shift, scale = self._vae_shift.to(self.device), self._vae_scale.to(self.device)
        unscaled = (latents.to(self.device).float() / scale + shift).to(self._vae_dtype)
        chunks = [
            self.vae.decode(unscaled[span]).sample
            for span in _spans(len(latents), self._images_at_once)
        ]
        pixels = torch.cat(chunks).float()
        if not bool(pixels.isfinite().all()):
            raise BenchError(self._vae_overflow("decoding a latent"))
        return (pixels / 2 + 0.5).clamp(0, 1)

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """RGB images of latents [B, C, h, w], rounded to 8 bits; raises as `decode_pixels`."""
        pixels = self.decode_pixels(latents).permute(0, 2, 3, 1)
        bytes_ = (pixels * 255).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(image) for image in bytes_]

    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        """The noise seen in latents [B, C, h, w] at timesteps [B]; velocity is converted.

        The network runs in its own dtype; the conversion and the result have the latents'.
        """
        # The first weight is never an adapter's, which may have another dtype.
        own = next(denoiser.parameters(), latents).dtype
        inputs = self._inputs({name: value.to(own) for name, value in condition.items()})
        output = denoiser(latents.to(own), timesteps, **inputs).sample
        return self.schedule.to_epsilon(output.to(latents.dtype), latents, timesteps)

    def release(self, *, denoiser: bool = False) -> None:
        """Drop the text encoders and the VAE (or the denoiser) from memory."""
        dropped = [part for part in self._parts if (part == DENOISER) == denoiser]
        for part in dropped:
            del self._parts[part]
        if dropped and self.device.type == "cuda":
            torch.cuda.empty_cache()

    def reset(self) -> None:
        """Put the backbone's own denoiser back: it is read again when it is next used.

        Nothing that training did to the old one can stay, and no second copy is held for it.
        """
        self.release(denoiser=True)

    def save_checkpoint(self, folder: Path) -> None:
        """Write the adapter as `pytorch_lora_weights.safetensors`, or else the whole denoiser."""
        checkpoints.save(self.denoiser, folder, self.layout)

    def load_checkpoint(self, path: Path) -> None:
        """Make the untouched denoiser what lies in `path`; see `bench.diffusion.checkpoints`."""
        fit, layout = self.files.denoiser_structure, self.layout
        try:
            self.denoiser = checkpoints.load(
                path, lambda: self.denoiser, fit, layout, self.dtype, self.device
            )
        except BaseException:
            # Half an adapter may be on it.
            self.reset()
            raise

    @property
    def _images_at_once(self) -> int:
        return min(IMAGES_AT_ONCE, max(1, PIXELS_AT_ONCE // self.resolution**2))

    def _part(self, name: str, read: Callable[[], Any]) -> Any:
        if name not in self._parts:
            self._parts[name] = read()
        return self._parts[name]

    def _read_denoiser(self) -> torch.nn.Module:
        fit = self.files.denoiser_structure if self.files.denoiser else None
        weights = self.files.weights(DENOISER)
        return checkpoints.read_denoiser(weights, fit, self.layout, self.dtype, self.device)

    def _read_vae(self) -> Any:
        vae = checkpoints.read_part(AutoencoderKL, self.files.weights(VAE), self._vae_dtype)
        vae.to(self.device, memory_format=torch.channels_last)
        return vae.eval().requires_grad_(False)

    def _tokenizer(self, part: str) -> Any:
        folder = self.files.folder / part
        # Without these transformers makes a tokenizer of the special tokens, silently.
        if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise BenchError(
                f"{self.files.pipeline.where}: the tokenizer has no vocabulary; there is no "
                f"{part}/vocab.json and no {part}/tokenizer.json"
            )
        return CLIPTokenizer.from_pretrained(folder)

    def _text_encoder(self, part: str, kind: Any) -> Any:
        def read() -> Any:
            encoder = checkpoints.read_part(kind, self.files.weights(part), self.dtype)
            return encoder.to(self.device).eval().requires_grad_(False)

        return self._part(part, read)

    def _check_channels(self, unet: dict[str, Any], vae: dict[str, Any]) -> None:
        if unet["in_channels"] != vae["latent_channels"]:
            raise BenchError(
                f"the U-Net takes {unet['in_channels']} channels but the VAE makes "
                f"{vae['latent_channels']}; inpainting and depth models are not supported"
            )

    def _vae_overflow(self, doing: str) -> str:
        source = (self.files.vae or self.files.pipeline).where
        return (
            f"{doing} gave NaN or infinity: the VAE of {source} overflows in "
            f"{str(self._vae_dtype).removeprefix('torch.')}; use dtype=bf16 or dtype=fp32"
            f"{self.vae_remedy}"
        )


def _ddim(config: dict[str, Any], files: PipelineFiles) -> DDIMScheduler:
    """The scheduler of a configuration, which diffusers itself hardly checks."""
    try:
        scheduler = DDIMScheduler.from_config(config)
        if not bool(scheduler.alphas_cumprod.isfinite().all()):
            raise ValueError("its noise levels are not finite")
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # NotImplementedError is a RuntimeError.
        raise BenchError(
            f"{files.pipeline.where}: {SCHEDULER} gives no noise schedule "
            f"({one_line(error)}); restore the file"
        ) from error
    return scheduler


def _latent_scaling(vae: dict[str, Any], files: PipelineFiles) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale, each [C, 1, 1] or [1, 1, 1]: the denoiser sees (z - shift) * scale."""
    if vae.get("shift_factor"):
        raise BenchError(
            f"the VAE of {(files.vae or files.pipeline).where} shifts its latents (shift_factor "
            f"{vae['shift_factor']}), which no Stable Diffusion pipeline does; choose another"
        )
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    if not isinstance(vae.get("scaling_factor", 0.18215), int | float):
        raise BenchError(
            f"the VAE of {(files.vae or files.pipeline).where} has the scaling_factor "
            f"{vae['scaling_factor']!r} in its config.json, which is no number; restore the file"
        )
    factor = torch.tensor(float(vae.get("scaling_factor", 0.18215))).reshape(1, 1, 1)
    if mean is None or std is None:
        return torch.zeros(1, 1, 1), factor
    return torch.tensor(mean).reshape(-1, 1, 1), factor / torch.tensor(std).reshape(-1, 1, 1)
