"""Runs in the environment of package hpsv2 1.2.0 (Apache-2.0): its own `score`, made usable."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

TOKENS = 77
"""That the text tower reads."""
_MERGES = "open_clip/bpe_simple_vocab_16e6.txt.gz"


def check() -> None:
    """Import the package."""
    _package()


def load(device: str, weights: str) -> Official:
    """The model with the weights of a local checkpoint, read once.

    The package chooses CUDA wherever it sees a GPU; the worker shows it the right one or none.
    """
    import torch

    package = _package()
    # `score` builds the model with the tag of LAION's weights and so downloads 4 GB that the
    # checkpoint then overwrites, unless a model is there already.
    model, _, preprocess = package.create_model_and_transforms(
        "ViT-H-14", None, precision="amp", device=device, light_augmentation=True, output_dict=True
    )
    checkpoint = torch.load(weights, map_location=device, weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    package.model_dict.update(model=model, preprocess_val=preprocess)
    # It also reads the checkpoint again on every call. The model has these weights now.
    model.load_state_dict = lambda state_dict: None
    package.torch = _WithoutLoad(torch)
    return Official(package, weights)


class Official:
    """`hpsv2.img_score.score`, image by image."""

    def __init__(self, package: Any, weights: str) -> None:
        """`package` is the module `hpsv2.img_score` with its model in place."""
        self._package, self._weights = package, weights

    def score(self, images: list[Any], prompts: list[str]) -> list[float]:
        """Cosine of image and prompt."""
        pairs = zip(images, prompts, strict=True)
        return [float(self._package.score(i, p, cp=self._weights)[0]) for i, p in pairs]

    def truncated(self, prompts: list[str]) -> list[int]:
        """Positions of the prompts that are cut."""
        from hpsv2.src.open_clip.tokenizer import (  # type: ignore[import-not-found]
            _tokenizer,
        )

        # The two ends count too.
        return [i for i, p in enumerate(prompts) if len(_tokenizer.encode(p)) + 2 > TOKENS]


class _WithoutLoad:
    """The module torch, whose `load` gives nothing."""

    def __init__(self, torch: types.ModuleType) -> None:
        self._torch = torch

    def load(self, *arguments: object, **options: object) -> dict[str, None]:
        return {"state_dict": None}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def _package() -> Any:
    # It imports a name of turtle that it never uses; turtle needs Tk, which servers lack.
    turtle = types.ModuleType("turtle")
    turtle.forward = None  # type: ignore[attr-defined]
    sys.modules.setdefault("turtle", turtle)
    # Its wheel lacks the tokenizer's merges (github.com/tgxs002/HPSv2 issue 30); open_clip's are
    # the file of its repository byte for byte. Whoever builds the environment comes here first.
    site = Path(sysconfig.get_path("purelib"))
    merges = site / "hpsv2" / "src" / _MERGES
    if not merges.exists():
        shutil.copyfile(site / _MERGES, merges)
    from hpsv2 import img_score  # type: ignore[import-not-found]

    return img_score
