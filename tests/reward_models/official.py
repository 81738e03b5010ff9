"""Scores by the official code; runs in environments of its own, where `bench` is not installed.

`python official.py SCORER REQUEST.json` reads paths and sizes from the request, then pairs from
its input, a line of JSON each, and answers each with its score and the seconds that it took. What
is changed from the published packages is what they need to run from local files, or at reduced
width, at all; each change is marked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    """Answer until the input ends."""
    scorer, path = sys.argv[1:]
    # What the packages print must not be taken for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(Path(path).read_text(encoding="utf-8"))

    import torch
    from PIL import Image

    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    started = time.perf_counter()
    rate = SCORERS[scorer](request)
    told: dict[str, Any] = {"seconds": time.perf_counter() - started, "versions": _versions()}
    print(json.dumps(told), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        image = Image.open(asked["image"])
        image.load()
        started = time.perf_counter()
        score = float(rate(image, asked["prompt"]))
        told = {"score": score, "seconds": time.perf_counter() - started}
        print(json.dumps(told), file=answers, flush=True)


def _versions() -> dict[str, str]:
    from importlib import metadata

    names = (
        "hpsv2",
        "image-reward",
        "openai-clip",
        "transformers",
        "torch",
        "torchvision",
        "pillow",
    )
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hpsv2(request: dict[str, Any]) -> Callable[[Any, str], float]:
    """`hpsv2.img_score.score` of the package hpsv2."""
    import hpsv2.img_score as official
    import hpsv2.src.open_clip as open_clip

    # Changed: the model is built without LAION's 4 GB, which the checkpoint overwrites anyway.
    build = open_clip.create_model_and_transforms
    if request.get("config"):
        open_clip.add_model_config(Path(request["config"]))
    name = Path(request["config"]).stem if request.get("config") else "ViT-H-14"
    official.create_model_and_transforms = lambda _, __, **options: build(name, None, **options)
    weights = request["weights"]

    def rate(image: Any, prompt: str) -> float:
        # Changed: four channels crash it.
        return official.score(image.convert("RGB"), prompt, cp=weights)[0]

    return rate


def image_reward(request: dict[str, Any]) -> Callable[[Any, str], float]:
    """`ImageReward.load(...).score` of the package image-reward."""
    # Changed: BERT's vocabulary is looked for in the working directory, not on the Hub.
    folder = Path(request["vocabulary"]).resolve().parent.parent
    os.chdir(folder)
    import importlib

    import ImageReward
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    size = request["size"]
    if request.get("reduced"):
        # Changed: the sizes are constants of the code.
        code = importlib.import_module("ImageReward.ImageReward")
        head = code.MLP
        code.MLP = lambda _: head(size["text_width"])
        blip_pretrain.create_vit = lambda *_: (
            VisionTransformer(
                img_size=224,
                patch_size=size["patch"],
                embed_dim=size["vision_width"],
                depth=size["vision_layers"],
                num_heads=size["vision_heads"],
            ),
            size["vision_width"],
        )
    config = folder / "med_config.json"
    config.write_text(
        json.dumps(
            {
                "architectures": ["BertModel"],
                "attention_probs_dropout_prob": 0.1,
                "hidden_act": "gelu",
                "hidden_dropout_prob": 0.1,
                "hidden_size": size["text_width"],
                "initializer_range": 0.02,
                "intermediate_size": 4 * size["text_width"],
                "layer_norm_eps": 1e-12,
                "max_position_embeddings": size["positions"],
                "model_type": "bert",
                "num_attention_heads": size["text_heads"],
                "num_hidden_layers": size["text_layers"],
                "pad_token_id": 0,
                "type_vocab_size": 2,
                "vocab_size": size["words"] + 2,
                "encoder_width": size["vision_width"],
                "add_cross_attention": True,
            }
        )
    )
    model = ImageReward.load(request["weights"], device="cpu", med_config=str(config))
    _refuse_gaps(model, request["weights"])

    def rate(image: Any, prompt: str) -> float:
        return model.score(prompt, image)

    return rate


def _refuse_gaps(model: Any, weights: str) -> None:
    import torch

    result = model.load_state_dict(torch.load(weights, map_location="cpu"), strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise SystemExit(f"the made up checkpoint does not fit: {result}")


def pickscore(request: dict[str, Any]) -> Callable[[Any, str], float]:
    """The code of PickScore's README, in transformers 4."""
    import torch
    from transformers import AutoModel, AutoProcessor

    folder = Path(request["weights"]).parent
    (folder / "config.json").write_text(json.dumps(_clip_config(request["clip"])))
    processor = AutoProcessor.from_pretrained(_processor(folder / "processor"))
    model = AutoModel.from_pretrained(folder).eval()

    def rate(image: Any, prompt: str) -> float:
        options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
        image_inputs = processor(images=[image], **options)
        text_inputs = processor(text=prompt, **options)
        with torch.no_grad():
            seen = model.get_image_features(**image_inputs)
            seen = seen / torch.norm(seen, dim=-1, keepdim=True)
            read = model.get_text_features(**text_inputs)
            read = read / torch.norm(read, dim=-1, keepdim=True)
            return (model.logit_scale.exp() * (read @ seen.T)[0])[0].item()

    return rate


def _clip_config(config: dict[str, Any]) -> dict[str, Any]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": config["embed_dim"],
        "vision_config": {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
            "hidden_act": act,
            "projection_dim": config["embed_dim"],
        },
        "text_config": {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "hidden_act": act,
            "projection_dim": config["embed_dim"],
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
        },
    }


def _processor(folder: Path) -> Path:
    """The files of LAION's processor, from the merges that the package `clip` carries."""
    from clip.simple_tokenizer import SimpleTokenizer

    vocabulary = SimpleTokenizer()
    words = dict(vocabulary.encoder)
    merges = sorted(vocabulary.bpe_ranks, key=vocabulary.bpe_ranks.get)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    side = {"height": 224, "width": 224}
    files = {
        "vocab.json": json.dumps(words),
        "merges.txt": "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n",
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
        ),
        "special_tokens_map.json": json.dumps(special),
        "preprocessor_config.json": json.dumps(
            {
                "crop_size": side,
                "do_center_crop": True,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3,
                "size": {"shortest_edge": 224},
            }
        ),
        "config.json": json.dumps({"model_type": "clip"}),
    }
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def clip_l14(request: dict[str, Any]) -> Callable[[Any, str], float]:
    """The package clip: normalised features, their product."""
    import clip
    import torch

    model, preprocess = _openai_clip(request)

    def rate(image: Any, prompt: str) -> float:
        with torch.no_grad():
            seen = model.encode_image(preprocess(image)[None])
            read = model.encode_text(clip.tokenize([prompt], truncate=True))
            seen, read = (
                seen / seen.norm(dim=-1, keepdim=True),
                read / read.norm(dim=-1, keepdim=True),
            )
            return (seen @ read.T).item()

    return rate


def aesthetic(request: dict[str, Any]) -> Callable[[Any, str], float]:
    """`simple_inference.py` of improved-aesthetic-predictor, its MLP without Lightning."""
    import numpy as np
    import torch
    from torch import nn

    model, preprocess = _openai_clip(request)

    class MLP(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(width, 1024),
                nn.Dropout(0.2),
                nn.Linear(1024, 128),
                nn.Dropout(0.2),
                nn.Linear(128, 64),
                nn.Dropout(0.1),
                nn.Linear(64, 16),
                nn.Linear(16, 1),
            )

        def forward(self, x: Any) -> Any:
            return self.layers(x)

    head = MLP(request["clip"]["embed_dim"])
    head.load_state_dict(torch.load(request["head"]))
    head.eval()

    def rate(image: Any, prompt: str) -> float:
        with torch.no_grad():
            seen = model.encode_image(preprocess(image)[None]).numpy()
            norm = np.atleast_1d(np.linalg.norm(seen, 2, -1))
            norm[norm == 0] = 1
            seen = seen / np.expand_dims(norm, -1)
            return head(torch.from_numpy(seen).float()).item()

    return rate


def _openai_clip(request: dict[str, Any]) -> tuple[Any, Any]:
    import clip.model
    from clip.clip import _transform
    from safetensors.torch import load_file

    model = clip.model.build_model(load_file(request["openai"])).float()
    return model.eval(), _transform(224)


SCORERS = {
    "hpsv2": hpsv2,
    "image_reward": image_reward,
    "pickscore": pickscore,
    "clip-l14": clip_l14,
    "aesthetic": aesthetic,
}

if __name__ == "__main__":
    main()
