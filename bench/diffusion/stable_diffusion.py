"""Stable Diffusion 1.x, 2.x and XL as policies: any folder or Hub id of their pipelines."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from bench.api.policy import Condition
from bench.diffusion.files import DENOISER, STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from bench.diffusion.pipeline import PipelinePolicy
from bench.lib.errors import BenchError


class StableDiffusionPolicy(PipelinePolicy):
    """A StableDiffusionPipeline with one CLIP text encoder, predicting epsilon or velocity."""

    layout = STABLE_DIFFUSION
    forced_scheduler_options: ClassVar[dict[str, Any]] = {"clip_sample": False, "steps_offset": 1}

    def __init__(self, *args: Any, **options: Any) -> None:
        """Read the configuration and the tokenizer."""
        super().__init__(*args, **options)
        self.tokenizer = self._tokenizer("tokenizer")

    @property
    def text_encoder(self) -> Any:
        """CLIP's text model, frozen."""
        return self._text_encoder("text_encoder", CLIPTextModel)

    def _encode_chunk(self, prompts: list[str]) -> Condition:
        """{"prompt": [B, tokens, width]}: CLIP's last hidden states, padded to full length."""
        tokens = tokenize(self.tokenizer, prompts).to(self.device)
        # No attention mask: the denoiser was trained on states that attend to the padding.
        return {"prompt": self.text_encoder(tokens).last_hidden_state}

    def _inputs(self, condition: Condition) -> dict[str, Any]:
        return {"encoder_hidden_states": condition["prompt"]}


class StableDiffusionXLPolicy(PipelinePolicy):
    """A StableDiffusionXLPipeline: two text encoders, a pooled embedding and image sizes.

    The size conditioning says that every image is whole and as large as it is made:
    (resolution, resolution, 0, 0, resolution, resolution), as in the pipeline's default and in the
    official training code of Diffusion-DPO (SalesforceAIResearch/DiffusionDPO, train.py).
    """

    layout = STABLE_DIFFUSION_XL
    vae_remedy = ", or a VAE made for float16, sdxl[vae=madebyollin/sdxl-vae-fp16-fix]"
    # Schedulers of this pipeline are taken as they are, but none may clip latents at 1.
    forced_scheduler_options: ClassVar[dict[str, Any]] = {"clip_sample": False}

    def __init__(self, *args: Any, **options: Any) -> None:
        """Read the configuration and both tokenizers."""
        super().__init__(*args, **options)
        if self.files.config(DENOISER).get("addition_embed_type") != "text_time":
            raise BenchError(
                f"the U-Net of {self.files.pipeline.where} takes no pooled text and image sizes "
                f"(addition_embed_type is not 'text_time'), so it is none of SDXL"
            )
        self.tokenizers = (self._tokenizer("tokenizer"), self._tokenizer("tokenizer_2"))
        self._zeros_for_empty = self.files.index.get("force_zeros_for_empty_prompt", True)

    @property
    def text_encoders(self) -> tuple[Any, Any]:
        """CLIP ViT-L's text model and OpenCLIP bigG's with its projection, frozen."""
        return (
            self._text_encoder("text_encoder", CLIPTextModel),
            self._text_encoder("text_encoder_2", CLIPTextModelWithProjection),
        )

    def _encode_chunk(self, prompts: list[str]) -> Condition:
        """Hidden states before the last layer, the second encoder's embedding, and sizes.

        {"prompt": [B, tokens, width of both], "pooled": [B, width], "sizes": [B, 6]}. Where the
        pipeline's configuration says force_zeros_for_empty_prompt, "" is zeros, which is what the
        pipeline guides away from; the Diffusion-DPO code trains on the encoded "" instead.
        """
        states, pooled = [], torch.empty(0)
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            tokens = tokenize(tokenizer, prompts).to(self.device)
            output = encoder(tokens, output_hidden_states=True)
            states.append(output.hidden_states[-2])
            pooled = output[0]
        prompt = torch.cat(states, dim=-1)
        if self._zeros_for_empty:
            empty = torch.tensor([text == "" for text in prompts], device=self.device)
            prompt = prompt.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        side = self.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=prompt.dtype)
        return {
            "prompt": prompt,
            "pooled": pooled,
            "sizes": sizes.to(self.device).expand(len(prompts), -1),
        }

    def _inputs(self, condition: Condition) -> dict[str, Any]:
        return {
            "encoder_hidden_states": condition["prompt"],
            "added_cond_kwargs": {
                "text_embeds": condition["pooled"],
                "time_ids": condition["sizes"],
            },
        }


def tokenize(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Token ids int64 [B, tokens], padded and cut to the tokenizer's full length."""
    ids: torch.Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids
