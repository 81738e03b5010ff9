"""Runs in the environment of package hpsv3 1.0.0 (MIT): its `HPSv3RewardInferencer`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def check() -> None:
    """Import the package."""
    import hpsv3  # type: ignore[import-not-found]  # noqa: F401


def load(device: str, weights: str, base: str) -> HPSv3:
    """The reward model with the weights of a local checkpoint.

    Args:
        device: "cpu" or "cuda".
        weights: HPSv3.safetensors.
        base: a folder with Qwen2-VL's configuration, tokenizer and preprocessing.
    """
    from hpsv3 import inference, train
    from omegaconf import OmegaConf  # type: ignore[import-not-found]

    # The package would download the base's 16 GB, which the checkpoint replaces to the last one.
    train.Qwen2VLRewardModelBT = _FromConfiguration
    with tempfile.TemporaryDirectory() as folder:
        config = OmegaConf.load(Path(inference.__file__).parent / "config" / "HPSv3_7B.yaml")
        config.model_name_or_path = base
        config.output_dir = folder
        if device == "cpu":
            config.use_cpu = True
        path = str(Path(folder) / "config.yaml")
        OmegaConf.save(config, path)
        inferencer = inference.HPSv3RewardInferencer(
            config_path=path, checkpoint_path=weights, device=device
        )
    # The package has the head's input made float32 by autocast, which newer torch refuses.
    inferencer.model.rm_head.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    return HPSv3(inferencer)


class HPSv3:
    """The package's `reward`, image by image: in a batch, padding would change the scores."""

    def __init__(self, inferencer: Any) -> None:
        """`inferencer` is the package's, loaded."""
        self._inferencer = inferencer

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        """The mean of the reward; the model also gives its spread."""
        import torch

        reward = self._inferencer.reward
        with torch.inference_mode():
            return [
                float(reward(image_paths=[image], prompts=[prompt])[0][0])
                for image, prompt in zip(images, prompts, strict=True)
            ]


class _FromConfiguration:
    """Stands for the package's network class, without reading the base's weights."""

    @staticmethod
    def from_pretrained(
        name: str,
        *,
        torch_dtype: Any,
        attn_implementation: str,
        use_cache: bool,
        output_dim: int,
        reward_token: str,
        special_token_ids: list[int] | None,
        rm_head_type: str,
        rm_head_kwargs: dict[str, Any] | None,
        **unused: object,
    ) -> Any:
        """The network as `from_pretrained` would shape it; its weights are not set."""
        from hpsv3.model.qwen2vl_trainer import (  # type: ignore[import-not-found]
            Qwen2VLRewardModelBT,
        )
        from transformers import AutoConfig
        from transformers.modeling_utils import no_init_weights

        config = AutoConfig.from_pretrained(name, use_cache=use_cache)
        with no_init_weights():
            return Qwen2VLRewardModelBT._from_config(
                config,
                torch_dtype=torch_dtype,
                attn_implementation=attn_implementation,
                output_dim=output_dim,
                reward_token=reward_token,
                special_token_ids=special_token_ids,
                rm_head_type=rm_head_type,
                rm_head_kwargs=rm_head_kwargs,
            )
