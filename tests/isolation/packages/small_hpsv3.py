"""In the environment of hpsv3: a tiny Qwen2-VL, and its rewards by the package itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def write_base(folder: Path) -> None:
    """Configuration, tokenizer, preprocessing and weights of a tiny Qwen2-VL."""
    import torch
    from transformers import (
        Qwen2TokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
    )
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    folder.mkdir()
    letters = list(bytes_to_unicode().values())
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    number = tokenizer.convert_tokens_to_ids
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(), tokenizer, chat_template=CHAT)
    processor.save_pretrained(folder)
    config = Qwen2VLConfig(
        vocab_size=len(tokenizer) + 8,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4},
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
    )
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)


def main(folder: Path) -> None:
    import torch
    from hpsv3 import HPSv3RewardInferencer, inference, train
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    write_base(folder / "base")
    config = OmegaConf.load(Path(inference.__file__).parent / "config" / "HPSv3_7B.yaml")
    config.model_name_or_path = str(folder / "base")
    config.use_cpu = True
    OmegaConf.save(config, folder / "config.yaml")
    (_, training, model_config, lora), _ = inference.parse_args_with_yaml(
        (
            inference.DataConfig,
            inference.TrainingConfig,
            inference.ModelConfig,
            inference.PEFTLoraConfig,
        ),
        str(folder / "config.yaml"),
        is_train=False,
    )
    torch.manual_seed(1)
    model, _, _ = train.create_model_and_processor(model_config, lora, training)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    weights = str(folder / "weights.safetensors")
    save_file({k: v.clone() for k, v in model.state_dict().items()}, weights)
    inferencer = HPSv3RewardInferencer(str(folder / "config.yaml"), weights, device="cpu")
    # Without a GPU the package's autocast does nothing, and bfloat16 meets the float32 head.
    inferencer.model.rm_head.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    case = json.loads((folder / "case.json").read_text())
    with torch.inference_mode():
        scores = [
            float(inferencer.reward([str(folder / file)], [prompt])[0][0]) for file, prompt in case
        ]
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
