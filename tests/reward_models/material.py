"""Checkpoints, images and prompts made from seeds, the same on every machine.

Weights are drawn tensor by tensor with numpy's PCG64 from a seed and the tensor's name, in the
names and file formats of the official checkpoints, at full or at reduced width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Blip:
    """The sizes of an ImageReward network."""

    vision_width: int
    vision_layers: int
    vision_heads: int
    patch: int
    text_width: int
    text_layers: int
    text_heads: int
    words: int
    """Rows of BERT's vocabulary."""
    positions: int


SMALL_BLIP = Blip(
    vision_width=32,
    vision_layers=2,
    vision_heads=2,
    patch=56,
    text_width=24,
    text_layers=2,
    text_heads=2,
    words=400,
    positions=64,
)
LARGE_BLIP = Blip(
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    patch=16,
    text_width=768,
    text_layers=12,
    text_heads=12,
    words=30522,
    positions=512,
)


def draw(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """A float32 tensor for each name, of a size that lets signals through deep networks."""
    return {name: _draw(name, shape, seed) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if not shape:
        return torch.tensor(np.log(100.0), dtype=torch.float32)
    told = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    source = np.random.Generator(np.random.PCG64(int.from_bytes(told[:8], "little")))
    values = source.random(shape, dtype=np.float32)
    values *= 2
    values -= 1
    if len(shape) == 1:
        values *= 0.2
        values += 1 if name.endswith("weight") else 0
    elif "embed" in name or "token" in name:
        values *= 0.5
    else:
        values *= np.float32(np.sqrt(3 / np.prod(shape[1:])))
    return torch.from_numpy(values)


def sha256(state: Mapping[str, Tensor]) -> str:
    """A hash over names and values."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode() + b"\0" + state[name].numpy().tobytes())
    return total.hexdigest()


def clip_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of CLIP's tensors, as OpenAI and open_clip name them."""
    vision, text, joint = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    shapes: Shapes = {
        "positional_embedding": (text["context_length"], text["width"]),
        "text_projection": (text["width"], joint),
        "logit_scale": (),
        "token_embedding.weight": (text["vocab_size"], text["width"]),
        "visual.class_embedding": (vision["width"],),
        "visual.positional_embedding": (patches + 1, vision["width"]),
        "visual.proj": (vision["width"], joint),
        "visual.conv1.weight": (vision["width"], 3, vision["patch_size"], vision["patch_size"]),
    }
    for norm, width in (
        ("ln_final", text["width"]),
        ("visual.ln_pre", vision["width"]),
        ("visual.ln_post", vision["width"]),
    ):
        shapes |= _affine(norm, width)
    for tower, width, layers in (
        ("transformer", text["width"], text["layers"]),
        ("visual.transformer", vision["width"], vision["layers"]),
    ):
        for layer in range(layers):
            block = f"{tower}.resblocks.{layer}"
            shapes |= _affine(f"{block}.ln_1", width) | _affine(f"{block}.ln_2", width)
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
            }
            shapes |= _affine(f"{block}.attn.out_proj", width, width)
            shapes |= _affine(f"{block}.mlp.c_fc", 4 * width, width)
            shapes |= _affine(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes


def in_transformers(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same CLIP as transformers saves it, with the counters of its older versions."""
    state = {
        "logit_scale": clip["logit_scale"],
        "text_projection.weight": clip["text_projection"].T.contiguous(),
        "visual_projection.weight": clip["visual.proj"].T.contiguous(),
    }
    for model, ours, first, last in (
        ("text_model", "", "", "final_layer_norm"),
        ("vision_model", "visual.", "pre_layrnorm", "post_layernorm"),
    ):
        embeddings = f"{model}.embeddings"
        positions = clip[f"{ours}positional_embedding"]
        state[f"{embeddings}.position_embedding.weight"] = positions
        state[f"{embeddings}.position_ids"] = torch.arange(len(positions))[None]
        if ours:
            state[f"{embeddings}.class_embedding"] = clip["visual.class_embedding"]
            state[f"{embeddings}.patch_embedding.weight"] = clip["visual.conv1.weight"]
        else:
            state[f"{embeddings}.token_embedding.weight"] = clip["token_embedding.weight"]
        for kind in ("weight", "bias"):
            if first:
                state[f"{model}.{first}.{kind}"] = clip[f"visual.ln_pre.{kind}"]
            end = "visual.ln_post" if ours else "ln_final"
            state[f"{model}.{last}.{kind}"] = clip[f"{end}.{kind}"]
            for layer in range(_layers(clip, f"{ours}transformer.resblocks.")):
                there = f"{model}.encoder.layers.{layer}"
                here = f"{ours}transformer.resblocks.{layer}"
                state[f"{there}.layer_norm1.{kind}"] = clip[f"{here}.ln_1.{kind}"]
                state[f"{there}.layer_norm2.{kind}"] = clip[f"{here}.ln_2.{kind}"]
                state[f"{there}.mlp.fc1.{kind}"] = clip[f"{here}.mlp.c_fc.{kind}"]
                state[f"{there}.mlp.fc2.{kind}"] = clip[f"{here}.mlp.c_proj.{kind}"]
                attention = f"{there}.self_attn"
                state[f"{attention}.out_proj.{kind}"] = clip[f"{here}.attn.out_proj.{kind}"]
                parts = clip[f"{here}.attn.in_proj_{kind}"].chunk(3)
                for letter, part in zip("qkv", parts, strict=True):
                    state[f"{attention}.{letter}_proj.{kind}"] = part.contiguous()
    return state


def head_shapes(width: int, prefix: str = "") -> Shapes:
    """The linear stack of the aesthetic predictor and of ImageReward."""
    widths = (width, 1024, 128, 64, 16, 1)
    shapes: Shapes = {}
    for number, inside, outside in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        shapes |= _affine(f"{prefix}layers.{number}", outside, inside)
    return shapes


def image_reward_shapes(size: Blip) -> Shapes:
    """Names and shapes of the tensors of ImageReward.pt, with those that scoring leaves unused."""
    seen, read = size.vision_width, size.text_width
    eyes, words = "blip.visual_encoder", "blip.text_encoder"
    shapes: Shapes = {
        f"{eyes}.cls_token": (1, 1, seen),
        f"{eyes}.pos_embed": (1, (224 // size.patch) ** 2 + 1, seen),
        f"{eyes}.patch_embed.proj.weight": (seen, 3, size.patch, size.patch),
        f"{eyes}.patch_embed.proj.bias": (seen,),
        f"{words}.embeddings.word_embeddings.weight": (size.words + 2, read),
        f"{words}.embeddings.position_embeddings.weight": (size.positions, read),
    }
    shapes |= _affine(f"{eyes}.norm", seen) | _affine(f"{words}.embeddings.LayerNorm", read)
    for layer in range(size.vision_layers):
        block = f"{eyes}.blocks.{layer}"
        shapes |= _affine(f"{block}.norm1", seen) | _affine(f"{block}.norm2", seen)
        shapes |= _affine(f"{block}.attn.qkv", 3 * seen, seen)
        shapes |= _affine(f"{block}.attn.proj", seen, seen)
        shapes |= _affine(f"{block}.mlp.fc1", 4 * seen, seen)
        shapes |= _affine(f"{block}.mlp.fc2", seen, 4 * seen)
    for layer in range(size.text_layers):
        block = f"{words}.encoder.layer.{layer}"
        for attention, source in (("attention", read), ("crossattention", seen)):
            shapes |= _affine(f"{block}.{attention}.self.query", read, read)
            shapes |= _affine(f"{block}.{attention}.self.key", read, source)
            shapes |= _affine(f"{block}.{attention}.self.value", read, source)
            shapes |= _affine(f"{block}.{attention}.output.dense", read, read)
            shapes |= _affine(f"{block}.{attention}.output.LayerNorm", read)
        shapes |= _affine(f"{block}.intermediate.dense", 4 * read, read)
        shapes |= _affine(f"{block}.output.dense", read, 4 * read)
        shapes |= _affine(f"{block}.output.LayerNorm", read)
    shapes |= _affine("blip.vision_proj", 256, seen) | _affine("blip.text_proj", 256, read)
    return shapes | head_shapes(read, "mlp.")


def _affine(name: str, width: int, *inside: int) -> Shapes:
    return {f"{name}.weight": (width, *inside), f"{name}.bias": (width,)}


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)})


def vocabulary(words: int) -> list[str]:
    """A vocabulary with BERT's special tokens in their rows, letters, and made up pieces."""
    rows = [f"[unused{i}]" for i in range(words)]
    rows[0] = "[PAD]"
    rows[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = ["a", "the", "red", "cat", "pain", "##ting", "of", "photo", "##s", ",", ".", "!", "'"]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)]
    tokens = list(dict.fromkeys([*known, *letters, *(f"##{x}" for x in letters), "山", "水", "é"]))
    rows[104 : 104 + len(tokens)] = tokens
    return rows


def pictures() -> dict[str, Image.Image]:
    """Images with fine and coarse structure: of each shape and mode that scorers must know."""
    sizes = {
        "square": (320, 320),
        "wide": (501, 300),
        "tall": (227, 341),
        "exact": (224, 224),
        "small": (37, 53),
        "large": (1024, 768),
        "rgba": (300, 260),
        "odd": (231, 225),
    }
    made = {name: picture(name, *size) for name, size in sizes.items()}
    made["rgba"] = made["rgba"].convert("RGBA")
    return made


def picture(name: str, width: int, height: int) -> Image.Image:
    """An image with fine and coarse structure, drawn from its name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    source = np.random.Generator(np.random.PCG64(seed))
    coarse = (source.random((5, 5, 3)) * 255).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = source.random((height, width, 3)) * 80 - 40
    return Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8))


PROMPTS = (
    "a red cat",
    "A painting of the cat, " + "very detailed, trending, 8k resolution, " * 14,
    "山水 café façade naïve 😀 – Ünïcode ﬁne",
    "“the photo”   of\ta 'cat' &amp; 2 dogs’ toys!\n",
    "photos of 12 cats, " * 4 + "at sea",
    "",
    "Ｆｕｌｌ width, [MASK] and [ENC] [SEP]",
    "e\u0301clair I'LL we've can't 100%",
)
"""Short, longer than 77 tokens, longer than 35, empty, Unicode, typographic and HTML characters."""


def pairs() -> Iterator[tuple[str, Image.Image, str]]:
    """Name, image and prompt of every pair that official and own code score."""
    for (name, image), prompt in zip(pictures().items(), PROMPTS, strict=True):
        yield name, image, prompt


def save_open_clip(state: Mapping[str, Tensor], path: Path) -> None:
    """As LAION publishes CLIP."""
    save_file(dict(state), path)


def save_transformers(state: Mapping[str, Tensor], path: Path) -> None:
    """As OpenAI's CLIP and PickScore are published."""
    save_file(in_transformers(state), path, metadata={"format": "pt"})


def save_hps(state: Mapping[str, Tensor], path: Path) -> None:
    """As HPSv2 is published: half precision in a nested dictionary."""
    torch.save({"state_dict": {name: value.half() for name, value in state.items()}}, path)


def save_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """As ImageReward and the aesthetic head are published."""
    torch.save(dict(state), path)


def save_vocabulary(words: int, path: Path) -> None:
    """One token a line."""
    path.write_text("\n".join(vocabulary(words)) + "\n", encoding="utf-8")
