"""Encoding a preference set for a backbone once: latent moments and prompt conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from bench.diffusion.policy import Condition, Policy
from bench.images import decode, fit
from bench.protocols import PreferencePairs
from bench.store import write_atomic
from bench.training.setup import EncodedPairs

CHUNK = 64
"""Pairs encoded between two saves."""
FILE = "encoded.safetensors"
_CONDITION = "condition."


def encode(
    policy: Policy,
    pairs: PreferencePairs,
    rows: Sequence[int],
    resolution: int,
    work: Path,
    advance: Callable[[int], None],
) -> bytes:
    """Encode the given rows of a preference set.

    Args:
        policy: the backbone.
        pairs: the whole set.
        rows: positions of the usable pairs.
        resolution: images are scaled and cropped to this many pixels.
        work: finished chunks are kept here.
        advance: called with the number of pairs of each finished chunk.

    Returns:
        A safetensors document that `read` understands.
    """
    means, stds = [], []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        file = work / f"moments-{start:07d}.safetensors"
        moments = _read_chunk(file, len(chunk))
        if moments is None:
            images = [
                fit(decode(column[row]), resolution)
                for row in chunk
                for column in (pairs.images_0, pairs.images_1)
            ]
            encoded = policy.encode_images(images)
            moments = {
                name: value.float().cpu().contiguous().reshape(len(chunk), 2, *value.shape[1:])
                for name, value in (("mean", encoded.mean), ("std", encoded.std))
            }
            write_atomic(file, save(moments))
        means.append(moments["mean"])
        stds.append(moments["std"])
        advance(len(chunk))
    prompts = ["", *sorted({pairs.captions[row] for row in rows} - {""})]
    index = {prompt: i for i, prompt in enumerate(prompts)}
    tensors = {
        "mean": torch.cat(means),
        "std": torch.cat(stds),
        "prompt_index": torch.tensor([index[pairs.captions[row]] for row in rows]),
    }
    conditions = _conditions(policy, prompts)
    return save(tensors | {_CONDITION + k: v.contiguous() for k, v in conditions.items()})


def read(data: bytes, device: torch.device) -> EncodedPairs:
    """What `encode` wrote; latents stay on the CPU, conditions go to the device."""
    tensors = load(data)
    return EncodedPairs(
        mean=tensors["mean"],
        std=tensors["std"],
        prompt_index=tensors["prompt_index"],
        conditions={
            k.removeprefix(_CONDITION): v.to(device)
            for k, v in tensors.items()
            if k.startswith(_CONDITION)
        },
    )


def _conditions(policy: Policy, prompts: Sequence[str]) -> Condition:
    parts = [
        policy.encode_prompts(prompts[start : start + CHUNK])
        for start in range(0, len(prompts), CHUNK)
    ]
    return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}


def _read_chunk(file: Path, pairs: int) -> dict[str, torch.Tensor] | None:
    """A finished chunk; None if it is absent or damaged, so that it is encoded again."""
    try:
        moments = load(file.read_bytes())
    except (OSError, SafetensorError):
        return None
    complete = set(moments) == {"mean", "std"} and len(moments["mean"]) == pairs
    return moments if complete else None
