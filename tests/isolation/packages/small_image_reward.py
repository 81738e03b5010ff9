"""In the environment of image-reward: a narrow model, and its scores by the package itself."""

from __future__ import annotations

import importlib.util
import json
import string
import sys
from pathlib import Path
from typing import Any

MED_CONFIG = {
    "hidden_size": 768,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "vocab_size": 300,
    "encoder_width": 64,
    "add_cross_attention": True,
    "add_type_embeddings": False,
    "model_type": "bert",
    "pad_token_id": 0,
}


def narrow() -> None:
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    def small_vit(*arguments: object) -> tuple[Any, int]:
        vit = VisionTransformer(img_size=224, patch_size=16, embed_dim=64, depth=2, num_heads=4)
        return vit, 64

    blip_pretrain.create_vit = small_vit


def load(device: str, **options: str) -> Any:
    """The shipped adapter on the narrow model; the adapter's path is among the options."""
    narrow()
    path = options.pop("adapter")
    spec = importlib.util.spec_from_file_location("shipped", path)
    shipped = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shipped)
    return shipped.load(device, **options)


def main(folder: Path) -> None:
    import ImageReward
    import torch
    from ImageReward.models.BLIP import blip_pretrain
    from PIL import Image
    from transformers import BertTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]
    words += [f"[unused{i}]" for i in range(298 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "med_config.json").write_text(json.dumps(MED_CONFIG))

    def tokenizer() -> Any:
        made = BertTokenizer(str(folder / "vocab.txt"))
        made.add_special_tokens({"bos_token": "[DEC]"})
        made.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        made.enc_token_id = made.additional_special_tokens_ids[0]
        return made

    narrow()
    blip_pretrain.init_tokenizer = tokenizer
    torch.manual_seed(0)
    config, weights = str(folder / "med_config.json"), str(folder / "weights.pt")
    model = ImageReward.ImageReward(med_config=config)
    for parameter in model.mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(model.state_dict(), weights)
    loaded = ImageReward.load(weights, device="cpu", med_config=config)
    case = json.loads((folder / "case.json").read_text())
    with torch.inference_mode():
        scores = [
            loaded.score(prompt, Image.open(folder / file).convert("RGB")) for file, prompt in case
        ]
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
