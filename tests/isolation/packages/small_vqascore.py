"""In the environment of t2v-metrics: a tiny CLIP-T5, and its scores by the package itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def write_folders(folder: Path) -> None:
    """A CLIP vision tower, a T5 tokenizer and the network that joins them."""
    import sentencepiece
    import torch
    from t2v_metrics.models.vqascore_models.clip_t5.model.language_model.clip_t5 import (
        CLIPT5Config,
        CLIPT5ForConditionalGeneration,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, T5Tokenizer

    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
    )
    CLIPVisionModel(tower).save_pretrained(folder / "tower")
    CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    ).save_pretrained(folder / "tower")
    text = Path(__file__).read_text(encoding="utf-8").splitlines() * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*text, "Does this figure show? Please answer yes or no. Yes"] * 5),
        model_prefix=str(folder / "spiece"),
        vocab_size=300,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
    )
    tokenizer = T5Tokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPT5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        mm_vision_tower=str(folder / "tower"),
        mm_hidden_size=32,
        mm_vision_select_layer=-2,
        mm_vision_select_feature="patch",
        mm_projector_type="mlp2x_gelu",
    )
    model = CLIPT5ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    model.save_pretrained(folder / "weights")


def main(folder: Path) -> None:
    import t2v_metrics
    from t2v_metrics.models.vqascore_models.clip_t5_model import CLIP_T5_MODELS

    write_folders(folder)
    places = CLIP_T5_MODELS["clip-flant5-xxl"]
    places["model"]["path"] = str(folder / "weights")
    places["tokenizer"]["path"] = str(folder / "tokenizer")
    model = t2v_metrics.VQAScore("clip-flant5-xxl", device="cpu", cache_dir=str(folder / "cache"))
    # Its autocast is CUDA's alone, without which float32 images meet bfloat16 weights.
    model.model.model.float()
    case = json.loads((folder / "case.json").read_text())
    scores = [
        float(model(images=[str(folder / file)], texts=[prompt])[0][0]) for file, prompt in case
    ]
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
