"""In the environment of hpsv2: a narrow model, and its scores by the package itself."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 224,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 14,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 4,
        "layers": 2,
    },
}


def narrow() -> Any:
    sys.modules.setdefault("turtle", types.ModuleType("turtle")).forward = None
    from hpsv2 import img_score
    from hpsv2.src.open_clip import factory

    factory._MODEL_CONFIGS["ViT-H-14"] = SMALL
    return img_score


def load(device: str, **options: str) -> Any:
    """The shipped adapter on the narrow model; the adapter's path is among the options."""
    narrow()
    path = options.pop("adapter")
    spec = importlib.util.spec_from_file_location("shipped", path)
    shipped = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shipped)
    return shipped.load(device, **options)


def main(folder: Path) -> None:
    import torch
    from PIL import Image

    torch.manual_seed(0)
    img_score = narrow()
    model, _, preprocess = img_score.create_model_and_transforms(
        "ViT-H-14", None, precision="amp", device="cpu", light_augmentation=True, output_dict=True
    )
    weights = str(folder / "weights.pt")
    torch.save({"state_dict": model.state_dict()}, weights)
    torch.manual_seed(1)
    other, _, _ = img_score.create_model_and_transforms(
        "ViT-H-14", None, precision="amp", device="cpu", light_augmentation=True, output_dict=True
    )
    img_score.model_dict.update(model=other, preprocess_val=preprocess)
    case = json.loads((folder / "case.json").read_text())
    scores = [
        float(img_score.score(Image.open(folder / file).convert("RGB"), prompt, cp=weights)[0])
        for file, prompt in case
    ]
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
