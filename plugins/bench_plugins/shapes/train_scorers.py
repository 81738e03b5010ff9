"""Trains the learned scorers of the shapes world from seeds: dual encoder and both heads.

Every stage leaves its weights in the assets folder, continues from its last checkpoint when
it was interrupted, and is skipped where the weights of the same configuration are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from bench_plugins.shapes import draw, files, grammar, learned, population
from bench_plugins.shapes.files import Report
from bench_plugins.shapes.fitting import Checkpoint, batch_at, fit
from bench_plugins.shapes.grammar import Scene
from bench_plugins.shapes.pairs import PAIRS_FILE

ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Every number that decides the dual encoder; the defaults made the shipped one."""

    seed: int = 31
    families: int = 12_000
    """Pictures come in pairs that differ in one attribute, so that every batch is hard."""
    degraded_share: float = 0.35
    open_share: float = 0.2
    """Share of attributes that a caption leaves out."""
    quality_share: float = 0.6
    """Share of degraded pictures whose caption says so."""
    batch_families: int = 128
    steps: int = 800
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 60
    checkpoint_every: int = 50


# --- pictures ---------------------------------------------------------------------------


def altered(scene: Scene, rng: random.Random) -> Scene:
    """A filled scene with exactly one attribute changed, each kind equally likely."""
    kinds = ["shape", "colour", "size", "background", "style"]
    kinds.append("relation" if len(scene.things) == 2 else "count")
    kind = rng.choice(kinds)
    thing = rng.randrange(len(scene.things)) if kind in grammar.OF_THINGS else 0
    return grammar.changed(scene, kind, rng, thing=thing)


def left_open(scene: Scene, rng: random.Random, share: float) -> Scene:
    """A filled scene with each attribute that a caption may omit omitted with `share`."""

    def maybe(value: str | None) -> str | None:
        return None if rng.random() < share else value

    things = tuple(replace(t, colour=maybe(t.colour), size=maybe(t.size)) for t in scene.things)
    return replace(
        scene, things=things, background=maybe(scene.background), style=maybe(scene.style)
    )


def _families(config: EncoderConfig) -> Iterator[tuple[ByteArray, tuple[str, str | None]]]:
    """All pictures, with full captions and the name of what degraded them, if any."""
    for i in range(config.families):
        rng = random.Random(f"{config.seed}/family/{i}")
        scene = grammar.fill(grammar.sample_scene(rng), rng)
        for one in (scene, altered(scene, rng)):
            picture = draw.render(one, rng)
            lapse = None
            if rng.random() < config.degraded_share:
                lapse = rng.choice(draw.DEGRADATIONS)
                picture = draw.degrade(picture, rng, lapse)
            yield picture, (grammar.caption(one), lapse)


# --- dual encoder -----------------------------------------------------------------------


def contrastive_loss(seen: Tensor, read: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over a batch of matching unit embeddings [N, EMBED_DIM]."""
    logits = scale * seen @ read.T
    target = torch.arange(len(logits), device=logits.device)
    both = nn.functional.cross_entropy(logits, target)
    return 0.5 * (both + nn.functional.cross_entropy(logits.T, target))


def _soften(pictures: Tensor, rng: random.Random) -> Tensor:
    """A little of a blur and of noise, so that decoded pictures are no surprise."""
    amount = rng.random()
    soft = nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    return pictures + amount * (soft - pictures)


def build_encoder(config: EncoderConfig, work: Path, assets: Path, report: Report) -> None:
    """Train the dual encoder into `assets/scorers`; about 15 minutes on one core."""
    # Named after the configuration, so that another one starts afresh.
    key = hashlib.sha256(json.dumps(asdict(config)).encode()).hexdigest()[:12]
    folder = work / f"encoder-{key}"
    _keep(learned.ENCODER, config, assets, report, lambda: _encoder(config, folder, report))


def _encoder(config: EncoderConfig, work: Path, report: Report) -> tuple[nn.Module, str]:
    """The trained dual encoder, and how training went."""
    if not (work / "captions.json").exists():
        files.write_examples(work, _families(config))
        report(f"scorers: drew {2 * config.families} pictures for the dual encoder")
    pictures, shown = files.read_examples(work)
    torch.manual_seed(config.seed)
    model = learned.DualEncoder()

    def loss_of(step: int) -> Tensor:
        chosen = batch_at(step, config.families, config.batch_families, config.seed)
        rows = np.sort(np.concatenate([2 * chosen, 2 * chosen + 1]))
        rng = random.Random(f"{config.seed}/step/{step}")
        captions = [_caption(*shown[r], rng=rng, config=config) for r in rows]
        _, seen = model.look(_soften(learned.picture_tensor(pictures[rows]), rng))
        read = model.read(learned.tokenise(captions))
        return contrastive_loss(seen, read, model.clip.logit_scale.exp().clamp(max=100.0))

    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(
        groups, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    path, title = work / "checkpoint.pt", "scorers: dual encoder"
    checkpoint = Checkpoint(path, config.checkpoint_every, report, title)
    facts = fit(
        model, optimiser, loss_of, config.steps, warmup=config.warmup, checkpoint=checkpoint
    )
    return model, json.dumps(facts)


def _caption(text: str, lapse: str | None, *, rng: random.Random, config: EncoderConfig) -> str:
    """A drawn picture's caption that leaves some of its attributes open."""
    scene = grammar.parse(text)
    assert scene is not None, f"the caption {text!r} was drawn, but does not parse"
    text = grammar.caption(left_open(scene, rng, config.open_share))
    if lapse is not None and rng.random() < config.quality_share:
        text = f"{text}, {learned.QUALITY_WORDS[lapse]}"
    return text


# --- heads ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """Every number that decides the aesthetic head; the defaults made the shipped one."""

    seed: int = 71
    drawn: int = 4000
    """Drawn pictures that are rated beside all pictures of the pairs."""
    degraded_share: float = 0.5
    raters: int = 12
    rating_noise: float = 0.5
    """Standard deviation of the panel's mean rating, which is about 1 wide itself."""
    steps: int = 1500
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.05


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Every number that decides the preference model; the defaults made the shipped one."""

    seed: int = 81
    steps: int = 300
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.3
    test_share: float = 0.15
    """Share of the pairs that only measure; the last rows of the file."""


@dataclass(frozen=True, kw_only=True)
class PairData:
    """The pairs' file in memory; N pairs."""

    captions: tuple[str, ...]
    pictures: ByteArray
    """[N, 2, 64, 64, 3]"""
    labels: FloatArray
    """[N]: 1 prefers picture 0, 0.5 is a tie."""


def read_pairs(path: Path) -> PairData:
    """Captions, decoded pictures and labels of `pairs.parquet`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["caption", "jpg_0", "jpg_1", "label_0"]).to_pydict()
    both = zip(table["jpg_0"], table["jpg_1"], strict=True)
    pictures = [[draw.fitted(Image.open(io.BytesIO(j))) for j in two] for two in both]
    return PairData(
        captions=tuple(table["caption"]),
        pictures=np.asarray(pictures, dtype=np.uint8),
        labels=np.asarray(table["label_0"], dtype=np.float64),
    )


@torch.inference_mode()
def look_at(encoder: learned.DualEncoder, pictures: ByteArray) -> tuple[Tensor, Tensor]:
    """Features and unit embeddings of uint8 [N, 64, 64, 3], in batches."""
    spans = [pictures[i : i + learned.BATCH] for i in range(0, len(pictures), learned.BATCH)]
    seen = [encoder.look(learned.picture_tensor(span)) for span in spans]
    return torch.cat([f for f, _ in seen]), torch.cat([e for _, e in seen])


def rated_pictures(config: AestheticConfig, shown: ByteArray) -> tuple[ByteArray, FloatArray]:
    """Pictures `shown` and freshly drawn ones with the ratings [N] of a panel of people."""
    drawn = []
    for i in range(config.drawn):
        rng = random.Random(f"{config.seed}/drawn/{i}")
        picture = draw.render(grammar.fill(grammar.sample_scene(rng), rng), rng)
        if rng.random() < config.degraded_share:
            picture = draw.degrade(picture, rng)
        soft = ImageFilter.GaussianBlur(rng.uniform(0.0, 1.5))
        drawn.append(np.asarray(Image.fromarray(picture).filter(soft), dtype=np.uint8))
    pictures = np.concatenate([shown, np.stack(drawn)]) if drawn else shown
    # The prompt is not shown to the panel, so none is needed for what its members look at.
    measured = np.stack([population.measures(Image.fromarray(p), "") for p in pictures])
    raters = random.Random(config.seed).sample(population.people(), config.raters)
    noise = np.random.default_rng(config.seed).normal(0.0, config.rating_noise, len(pictures))
    return pictures, population.looks_rating(raters, measured) + noise


def build_aesthetic(config: AestheticConfig, assets: Path, report: Report) -> None:
    """Fit the aesthetic head to a panel's ratings; a minute. Needs encoder and pairs."""
    _keep(learned.AESTHETIC, config, assets, report, lambda: _aesthetic(config, assets))


def _aesthetic(config: AestheticConfig, assets: Path) -> tuple[nn.Module, str]:
    """The fitted head, and how well it foretells ratings that it was not fitted to."""
    encoder = learned.load_encoder(assets / "scorers", "cpu")
    shown = read_pairs(assets / PAIRS_FILE).pictures
    pictures, ratings = rated_pictures(config, shown.reshape(-1, *shown.shape[2:]))
    features, _ = look_at(encoder, pictures)
    aimed = torch.from_numpy(ratings).float()
    torch.manual_seed(config.seed)
    head = learned.AestheticHead()
    order = np.random.default_rng(config.seed).permutation(len(pictures))
    test, train = order[: len(order) // 10], order[len(order) // 10 :]

    def loss_of(rows: IntArray) -> Tensor:
        return nn.functional.mse_loss(head(features[rows]), aimed[rows])

    _fit_head(head, loss_of, train, config)
    with torch.inference_mode():
        guessed = head(features[test]).double().numpy()
    fit_of_test = float(np.corrcoef(guessed, ratings[test])[0, 1])
    return head, f"correlation with unseen ratings {fit_of_test:.3f}"


def build_preference(config: PreferenceConfig, assets: Path, report: Report) -> None:
    """Fit the Bradley-Terry model to the pairs' labels; seconds. Needs encoder and pairs."""
    _keep(learned.PREFERENCE, config, assets, report, lambda: _preference(config, assets))


def _preference(config: PreferenceConfig, assets: Path) -> tuple[nn.Module, str]:
    """The fitted head, and how many choices it foretells that it was not fitted to."""
    encoder = learned.load_encoder(assets / "scorers", "cpu")
    data = read_pairs(assets / PAIRS_FILE)
    with torch.inference_mode():
        read = encoder.read(learned.tokenise(data.captions))
    features, seen = look_at(encoder, data.pictures.reshape(-1, *data.pictures.shape[2:]))
    features = features.reshape(len(read), 2, -1).clone()
    seen, read = seen.reshape(len(read), 2, -1).clone(), read.clone()
    labels = torch.from_numpy(data.labels).float()
    torch.manual_seed(config.seed)
    head = learned.PreferenceHead()

    def margin(rows: IntArray) -> Tensor:
        first, second = (head(features[rows, i], seen[rows, i], read[rows]) for i in (0, 1))
        lead: Tensor = first - second
        return lead

    def loss_of(rows: IntArray) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(margin(rows), labels[rows])

    held = round(config.test_share * len(labels))
    train, test = np.split(np.arange(len(labels)), [len(labels) - held])
    _fit_head(head, loss_of, train, config)
    with torch.inference_mode():
        right = accuracy(margin(test).double().numpy(), data.labels[test])
    return head, f"{right:.1%} of unseen choices right"


def accuracy(margins: FloatArray, labels: FloatArray) -> float:
    """Share of the pairs without a tie [N] whose preferred picture has the higher score."""
    decided = labels != 0.5
    return float(np.mean((margins > 0)[decided] == (labels > 0.5)[decided]))


def _fit_head(
    head: nn.Module,
    loss_of: Callable[[IntArray], Tensor],
    rows: IntArray,
    config: AestheticConfig | PreferenceConfig,
) -> None:
    """Minimise a loss over random batches of rows."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    source = np.random.default_rng([config.seed, 1])

    def loss_at(step: int) -> Tensor:
        return loss_of(source.choice(rows, size=config.batch, replace=False))

    fit(head, optimiser, loss_at, config.steps, warmup=config.steps // 20, clip=math.inf)
    head.eval()


# --- files ------------------------------------------------------------------------------


def _keep(
    name: str,
    config: Any,
    assets: Path,
    report: Report,
    train: Callable[[], tuple[nn.Module, str]],
) -> None:
    """Save what `train` gives as a scorer's weights, unless weights of that making are there."""
    from safetensors import safe_open

    folder = assets / "scorers"
    target = folder / f"{name}.safetensors"
    facts = {"made_by": f"{__name__}.{type(config).__name__}", "config": json.dumps(asdict(config))}
    if name != learned.ENCODER:
        inputs = (folder / f"{learned.ENCODER}.safetensors", assets / PAIRS_FILE)
        facts |= {f"{p.name} sha256": files.hash_of(p) for p in inputs}
    if target.exists():
        with safe_open(target, framework="pt") as file:
            if file.metadata() == facts:
                report(f"scorers: {name} is there already")
                return
    module, outcome = train()
    learned.save_weights(module, target, facts)
    report(f"scorers: {name} done, {outcome}")
