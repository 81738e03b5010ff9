"""Scorers that run in environments and processes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench import EnvironmentSpec, IsolatedScorer, Scorer, hookimpl, option
from bench_plugins.reward_models.assets import Asset, revision_option, source_option
from bench_plugins.reward_models.plugin import (
    BERT_VOCABULARY,
    BLIP,
    HPS_V2,
    HPS_V2_1,
    IMAGE_REWARD,
    LAION_CLIP_H,
    OPENAI_CLIP_L,
)

_ADAPTERS = Path(__file__).parent / "adapters"


_HPSV2 = EnvironmentSpec(
    name="hpsv2-official",
    # What scoring imports. Its metadata also asks for protobuf<4, pytest==7.2.0 and more that
    # only its training code needs, so the package itself goes in without it.
    requirements=(
        "torch",
        "torchvision",
        "timm==1.0.31",
        "ftfy==6.3.1",
        "regex",
        "requests",
        "tqdm",
        "huggingface_hub",
    ),
    no_deps=("hpsv2==1.2.0", "clint==0.5.1", "args==0.1.0", "open_clip_torch==3.3.0"),
)


@dataclass(frozen=True, kw_only=True)
class _Published(IsolatedScorer):
    """A published package and the files of its model."""

    def assets(self) -> Mapping[str, Asset]:
        """Option of the adapter's `load` -> the file or folder whose path it is given."""
        raise NotImplementedError

    def options(self) -> Mapping[str, Any]:
        """The paths of the assets, downloaded if need be."""
        return {option: str(asset.fetch()) for option, asset in self.assets().items()}

    def weights_fingerprint(self) -> str:
        """What identifies the bytes of all assets; nothing is downloaded."""
        return " ".join(asset.fingerprint() for asset in self.assets().values())


@dataclass(frozen=True, kw_only=True)
class HPSv2Official(_Published):
    """HPS v2.0 by the published package hpsv2 1.2.0, in an environment of its own.

    `hpsv2` gives the same scores on current packages, but for its bugs: an image that is not
    square and whose longest side is 224 is not padded, and the package fails on it.
    """

    name: ClassVar[str] = "hpsv2-official"
    environment: ClassVar[EnvironmentSpec] = _HPSV2
    adapter: ClassVar[Path] = _ADAPTERS / "hpsv2_official.py"
    original: ClassVar[Asset] = HPS_V2
    weights: str = source_option(HPS_V2)
    revision: str = revision_option(HPS_V2)

    @property
    def tower(self) -> str:
        """LAION's CLIP, which both versions were tuned from."""
        return LAION_CLIP_H.source

    def assets(self) -> Mapping[str, Asset]:
        """The checkpoint; LAION's base is not needed."""
        return {"weights": self.original.at(self.weights, self.revision)}


@dataclass(frozen=True, kw_only=True)
class HPSv21Official(HPSv2Official):
    """HPS v2.1 by the published package hpsv2 1.2.0, in an environment of its own."""

    name: ClassVar[str] = "hpsv2.1-official"
    original: ClassVar[Asset] = HPS_V2_1


_IMAGE_REWARD = EnvironmentSpec(
    name="image_reward-official",
    requirements=(
        "torch",
        "torchvision",
        "image-reward==1.5",
        # The last version that exports what its copy of BERT imports from modeling_utils.
        "transformers==4.55.4",
        "timm==0.6.13",
        "fairscale==0.4.13",
        # Imported for scorers beside ImageReward, and not in its metadata; needs pkg_resources.
        "openai-clip==1.0.1",
        "setuptools<81",
        "diffusers==0.35.2",
        "accelerate==1.15.0",
        "datasets==5.0.1",
    ),
)


_MED_CONFIG = Asset(
    source=IMAGE_REWARD.source, filename="med_config.json", revision=IMAGE_REWARD.revision
)


@dataclass(frozen=True, kw_only=True)
class ImageRewardOfficial(_Published):
    """ImageReward by the published package image-reward 1.5, in an environment of its own.

    `image_reward` gives the same scores on current packages.
    """

    name: ClassVar[str] = "image_reward-official"
    environment: ClassVar[EnvironmentSpec] = _IMAGE_REWARD
    adapter: ClassVar[Path] = _ADAPTERS / "image_reward_official.py"
    weights: str = source_option(IMAGE_REWARD)
    revision: str = revision_option(IMAGE_REWARD)
    med_config: str = source_option(_MED_CONFIG)
    vocabulary: str = source_option(BERT_VOCABULARY)
    vocabulary_revision: str = revision_option(BERT_VOCABULARY)

    @property
    def tower(self) -> str:
        """BLIP, which it was tuned from."""
        return BLIP

    def assets(self) -> Mapping[str, Asset]:
        """The network, its configuration, and BERT's vocabulary."""
        return {
            "weights": IMAGE_REWARD.at(self.weights, self.revision),
            "med_config": _MED_CONFIG.at(self.med_config, self.revision),
            "vocabulary": BERT_VOCABULARY.at(self.vocabulary, self.vocabulary_revision),
        }


_HPSV3 = EnvironmentSpec(
    name="hpsv3",
    # What its inference imports, in versions of the time of transformers 4.45; deepspeed, opencv
    # and diffusers, which its metadata also asks for, are not among it, matplotlib and tensorboard,
    # which it does not ask for, are.
    requirements=(
        "torch",
        "torchvision",
        "transformers==4.45.2",
        "trl==0.11.4",
        "peft==0.13.2",
        "accelerate==1.0.1",
        "datasets>=3",
        "omegaconf",
        "fire",
        "matplotlib",
        "tensorboard",
        "pandas",
        "pyyaml",
        "requests",
        "safetensors",
        "rich",
    ),
    no_deps=("hpsv3==1.0.0",),
)
_HPSV3_WEIGHTS = Asset(
    source="MizzenAI/HPSv3",
    filename="HPSv3.safetensors",
    revision="4f81e3e09edd82fe3c5f636444c721b592a735ca",
)
_QWEN = "Qwen/Qwen2-VL-7B-Instruct"
_QWEN_REVISION = "eed13092ef92e448dd6875b2a00151bd3f7db0ac"
_ALL_BUT_WEIGHTS = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True, kw_only=True)
class HPSv3(_Published):
    """HPS v3 by the published package hpsv3 1.0.0: a Qwen2-VL of 7B; needs a GPU of 24 GB.

    The mean of its reward; higher is better. Source: https://github.com/MizzenAI/HPSv3.
    """

    name: ClassVar[str] = "hpsv3"
    environment: ClassVar[EnvironmentSpec] = _HPSV3
    adapter: ClassVar[Path] = _ADAPTERS / "hpsv3.py"
    weights: str = source_option(_HPSV3_WEIGHTS)
    revision: str = revision_option(_HPSV3_WEIGHTS)
    base: str = option(
        _QWEN,
        "Hub id or folder: configuration, tokenizer, preprocessing (no weights)",
        affects_results=False,
    )
    base_revision: str = option(
        _QWEN_REVISION, "commit, branch or tag of Qwen/Qwen2-VL-7B-Instruct", affects_results=False
    )

    @property
    def tower(self) -> str:
        """The Qwen2-VL that it was tuned from."""
        return _QWEN

    def assets(self) -> Mapping[str, Asset]:
        """The checkpoint, and the base's small files."""
        return {
            "weights": _HPSV3_WEIGHTS.at(self.weights, self.revision),
            "base": Asset(source=self.base, revision=self.base_revision, patterns=_ALL_BUT_WEIGHTS),
        }


_VQASCORE = EnvironmentSpec(
    name="vqascore",
    # What `import t2v_metrics` imports, all models alike. Version 3.0 asks for torch 2.5.1, apex
    # and ffmpeg, and cannot be installed as it stands.
    requirements=(
        "torch",
        "torchvision",
        "image-reward==1.5",
        "transformers==4.36.1",
        "timm==0.6.13",
        "fairscale==0.4.13",
        "diffusers==0.31.0",
        "datasets>=3",
        "openai-clip==1.0.1",
        "setuptools<81",
        "open_clip_torch==2.32.0",
        "sentencepiece",
        "protobuf",
        "omegaconf",
        "iopath",
        "opencv-python-headless",
        "tiktoken",
        "pandas",
        "scipy",
        "openai",
    ),
    no_deps=("t2v-metrics==1.2",),
)


@dataclass(frozen=True, kw_only=True)
class VQAScore(_Published):
    """VQAScore by the published package t2v-metrics 1.2: P("Yes"), 0 to 1; needs a GPU of 40 GB.

    CLIP-FlanT5 is asked whether the picture shows the prompt.
    Source: https://github.com/linzhiqiu/t2v_metrics.
    """

    name: ClassVar[str] = "vqascore"
    environment: ClassVar[EnvironmentSpec] = _VQASCORE
    adapter: ClassVar[Path] = _ADAPTERS / "vqascore.py"
    model: Literal["clip-flant5-xxl", "clip-flant5-xl"] = option(
        "clip-flant5-xxl", "11B as in the paper, or 3B"
    )
    weights: str = option(
        "", "Hub id or folder of the network; empty: zhiqiulin/<model>", affects_results=False
    )
    revision: str = option(
        "main", "commit, branch or tag of the network's Hub id", affects_results=False
    )
    tokenizer: str = option(
        "google/flan-t5-xxl", "Hub id or folder of the tokenizer", affects_results=False
    )
    tokenizer_revision: str = option("main", "of the tokenizer's Hub id", affects_results=False)
    vision_tower: str = option(
        "openai/clip-vit-large-patch14-336", "Hub id or folder", affects_results=False
    )
    vision_tower_revision: str = option(
        "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        "of the vision tower's Hub id",
        affects_results=False,
    )

    @property
    def tower(self) -> str:
        """OpenAI's CLIP: its vision tower is that one, tuned on pictures of 336 pixels."""
        return OPENAI_CLIP_L.source

    def assets(self) -> Mapping[str, Asset]:
        """The network, its tokenizer and its vision tower."""
        network, tokenizer = ("*.json", "*.bin", "*.safetensors"), ("*token*", "spiece.model")
        weights = self.weights or f"zhiqiulin/{self.model}"
        tower, tower_revision = self.vision_tower, self.vision_tower_revision
        return {
            "weights": Asset(source=weights, revision=self.revision, patterns=network),
            "tokenizer": Asset(
                source=self.tokenizer, revision=self.tokenizer_revision, patterns=tokenizer
            ),
            "vision_tower": Asset(source=tower, revision=tower_revision, patterns=network),
        }

    def options(self) -> Mapping[str, Any]:
        """The model's name and three folders."""
        return {"model": self.model, **super().options()}


@hookimpl
def bench_scorers() -> Sequence[type[Scorer]]:
    """The published packages."""
    return (HPSv2Official, HPSv21Official, ImageRewardOfficial, HPSv3, VQAScore)
