"""The learned scorers of the shapes world: their networks, and how they read their weights.

All three stand on one small contrastive dual encoder. `similarity` is its cosine, `aesthetic`
a head on its image features, `preference` a head on image and text embeddings together.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench import BenchError
from bench_plugins.shapes import draw, files, grammar

if TYPE_CHECKING:
    from PIL.Image import Image

EMBED_DIM = 64
"""Length of the shared embedding of pictures and captions."""

FEATURE_DIM = 128
"""Length of a picture's features before they are projected into the shared embedding."""

CONTEXT = 20
"""Tokens a caption may have, its two ends included; longer ones are cut."""

BATCH = 64
"""Rows a pass. Every pass has exactly so many, so that no score depends on its neighbours."""

SCORE_SCALE = 100.0
"""The dual encoder's score is the cosine times this, as CLIP scores are given."""

ENCODER, AESTHETIC, PREFERENCE = "shapes_clip", "shapes_aesthetic", "shapes_preference"
"""Names of the scorers and of their weight files."""

QUALITY_WORDS = {"noise": "noisy", "blur": "blurry", "dull": "dull"}
"""What captions of the training pictures call each of `draw.DEGRADATIONS`, now and then.

Captions from the web do so as well, and so the encoder learns to see quality.
"""

_PAD, _START, _UNKNOWN = 0, 1, 2
_FIRST_WORD = 3
_TOKEN = re.compile(r"[a-z]+|,")


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Token number of every word of the grammar; the last number ends a caption."""
    words = [*grammar.WORDS, ",", *QUALITY_WORDS.values()]
    return {word: _FIRST_WORD + i for i, word in enumerate(words)}


def vocabulary_size() -> int:
    """How many tokens there are; the highest ends a caption, as open_clip's pooling expects."""
    return _FIRST_WORD + len(vocabulary()) + 1


def tokenise(captions: Sequence[str]) -> Tensor:
    """Captions as int64 [N, CONTEXT]; words outside the grammar share one token."""
    known, end = vocabulary(), vocabulary_size() - 1
    rows = torch.full((len(captions), CONTEXT), _PAD, dtype=torch.int64)
    for i, text in enumerate(captions):
        words = [known.get(w, _UNKNOWN) for w in _TOKEN.findall(text.lower())]
        tokens = [_START, *words[: CONTEXT - 2], end]
        rows[i, : len(tokens)] = torch.tensor(tokens)
    return rows


def picture_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures uint8 [N, 64, 64, 3] as float32 [N, 3, 64, 64] from -1 to 1."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class AestheticHead(nn.Module):
    """Rates a picture's features: float [N, FEATURE_DIM] to [N]."""

    def __init__(self, hidden: int = 64) -> None:
        """`hidden` is the width of the one hidden layer."""
        super().__init__()
        self.layers = _layers(hidden)

    def forward(self, features: Tensor) -> Tensor:
        """One rating a row."""
        rating: Tensor = self.layers(features)
        return rating.squeeze(-1)


class PreferenceHead(nn.Module):
    """The strength of a picture under a caption in a Bradley-Terry model of people's choices."""

    def __init__(self, hidden: int = 32) -> None:
        """`hidden` is the width of the one hidden layer."""
        super().__init__()
        self.quality = _layers(hidden)
        self.match = nn.Linear(EMBED_DIM, 1, bias=False)

    def forward(self, features: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Log-strengths [N] of features [N, FEATURE_DIM] and unit embeddings [N, EMBED_DIM]."""
        quality: Tensor = self.quality(features)
        match: Tensor = self.match(EMBED_DIM * image * text)
        return (quality + match).squeeze(-1)


class DualEncoder(nn.Module):
    """An open_clip CLIP of this world's size; built untrained."""

    def __init__(self) -> None:
        """Raises a `BenchError` in one sentence where open_clip cannot be imported."""
        super().__init__()
        model = _open_clip()
        vision = model.CLIPVisionCfg(
            layers=3, width=FEATURE_DIM, head_width=32, patch_size=8, image_size=draw.IMAGE_SIZE
        )
        text = model.CLIPTextCfg(
            context_length=CONTEXT, vocab_size=vocabulary_size(), width=128, heads=4, layers=2
        )
        self.clip = model.CLIP(embed_dim=EMBED_DIM, vision_cfg=vision, text_cfg=text)

    def look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, FEATURE_DIM] and unit embeddings [N, EMBED_DIM] of pictures."""
        visual: Any = self.clip.visual
        projection, visual.proj = visual.proj, None
        try:
            features: Tensor = visual(pictures)
        finally:
            visual.proj = projection
        return features, nn.functional.normalize(features @ projection, dim=-1)

    def read(self, tokens: Tensor) -> Tensor:
        """Unit embeddings [N, EMBED_DIM] of tokens [N, CONTEXT]."""
        embedded: Tensor = self.clip.encode_text(tokens, normalize=True)
        return embedded


def _open_clip() -> Any:
    try:
        return importlib.import_module("open_clip.model")
    except Exception as error:
        # A broken torchvision raises RuntimeError or AttributeError, not only ImportError.
        raise BenchError(
            "the learned scorers of the shapes world need open_clip, which cannot be imported "
            f"({type(error).__name__}: {error}); install open_clip_torch and a torchvision that "
            "matches this torch"
        ) from error


def _layers(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(FEATURE_DIM),
        nn.Linear(FEATURE_DIM, hidden),
        nn.GELU(),
        nn.Linear(hidden, 1),
    )


# --- weights ----------------------------------------------------------------------------


def save_weights(module: nn.Module, path: Path, provenance: dict[str, str]) -> None:
    """Write a module in half precision, with facts about its making in the file's header."""
    from safetensors.torch import save_file

    half = {k: v.detach().cpu().half().contiguous() for k, v in module.state_dict().items()}
    with files.replacing(path) as part:
        save_file(half, part, metadata=provenance)
        # safetensors makes files that nobody else may read.
        part.chmod(0o644)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into a module of the same build."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BenchError(
            f"{path} is missing or damaged ({type(error).__name__}); `bench shapes build` makes "
            "it again"
        ) from error


# --- scoring ----------------------------------------------------------------------------


class LearnedScorer:
    """One of the three learned scorers with its weights in memory."""

    def __init__(self, weights: Path, name: str, device: str) -> None:
        """Read `shapes_clip`, and the head `name` where it is another, from a folder."""
        self.encoder = load_encoder(weights, device)
        self.head: AestheticHead | PreferenceHead | None = None
        if name != ENCODER:
            self.head = AestheticHead() if name == AESTHETIC else PreferenceHead()
            load_weights(self.head, weights / f"{name}.safetensors")
            self.head.to(device).eval().requires_grad_(False)
        self.device = device

    def score(
        self, images: Sequence[Image | Tensor], prompts: Sequence[str]
    ) -> NDArray[np.float64]:
        """Rate image i under prompt i: float64 [N], higher is better."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        spans = range(0, len(images), BATCH)
        parts = [self._scores(images[i : i + BATCH], prompts[i : i + BATCH]) for i in spans]
        return np.concatenate(parts) if parts else np.zeros(0)

    @torch.inference_mode()
    def _scores(
        self, images: Sequence[Image | Tensor], prompts: Sequence[str]
    ) -> NDArray[np.float64]:
        pictures = np.zeros((BATCH, draw.IMAGE_SIZE, draw.IMAGE_SIZE, 3), dtype=np.uint8)
        for i, image in enumerate(images):
            pictures[i] = draw.fitted(image)
        features, seen = self.encoder.look(picture_tensor(pictures).to(self.device))
        if isinstance(self.head, AestheticHead):
            scores = self.head(features)
        else:
            padded = [*prompts, *[""] * (BATCH - len(prompts))]
            read = self.encoder.read(tokenise(padded).to(self.device))
            if isinstance(self.head, PreferenceHead):
                scores = self.head(features, seen, read)
            else:
                scores = SCORE_SCALE * (seen * read).sum(dim=-1)
        return np.asarray(scores[: len(images)].double().cpu().numpy())


def load_encoder(weights: Path, device: str) -> DualEncoder:
    """The trained dual encoder, ready to score."""
    encoder = DualEncoder()
    load_weights(encoder, weights / f"{ENCODER}.safetensors")
    encoder.to(device).eval().requires_grad_(False)
    return encoder
