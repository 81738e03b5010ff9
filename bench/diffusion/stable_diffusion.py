"""Stable Diffusion 1.x and 2.x as a policy: any folder or Hub id of a StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from bench.diffusion.policy import Condition, Moments, Policy
from bench.diffusion.schedule import NoiseSchedule
from bench.errors import BenchError, DamagedArtefactError, DivergedError

WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPTS_AT_ONCE = 64
IMAGES_AT_ONCE = 8


def _spans(length: int, size: int) -> list[slice]:
    """Slices that cut `length` items into chunks of at most `size`."""
    return [slice(start, start + size) for start in range(0, length, size)]


def _is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder here; what is written like one but is missing is an error."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return True
    if isinstance(path, Path) or path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise BenchError(
            f"there is no pipeline folder {str(path)!r}; give an existing folder or a Hub id "
            "such as 'owner/model'"
        )
    return False


class StableDiffusionPolicy(Policy):
    """A StableDiffusionPipeline with one CLIP text encoder, predicting epsilon or velocity."""

    denoiser: torch.nn.Module

    def __init__(
        self,
        *,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler_config: dict[str, Any],
        device: str | torch.device,
    ) -> None:
        """Take the loaded parts of a pipeline, move them to `device` and set them to eval."""
        if unet.config.in_channels != vae.config.latent_channels:
            raise BenchError(
                f"the U-Net takes {unet.config.in_channels} channels but the VAE makes "
                f"{vae.config.latent_channels}; inpainting and depth models are not supported"
            )
        # Without its files transformers makes a tokenizer of the special tokens, silently.
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            raise BenchError("the tokenizer has no vocabulary; its files are missing")
        self.device = torch.device(device)
        layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self.denoiser = unet.to(self.device, memory_format=layout).eval()
        self.vae = vae.to(self.device, memory_format=layout).eval().requires_grad_(False)
        self.text_encoder = text_encoder.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.scheduler_config = scheduler_config
        self.schedule = NoiseSchedule.from_scheduler(
            DDIMScheduler.from_config(scheduler_config), self.device
        )
        size = unet.config.sample_size
        self.latent_shape = (unet.config.in_channels, size, size)
        self.resolution: int = size * 2 ** (len(vae.config.block_out_channels) - 1)

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device, revision: str | None = None
    ) -> StableDiffusionPolicy:
        """Read a pipeline in float32.

        Args:
            path: A folder that `StableDiffusionPipeline.save_pretrained` wrote, or a Hub id.
            device: "cpu", "cuda", ...
            revision: Commit, tag or branch of the Hub id; not for folders.

        Raises:
            BenchError: It is missing, incomplete or of another family.
        """
        local = _is_folder(path)
        source = str(Path(path).expanduser()) if local else str(path)
        found: dict[str, Any] = {"local_files_only": local, "revision": revision}
        try:
            family = DiffusionPipeline.load_config(source, **found)["_class_name"]
            if family != "StableDiffusionPipeline":
                raise BenchError(
                    f"{source!r} is a {family}, but this backbone reads a StableDiffusionPipeline"
                )
            policy = cls(
                vae=AutoencoderKL.from_pretrained(
                    source, subfolder="vae", torch_dtype=torch.float32, **found
                ),
                text_encoder=CLIPTextModel.from_pretrained(
                    source, subfolder="text_encoder", dtype=torch.float32, **found
                ),
                tokenizer=CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **found),
                unet=UNet2DConditionModel.from_pretrained(
                    source, subfolder="unet", torch_dtype=torch.float32, **found
                ),
                scheduler_config=dict(
                    DDIMScheduler.load_config(source, subfolder="scheduler", **found)
                ),
                device=device,
            )
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise BenchError(f"cannot read the pipeline {source!r}: {reason}") from error
        # diffusers would write the place it was read from into every saved config, and a path
        # must not change an artefact's bytes.
        policy.denoiser.register_to_config(_name_or_path="")  # type: ignore[operator]
        return policy

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """{"prompt": [B, tokens, width]}: CLIP's last hidden states, padded to full length."""
        states = []
        for span in _spans(len(prompts), PROMPTS_AT_ONCE):
            tokens = self.tokenizer(
                list(prompts[span]),
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            # No attention mask: the denoiser was trained on states that attend to the padding.
            states.append(self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state)
        return {"prompt": torch.cat(states)}

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Moments:
        """Moments [B, C, h, w] times the VAE's scaling factor; 8-bit pixels become [-1, 1]."""
        for image in images:
            if image.size != (self.resolution, self.resolution) or image.mode != "RGB":
                raise BenchError(
                    f"an image is {image.mode} {image.size[0]}x{image.size[1]}, but the backbone "
                    f"takes RGB {self.resolution}x{self.resolution}; crop and resize it first"
                )
        means, stds = [], []
        for span in _spans(len(images), IMAGES_AT_ONCE):
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images[span]]))
            scaled = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255 * 2 - 1
            posterior = self.vae.encode(scaled).latent_dist
            means.append(posterior.mean)
            stds.append(posterior.std)
        scale = self.vae.config.scaling_factor
        return Moments(mean=torch.cat(means) * scale, std=torch.cat(stds) * scale)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """RGB images of latents [B, C, h, w]: clamped to [-1, 1], rounded to 8 bits."""
        images = []
        for span in _spans(len(latents), IMAGES_AT_ONCE):
            pixels = self.vae.decode(latents[span] / self.vae.config.scaling_factor).sample
            if not bool(pixels.isfinite().all()):
                raise DivergedError("a decoded image has pixels that are not finite")
            shares = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
            bytes_ = (shares * 255).round().to(torch.uint8).cpu().numpy()
            images += [Image.fromarray(image) for image in bytes_]
        return images

    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        """The noise seen in latents [B, C, h, w] at timesteps [B]; velocity is converted."""
        output = denoiser(latents, timesteps, encoder_hidden_states=condition["prompt"]).sample
        return self.schedule.to_epsilon(output, latents, timesteps).to(latents.dtype)

    def save_denoiser(self, folder: Path) -> None:
        """Write config.json and the weights, for `UNet2DConditionModel.from_pretrained`."""
        # One file whatever the size, so that `load_denoiser` has one to read.
        self.denoiser.save_pretrained(folder, max_shard_size="1TB")  # type: ignore[operator]

    def load_denoiser(self, folder: Path) -> None:
        """Replace the weights with those in `folder`, in place."""
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise BenchError(f"there are no denoiser weights {str(weights)!r}")
        try:
            self.denoiser.load_state_dict(load_file(weights), strict=True)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise DamagedArtefactError(
                f"{str(weights)!r} does not fit this backbone's denoiser: {reason}"
            ) from error
