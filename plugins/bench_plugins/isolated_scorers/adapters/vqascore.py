"""Runs in the environment of package t2v-metrics 1.2 (Apache-2.0): its CLIP-FlanT5 VQAScore."""

from __future__ import annotations

import tempfile
from typing import Any


def check() -> None:
    """Import the package."""
    import t2v_metrics  # type: ignore[import-not-found]  # noqa: F401


def load(device: str, model: str, weights: str, tokenizer: str, vision_tower: str) -> VQAScore:
    """The model from three local folders.

    Args:
        device: "cpu" or "cuda".
        model: the package's name for it, such as "clip-flant5-xxl".
        weights: of the network.
        tokenizer: of FLAN-T5.
        vision_tower: CLIP ViT-L/14 at 336 pixels.

    Raises:
        ValueError: tensors are missing, which the package would leave random.
    """
    from t2v_metrics.models.vqascore_models import (  # type: ignore[import-not-found]
        clip_t5_model,
    )
    from t2v_metrics.models.vqascore_models.clip_t5.model.language_model import (  # type: ignore[import-not-found]
        clip_t5,
    )
    from t2v_metrics.models.vqascore_models.clip_t5.model.multimodal_encoder import (  # type: ignore[import-not-found]
        clip_encoder,
    )

    # The package knows places on the Hub only.
    places = clip_t5_model.CLIP_T5_MODELS[model]
    places["model"]["path"] = weights
    places["tokenizer"]["path"] = tokenizer
    clip_t5.build_vision_tower = lambda config, **options: clip_encoder.CLIPVisionTower(
        vision_tower, args=config, **options
    )
    _refuse_missing(clip_encoder.CLIPVisionModel)
    _refuse_missing(clip_t5.CLIPT5ForConditionalGeneration)
    with tempfile.TemporaryDirectory() as cache:
        loaded = clip_t5_model.CLIPT5Model(model, device=device, cache_dir=cache)
    if device == "cpu":
        # Its autocast is CUDA's alone, without which float32 images meet bfloat16 weights.
        loaded.model.float()
    # It takes paths of images; these are images already.
    loaded.image_loader = lambda image: image
    return VQAScore(loaded)


class VQAScore:
    """The package's `forward`, pair by pair: in a batch, padding would change the scores."""

    def __init__(self, model: Any) -> None:
        """`model` is the package's, loaded."""
        self._model = model

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        """Probability of "Yes" to 'Does this figure show "{prompt}"?'."""
        return [
            float(self._model.forward([image], [prompt])[0])
            for image, prompt in zip(images, prompts, strict=True)
        ]


def _refuse_missing(network: Any) -> None:
    """Have the class's `from_pretrained` raise where tensors are missing."""
    read = network.from_pretrained

    def from_pretrained(folder: str, **options: Any) -> Any:
        model, report = read(folder, output_loading_info=True, **options)
        # The vision tower has been read from a folder of its own.
        missing = sorted(k for k in report["missing_keys"] if not k.startswith("vision_tower."))
        if missing:
            raise ValueError(
                f"{folder} is no whole {network.__name__}, it lacks {len(missing)} tensors: "
                f"{', '.join(missing[:5])}"
            )
        return model

    network.from_pretrained = from_pretrained
