"""The scorers: PickScore, HPSv2 and HPSv2.1, ImageReward, CLIP scores and LAION aesthetics.

Every file comes from the Hub, at a pinned commit or with a known sha256, or from a local path. What
each scorer computes, on which scale and under which licence stands in docs/scorers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bench import (
    BenchError,
    Scorer,
    hookimpl,
    option,
)
from bench_plugins.reward_models.architectures import (
    BLIP_LARGE,
    CLIP_H,
    CLIP_L,
    BlipSize,
    Format,
)
from bench_plugins.reward_models.assets import Asset, revision_option, source_option

if TYPE_CHECKING:
    import torch

    from bench_plugins.reward_models.clip import Towers
    from bench_plugins.reward_models.pictures import Preprocessing
    from bench_plugins.reward_models.scoring import RewardModel

OPENAI_CLIP_L = Asset(
    source="openai/clip-vit-large-patch14",
    filename="model.safetensors",
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)
LAION_CLIP_H = Asset(
    source="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    filename="open_clip_model.safetensors",
    revision="1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    sha256="0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
)
PICKSCORE = Asset(
    source="yuvalkirstain/PickScore_v1",
    filename="model.safetensors",
    revision="a4e4367c6dfa7288a00c550414478f865b875800",
)
HPS_V2 = Asset(
    source="xswu/HPSv2",
    filename="HPS_v2_compressed.pt",
    revision="697403c78157020a1ae59d23f111aa58ced35b0a",
)
HPS_V2_1 = Asset(
    source="xswu/HPSv2",
    filename="HPS_v2.1_compressed.pt",
    revision="697403c78157020a1ae59d23f111aa58ced35b0a",
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)
IMAGE_REWARD = Asset(
    source="zai-org/ImageReward",
    filename="ImageReward.pt",
    revision="5736be03b2652728fb87788c9797b0570450ab72",
)
BERT_VOCABULARY = Asset(
    source="google-bert/bert-base-uncased",
    filename="vocab.txt",
    revision="86b5e0934494bd15c9632b12f734a8a67f723594",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)
AESTHETIC_HEAD = Asset(
    source="camenduru/improved-aesthetic-predictor",
    filename="sac+logos+ava1-l14-linearMSE.pth",
    # A mirror of the author's file: the sha256 alone says that it is the same.
    revision="main",
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)

_TOWERS = {CLIP_H: LAION_CLIP_H.source, CLIP_L: OPENAI_CLIP_L.source}
"""Architecture -> the CLIP whose weights scorers of it have, or were tuned from."""
BLIP = "salesforce/BLIP/model_large"
"""What ImageReward was tuned from."""

_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class _RewardScorer(Scorer):
    dtype: Literal["fp32", "fp16", "bf16"] = option(
        "fp32", "precision of the weights; fp16 needs a GPU"
    )

    @property
    def seconds_per_image(self) -> float:
        """On an A100: in fp32 by its peak, in 16 bits by how fast images are decoded."""
        return 0.02 if self.dtype == "fp32" else 0.005

    def assets(self) -> tuple[Asset, ...]:
        """The files that `load` reads."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """What identifies the bytes of all assets; nothing is downloaded."""
        return " ".join(asset.fingerprint() for asset in self.assets())

    def _precision(self, device: str) -> torch.dtype:
        import torch

        if self.dtype == "fp16" and device == "cpu":
            raise BenchError(f"{self.name}[dtype=fp16] needs a GPU; use fp32 or bf16 on a CPU")
        precision: torch.dtype = getattr(torch, _PRECISIONS[self.dtype])
        return precision


@dataclass(frozen=True, kw_only=True)
class _ClipScorer(_RewardScorer):
    architecture: ClassVar[str]
    original: ClassVar[Asset]
    weights_format: ClassVar[Format] = "open_clip"
    rules: ClassVar[Format] = "open_clip"
    scaled: ClassVar[bool] = False
    weights: str
    revision: str

    @property
    def tower(self) -> str:
        """CLIP as it was published."""
        return _TOWERS.get(self.architecture, "")

    def assets(self) -> tuple[Asset, ...]:
        """The weights; the vocabulary comes with open_clip."""
        return (self.original.at(self.weights, self.revision),)

    def load(self, device: str) -> RewardModel:
        """Read the weights."""
        from bench_plugins.reward_models.scoring import RewardModel

        (weights,) = self.assets()
        return RewardModel(self._towers(weights, device), self._preprocessing(), device)

    def _towers(self, weights: Asset, device: str) -> Towers:
        from bench_plugins.reward_models.clip import Towers

        return Towers(
            self.name,
            self.architecture,
            weights.fetch(),
            weights_format=self.weights_format,
            texts=self.rules,
            device=device,
            dtype=self._precision(device),
            scaled=self.scaled,
        )

    def _preprocessing(self) -> Preprocessing:
        from bench_plugins.reward_models.pictures import cropped

        return partial(cropped, rules=self.rules)


@dataclass(frozen=True, kw_only=True)
class PickScore(_ClipScorer):
    """What people prefer for a prompt: CLIP ViT-H/14 tuned on Pick-a-Pic; about 18 to 24.

    exp(logit_scale) * cosine. Source: https://github.com/yuvalkirstain/PickScore.
    """

    name: ClassVar[str] = "pickscore"
    architecture: ClassVar[str] = CLIP_H
    original: ClassVar[Asset] = PICKSCORE
    weights_format: ClassVar[Format] = "transformers"
    rules: ClassVar[Format] = "transformers"
    scaled: ClassVar[bool] = True
    weights: str = source_option(PICKSCORE)
    revision: str = revision_option(PICKSCORE)


@dataclass(frozen=True, kw_only=True)
class HPSv2(_ClipScorer):
    """Human Preference Score v2.0: cosine in a CLIP ViT-H/14 tuned on HPDv2; about 0.2 to 0.3.

    Papers print it times 100. Never compare it with hpsv2.1. LAION's CLIP, which the weights
    were tuned from, is not needed. Source: https://github.com/tgxs002/HPSv2.
    """

    name: ClassVar[str] = "hpsv2"
    architecture: ClassVar[str] = CLIP_H
    original: ClassVar[Asset] = HPS_V2
    weights: str = source_option(HPS_V2)
    revision: str = revision_option(HPS_V2)
    antialias: bool = option(
        True, "scale images as torchvision 0.17 and newer do; false: as 0.16 and older did"
    )

    def _preprocessing(self) -> Preprocessing:
        from bench_plugins.reward_models.pictures import padded

        return partial(padded, antialias=self.antialias)


@dataclass(frozen=True, kw_only=True)
class HPSv21(HPSv2):
    """Human Preference Score v2.1: as hpsv2, tuned on more data; about 0.2 to 0.4.

    Papers print it times 100. Never compare it with hpsv2.
    """

    name: ClassVar[str] = "hpsv2.1"
    original: ClassVar[Asset] = HPS_V2_1


@dataclass(frozen=True, kw_only=True)
class ClipH14(_ClipScorer):
    """CLIP score of LAION's ViT-H/14: cosine of picture and prompt; about 0.2 to 0.4.

    Source: https://github.com/mlfoundations/open_clip.
    """

    name: ClassVar[str] = "clip-h14"
    architecture: ClassVar[str] = CLIP_H
    original: ClassVar[Asset] = LAION_CLIP_H
    weights: str = source_option(LAION_CLIP_H)
    revision: str = revision_option(LAION_CLIP_H)


@dataclass(frozen=True, kw_only=True)
class ClipL14(_ClipScorer):
    """CLIP score of OpenAI's ViT-L/14: cosine of picture and prompt; about 0.15 to 0.35.

    Source: https://github.com/openai/CLIP.
    """

    name: ClassVar[str] = "clip-l14"
    architecture: ClassVar[str] = CLIP_L
    original: ClassVar[Asset] = OPENAI_CLIP_L
    weights_format: ClassVar[Format] = "transformers"
    weights: str = source_option(OPENAI_CLIP_L)
    revision: str = revision_option(OPENAI_CLIP_L)


@dataclass(frozen=True, kw_only=True)
class Aesthetic(_ClipScorer):
    """LAION aesthetic predictor v2: how pleasing a picture looks, from 1 to 10; no prompt.

    Source: https://github.com/christophschuhmann/improved-aesthetic-predictor.
    """

    name: ClassVar[str] = "aesthetic"
    architecture: ClassVar[str] = CLIP_L
    original: ClassVar[Asset] = AESTHETIC_HEAD
    weights_format: ClassVar[Format] = "transformers"
    weights: str = source_option(AESTHETIC_HEAD)
    revision: str = revision_option(AESTHETIC_HEAD)
    clip: str = source_option(OPENAI_CLIP_L)
    clip_revision: str = revision_option(OPENAI_CLIP_L)

    def assets(self) -> tuple[Asset, ...]:
        """The head, and the CLIP that it stands on."""
        return (
            self.original.at(self.weights, self.revision),
            OPENAI_CLIP_L.at(self.clip, self.clip_revision),
        )

    def load(self, device: str) -> RewardModel:
        """Read head and CLIP."""
        from bench_plugins.reward_models.clip import AestheticHead
        from bench_plugins.reward_models.scoring import RewardModel

        head, clip = self.assets()
        network = AestheticHead(self._towers(clip, device), head.fetch())
        return RewardModel(network, self._preprocessing(), device)


@dataclass(frozen=True, kw_only=True)
class ImageReward(_RewardScorer):
    """ImageReward v1.0: BLIP reads a prompt's first 35 tokens; mean 0, spread 1 on its data.

    Source: https://github.com/zai-org/ImageReward, formerly THUDM/ImageReward.
    """

    name: ClassVar[str] = "image_reward"
    size: ClassVar[BlipSize] = BLIP_LARGE
    weights: str = source_option(IMAGE_REWARD)
    revision: str = revision_option(IMAGE_REWARD)
    vocabulary: str = source_option(BERT_VOCABULARY)
    vocabulary_revision: str = revision_option(BERT_VOCABULARY)

    @property
    def tower(self) -> str:
        """BLIP as it was published."""
        return BLIP

    def assets(self) -> tuple[Asset, ...]:
        """The network and BERT's vocabulary; no med_config.json, no BERT weights."""
        return (
            IMAGE_REWARD.at(self.weights, self.revision),
            BERT_VOCABULARY.at(self.vocabulary, self.vocabulary_revision),
        )

    def load(self, device: str) -> RewardModel:
        """Read weights and vocabulary."""
        from bench_plugins.reward_models.blip import ImageRewardNetwork
        from bench_plugins.reward_models.pictures import cropped
        from bench_plugins.reward_models.scoring import RewardModel

        weights, vocabulary = self.assets()
        network = ImageRewardNetwork(
            self.name,
            self.size,
            weights.fetch(),
            vocabulary.fetch(),
            device=device,
            dtype=self._precision(device),
        )
        return RewardModel(network, cropped, device)


@hookimpl
def bench_scorers() -> Sequence[type[Scorer]]:
    """The field's reward models and metrics."""
    return (PickScore, HPSv2, HPSv21, ImageReward, ClipL14, ClipH14, Aesthetic)
