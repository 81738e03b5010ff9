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
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from bench_plugins.shapes import draw, files, grammar, learned, population
from bench_plugins.shapes.grammar import Scene
from bench_plugins.shapes.pairs import PAIRS_FILE

Report = Callable[[str], None]
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

    def other(values: tuple[Any, ...], value: Any) -> Any:
        return rng.choice([v for v in values if v != value])

    kinds = ["shape", "colour", "size", "background", "style"]
    kinds.append("relation" if len(scene.things) == 2 else "count")
    kind = rng.choice(kinds)
    if kind == "background":
        return replace(scene, background=other(grammar.BACKGROUNDS, scene.background))
    if kind == "style":
        return replace(scene, style=other(grammar.STYLES, scene.style))
    if kind == "relation":
        return replace(scene, relation=other(grammar.RELATIONS, scene.relation))
    if kind == "count":
        return replace(scene, count=other(grammar.COUNTS, scene.count))
    things = list(scene.things)
    i = rng.randrange(len(things))
    values = {"shape": grammar.SHAPES, "colour": grammar.COLOURS, "size": grammar.SIZES}[kind]
    changed = {kind: other(values, getattr(things[i], kind))}
    things[i] = replace(things[i], **changed)
    return replace(scene, things=tuple(things))


def left_open(scene: Scene, rng: random.Random, share: float) -> Scene:
    """A filled scene with each attribute that a caption may omit omitted with `share`."""

    def maybe(value: str | None) -> str | None:
        return None if rng.random() < share else value

    things = tuple(replace(t, colour=maybe(t.colour), size=maybe(t.size)) for t in scene.things)
    return replace(
        scene, things=things, background=maybe(scene.background), style=maybe(scene.style)
    )


def _draw_families(config: EncoderConfig, work: Path, report: Report) -> None:
    """Draw all pictures once, with full captions and the name of what degraded them, if any."""
    if (work / "families.json").exists():
        return
    count = config.families
    shape = (2 * count, draw.IMAGE_SIZE, draw.IMAGE_SIZE, 3)
    pictures = np.empty(shape, dtype=np.uint8)
    captions: list[tuple[str, str | None]] = []
    for i in range(count):
        rng = random.Random(f"{config.seed}/family/{i}")
        scene = grammar.fill(grammar.sample_scene(rng), rng)
        for j, one in enumerate((scene, altered(scene, rng))):
            picture = draw.render(one, rng)
            lapse = None
            if rng.random() < config.degraded_share:
                lapse = rng.choice(draw.DEGRADATIONS)
                picture = draw.degrade(picture, rng, lapse)
            pictures[2 * i + j] = picture
            captions.append((grammar.caption(one), lapse))
    with files.replacing(work / "families.npy") as part, part.open("wb") as file:
        np.save(file, pictures)
    files.write_json(work / "families.json", captions)
    report(f"scorers: drew {2 * count} pictures for the dual encoder")


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
    target = assets / "scorers" / f"{learned.ENCODER}.safetensors"
    if _made_by(target, _provenance(config)):
        report("scorers: the dual encoder is there already")
        return
    # Named after the configuration, so that another one starts afresh.
    work = work / f"encoder-{_key(config)}"
    _draw_families(config, work, report)
    pictures = np.load(work / "families.npy", mmap_mode="r")
    told = json.loads((work / "families.json").read_text(encoding="utf-8"))
    shown = [(_known(grammar.parse(text)), lapse) for text, lapse in told]
    torch.manual_seed(config.seed)
    model = learned.DualEncoder()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(
        groups, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    checkpoint = work / "checkpoint.pt"
    start, seconds, running = 0, 0.0, math.nan
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start, seconds, running = state["step"], state["seconds"], state["loss"]
    began = time.monotonic() - seconds
    model.train()
    per_epoch = config.families // config.batch_families
    for step in range(start, config.steps):
        epoch, turn = divmod(step, per_epoch)
        order = np.random.default_rng([config.seed, epoch]).permutation(config.families)
        chosen = order[turn * config.batch_families : (turn + 1) * config.batch_families]
        rows = np.sort(np.concatenate([2 * chosen, 2 * chosen + 1]))
        rng = random.Random(f"{config.seed}/step/{step}")
        captions = [_told(shown[r], rng, config) for r in rows]
        x = _soften(learned.picture_tensor(np.asarray(pictures[rows])), rng)
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, config.steps, config.warmup, config.lr)
        _, seen = model.look(x)
        read = model.read(learned.tokenise(captions))
        scale = model.clip.logit_scale.exp().clamp(max=100.0)
        loss = contrastive_loss(seen, read, scale)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.95 * running + 0.05 * value
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            report(f"scorers: dual encoder step {step + 1}/{config.steps} loss {running:.4f}")
            state = {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "seconds": time.monotonic() - began,
                "loss": running,
            }
            with files.replacing(checkpoint) as part:
                torch.save(state, part)
    learned.save_weights(model, target, _provenance(config))
    facts = {"loss": round(running, 4), "seconds": round(time.monotonic() - began)}
    report(f"scorers: dual encoder done {json.dumps(facts)}")


def _told(shown: tuple[Scene, str | None], rng: random.Random, config: EncoderConfig) -> str:
    """A caption of a picture that leaves some of its attributes open."""
    scene, lapse = shown
    text = grammar.caption(left_open(scene, rng, config.open_share))
    if lapse is not None and rng.random() < config.quality_share:
        text = f"{text}, {learned.QUALITY_WORDS[lapse]}"
    return text


def _known(scene: Scene | None) -> Scene:
    if scene is None:
        raise ValueError("a drawn picture's caption does not parse")
    return scene


def _rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up to the peak, then half a cosine down to nothing."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


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
class HeadsConfig:
    """Both heads."""

    aesthetic: AestheticConfig = field(default_factory=AestheticConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)


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
    pictures = [[learned.as_array(Image.open(io.BytesIO(j))) for j in two] for two in both]
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


def build_heads(config: HeadsConfig, work: Path, assets: Path, report: Report) -> None:
    """Fit both heads; a minute. Needs the encoder and the pairs."""
    build_aesthetic(config.aesthetic, work, assets, report)
    build_preference(config.preference, work, assets, report)


def build_aesthetic(config: AestheticConfig, work: Path, assets: Path, report: Report) -> None:
    """Fit the aesthetic head to a panel's ratings; a minute. Needs encoder and pairs."""
    folder = assets / "scorers"
    provenance = _provenance(config, *_inputs(assets))
    target = folder / f"{learned.AESTHETIC}.safetensors"
    if _made_by(target, provenance):
        report("scorers: the aesthetic head is there already")
        return
    encoder = learned.load_encoder(folder, "cpu")
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

    _fit(head, loss_of, train, config)
    with torch.inference_mode():
        guessed = head(features[test]).double().numpy()
    fit = float(np.corrcoef(guessed, ratings[test])[0, 1])
    learned.save_weights(head, target, provenance)
    report(f"scorers: aesthetic head done, correlation with unseen ratings {fit:.3f}")


def build_preference(config: PreferenceConfig, work: Path, assets: Path, report: Report) -> None:
    """Fit the Bradley-Terry model to the pairs' labels; seconds. Needs encoder and pairs."""
    folder = assets / "scorers"
    provenance = _provenance(config, *_inputs(assets))
    target = folder / f"{learned.PREFERENCE}.safetensors"
    if _made_by(target, provenance):
        report("scorers: the preference model is there already")
        return
    encoder = learned.load_encoder(folder, "cpu")
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
    _fit(head, loss_of, np.arange(len(labels) - held), config)
    test = np.arange(len(labels) - held, len(labels))
    with torch.inference_mode():
        right = accuracy(margin(test).double().numpy(), data.labels[test])
    learned.save_weights(head, target, provenance)
    report(f"scorers: preference model done, {right:.1%} of unseen choices right")


def accuracy(margins: FloatArray, labels: FloatArray) -> float:
    """Share of the pairs without a tie [N] whose preferred picture has the higher score."""
    decided = labels != 0.5
    return float(np.mean((margins > 0)[decided] == (labels > 0.5)[decided]))


def _fit(
    head: nn.Module,
    loss_of: Callable[[IntArray], Tensor],
    rows: IntArray,
    config: AestheticConfig | PreferenceConfig,
) -> None:
    """Minimise a loss over random batches of rows."""
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    source = np.random.default_rng([config.seed, 1])
    head.train()
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, config.steps, config.steps // 20, config.lr)
        loss = loss_of(source.choice(rows, size=config.batch, replace=False))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    head.eval()


# --- files ------------------------------------------------------------------------------


def _key(config: Any) -> str:
    return hashlib.sha256(json.dumps(asdict(config)).encode()).hexdigest()[:12]


def _inputs(assets: Path) -> tuple[Path, Path]:
    """What both heads are made from."""
    return assets / "scorers" / f"{learned.ENCODER}.safetensors", assets / PAIRS_FILE


def _provenance(config: Any, *inputs: Path) -> dict[str, str]:
    """What the weights' header says of their making."""
    facts = {"made_by": f"{__name__}.{type(config).__name__}", "config": json.dumps(asdict(config))}
    return facts | {f"{p.name} sha256": files.hash_of(p) for p in inputs}


def _made_by(path: Path, provenance: dict[str, str]) -> bool:
    """Whether finished weights of exactly this making lie at `path`."""
    if not path.exists():
        return False
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return bool((file.metadata() or {}) == provenance)
