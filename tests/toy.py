"""A toy world for tests of the core: a tiny random pipeline, drawn pairs, two scorers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from bench import (
    Backbone,
    BenchError,
    PreferenceGroup,
    PreferenceImage,
    PreferencePair,
    Scorer,
    option,
)
from bench.lib.files import file_sha256
from bench.lib.progress import quiet_libraries
from bench.recipe.recipe import Recipe, validate
from bench.registry.registry import Entry, Registry, default_registry
from bench.store.store import Store

if TYPE_CHECKING:
    from bench.api.policy import Policy


@dataclass(frozen=True, kw_only=True)
class ToyBackbone(Backbone):
    """A tiny pipeline with random weights."""

    name: ClassVar[str] = "toy"
    path: str = option(doc="folder", affects_results=False)

    @property
    def family(self) -> str:
        return "shapes"

    @property
    def resolution(self) -> int:
        return 16

    @property
    def seconds_per_evaluation(self) -> float:
        return 0.001

    def fingerprint(self) -> str:
        weights = Path(self.path) / "unet" / "diffusion_pytorch_model.safetensors"
        return file_sha256(weights)

    def load(self, device: str) -> Policy:
        from bench.diffusion.stable_diffusion import StableDiffusionPolicy

        return StableDiffusionPolicy.load(self.path, device)


@dataclass(frozen=True, kw_only=True)
class Channel(Scorer):
    """Mean of a colour channel."""

    name: ClassVar[str] = "channel"
    index: int = option(0, "which", ge=0, le=2)

    @property
    def tower(self) -> str:
        return "an eye"

    def load(self, device: str) -> Channel:
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        return np.array([np.asarray(image)[..., self.index].mean() for image in images])


@dataclass(frozen=True, kw_only=True)
class Truth(Channel):
    """A held-out scorer."""

    name: ClassVar[str] = "truth"
    held_out: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Faulty(Scorer):
    """A scorer that fails in one of several ways."""

    name: ClassVar[str] = "faulty"
    how: str = option("raise", "raise, clear, memory, nan or shape")

    def load(self, device: str) -> Faulty:
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        match self.how:
            case "raise":
                raise ZeroDivisionError("deep inside")
            case "clear":
                raise BenchError("the weights are missing; fetch them")
            case "memory":
                import torch

                torch.empty(2**50)
            case "nan":
                return np.full(len(images), np.nan)
        return np.zeros(len(images) + 1)


def registry() -> Registry:
    """Everything installed, and the toys."""
    toys: list[tuple[Any, type]] = [
        ("backbones", ToyBackbone),
        ("scorers", Channel),
        ("scorers", Truth),
        ("scorers", Faulty),
    ]
    own = [Entry(kind=k, cls=c, package="toys", package_version="1") for k, c in toys]
    return Registry([*default_registry().entries(), *own])


def jpeg(rng: np.random.Generator, size: int = 32) -> bytes:
    """A noisy picture with a random dominant colour."""
    pixels = rng.integers(0, 256, 3) + rng.normal(0, 12, (size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG")
    return buffer.getvalue()


def pair(
    *,
    image_0: bytes = b"",
    image_1: bytes = b"",
    model_0: str = "",
    model_1: str = "",
    problem: str = "",
    **rest: Any,
) -> PreferencePair:
    """A pair from its parts; the problem is that of image 0."""
    first = PreferenceImage(data=image_0, model=model_0, problem=problem)
    return PreferencePair(images=(first, PreferenceImage(data=image_1, model=model_1)), **rest)


def encoded(pair: PreferenceGroup) -> tuple[bytes, ...]:
    """The images of a pair."""
    return tuple(image.data for image in pair.images)


def models(pair: PreferenceGroup) -> tuple[str, ...]:
    """What drew the images of a pair."""
    return tuple(image.model for image in pair.images)


def write_pairs(path: Path, count: int = 12, broken: Sequence[int] = ()) -> Path:
    """A Pick-a-Pic file; every fifth pair is a tie, `broken` rows cannot be decoded."""
    rng = np.random.default_rng(7)
    rows = [
        {
            "caption": f"picture {i % 5}",
            "jpg_0": jpeg(rng),
            "jpg_1": b"not a picture" if i in broken else jpeg(rng),
            "label_0": 0.5 if i % 5 == 4 else float(i % 2),
        }
        for i in range(count)
    ]
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def write_prompts(path: Path, count: int = 5) -> Path:
    """A PartiPrompts-style file with two categories."""
    rows = [f"toy {i}\t{'AB'[i % 2]}\tBasic\t" for i in range(count)]
    path.write_text("\n".join(["Prompt\tCategory\tChallenge\tNote", *rows]) + "\n")
    return path


def recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe of the toy world whose files lie in `folder` (made on first use)."""
    if not (folder / "pipeline").exists():
        # diffusers takes seconds to import, and a command that only looks at recipes needs none.
        from tests.tiny import save_tiny_pipeline

        # diffusers draws a progress bar where it saves; tests read what `bench` itself prints.
        quiet_libraries()
        save_tiny_pipeline(folder / "pipeline")
        write_pairs(folder / "pairs.parquet")
        write_prompts(folder / "prompts.tsv")
    data: dict[str, Any] = {
        "name": "toy",
        "backbone": f"toy[path={folder / 'pipeline'}]",
        "pairs": str(folder / "pairs.parquet"),
        "prompts": [str(folder / "prompts.tsv")],
        "scorers": ["channel", "truth[index=1]"],
        "label_scorers": ["channel", "channel[index=2]"],
        "methods": ["dpo", "balanced[labels=majority_vote[ties=human]]"],
        "training": {"steps": 3, "batch_size": 4, "checkpoint_every": 1},
        "sampling": {"steps": 2, "guidance": 2.0, "batch_size": 2},
    }
    for key, value in changes.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    return validate(data, "toy recipe")


def artefacts(store: Store) -> dict[str, Any]:
    """Every artefact's manifest without its cost; it has the checksums of all other files."""
    found = {}
    for path in sorted(store.root.glob("artefacts/*/*/artefact.json")):
        manifest = json.loads(path.read_text())
        del manifest["cost"], manifest["checksum"]
        found[f"{path.parent.parent.name}/{path.parent.name}"] = manifest
    return found
