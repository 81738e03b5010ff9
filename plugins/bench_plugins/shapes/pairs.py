"""Preference pairs of the shapes world, in a Parquet file of the Pick-a-Pic v2 schema.

The base model draws two pictures for each caption, and one person of the population, drawn at
random, says which is better. People see the pictures as the file holds them, JPEG and all.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench_plugins.shapes import files, population
from bench_plugins.shapes.files import Report
from bench_plugins.shapes.prompts import PromptsConfig, prompt_lists

if TYPE_CHECKING:
    from bench import Policy

ByteArray = NDArray[np.uint8]

PAIRS_FILE = "pairs.parquet"
MODEL_NAME = "shapes-base"
_FIRST_MOMENT = np.datetime64("2025-01-01", "ns")
_NAMESPACE = uuid.UUID("6b1f5a52-6d5c-4f0e-9e67-0d7f7b6f4a11")


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Every number that decides the pairs; the defaults made the shipped file."""

    seed: int = 61
    captions: PromptsConfig = field(default_factory=PromptsConfig)
    image_seeds: tuple[int, int] = (0, 1)
    steps: int = 15
    guidance: float = 3.0
    batch: int = 32
    """Captions sampled at once; two pictures each."""
    jpeg_quality: int = 92


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """One pair as people saw it and one person's answer."""

    caption: str
    jpegs: tuple[bytes, bytes]
    label: float
    """1: picture 0 is preferred, 0: picture 1, 0.5: a tie."""
    user_id: int


def encode_jpeg(picture: ByteArray, quality: int) -> bytes:
    """JPEG bytes of uint8 [64, 64, 3], colours at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def label_pair(
    caption: str, pictures: Sequence[ByteArray], number: int, config: PairsConfig
) -> LabelledPair:
    """Show two pictures to one person, both chosen by the seed and the pair's number."""
    first, second = (encode_jpeg(p, config.jpeg_quality) for p in pictures)
    seen = [population.measures(Image.open(io.BytesIO(data)), caption) for data in (first, second)]
    rng = random.Random(f"{config.seed}/label/{number}")
    person = rng.choice(population.people())
    return LabelledPair(
        caption=caption,
        jpegs=(first, second),
        label=population.choice(person, seen[0], seen[1], rng.random()),
        user_id=person.user_id,
    )


def table_of(pairs: Sequence[LabelledPair], provenance: str) -> Any:
    """The pairs as a `pyarrow.Table` of the Pick-a-Pic v2 schema."""
    import pyarrow as pa

    table = pa.Table.from_pylist([_row(p, i) for i, p in enumerate(pairs)])
    return table.replace_schema_metadata({"provenance": provenance})


def _row(pair: LabelledPair, number: int) -> dict[str, Any]:
    uids = [str(uuid.uuid5(_NAMESPACE, f"{number}/{i}/{pair.caption}")) for i in (0, 1)]
    best = "tie" if pair.label == 0.5 else uids[0 if pair.label == 1 else 1]
    return {
        "are_different": pair.jpegs[0] != pair.jpegs[1],
        "best_image_uid": best,
        "caption": pair.caption,
        "created_at": _FIRST_MOMENT + np.timedelta64(number, "m"),
        "has_label": True,
        "image_0_uid": uids[0],
        "image_1_uid": uids[1],
        "image_0_url": f"shapes://{uids[0]}",
        "image_1_url": f"shapes://{uids[1]}",
        "jpg_0": pair.jpegs[0],
        "jpg_1": pair.jpegs[1],
        "label_0": pair.label,
        "label_1": 1 - pair.label,
        "model_0": MODEL_NAME,
        "model_1": MODEL_NAME,
        "ranking_id": number,
        "user_id": pair.user_id,
        "num_example_per_prompt": 1,
    }


def sample_pairs(
    policy: Policy, captions: Sequence[str], config: PairsConfig, work: Path, report: Report
) -> ByteArray:
    """Two pictures for each caption: uint8 [N, 2, 64, 64, 3]; finished batches are kept."""
    from bench.diffusion import sample

    work.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(captions), config.batch):
        path = work / f"sampled-{start:05d}.npy"
        if not path.exists():
            prompts = [c for c in captions[start : start + config.batch] for _ in (0, 1)]
            seeds = list(config.image_seeds) * (len(prompts) // 2)
            drawn = sample(policy, prompts, seeds, steps=config.steps, guidance=config.guidance)
            pictures = np.stack([np.asarray(i, dtype=np.uint8) for i in drawn.images])
            files.write_array(path, pictures.reshape(-1, 2, *pictures.shape[1:]))
            report(f"pairs: sampled {min(start + config.batch, len(captions))}/{len(captions)}")
        parts.append(np.load(path))
    return np.concatenate(parts)


def build_pairs(config: PairsConfig, work: Path, assets: Path, report: Report) -> None:
    """Sample, label and write `assets/pairs.parquet`; about 5 minutes on two cores.

    Needs `assets/pipeline`. Nothing that another pipeline or other settings left is used.
    """
    import pyarrow.parquet as pq

    pipeline = files.folder_hash(assets / "pipeline")
    provenance = _provenance(config, pipeline)
    target = assets / PAIRS_FILE
    if target.exists():
        known = (pq.read_schema(target).metadata or {}).get(b"provenance", b"")
        if known.decode() == provenance:
            report("pairs: there already")
            return
    from bench.diffusion import StableDiffusionPolicy

    captions = prompt_lists(config.captions).pairs
    policy = StableDiffusionPolicy.load(assets / "pipeline", "cpu")
    # Named after what decides the samples, so that a rebuilt pipeline starts afresh.
    folder = work / f"sampled-{_sampling_key(config, pipeline)}"
    pictures = sample_pairs(policy, captions, config, folder, report)
    shown = zip(captions, pictures, strict=True)
    pairs = [label_pair(caption, two, i, config) for i, (caption, two) in enumerate(shown)]
    with files.replacing(target) as part:
        # No codec: JPEG bytes do not shrink, and a codec's output differs between versions.
        pq.write_table(table_of(pairs, provenance), part, compression="none")
    ties = sum(pair.label == 0.5 for pair in pairs)
    report(f"pairs: {len(pairs)} written, {ties} of them ties")


def _provenance(config: PairsConfig, pipeline: str) -> str:
    facts = {
        "made_by": f"{__name__}.build_pairs",
        "config": asdict(config),
        "pipeline_sha256": pipeline,
        "population_sha256": population.fingerprint(),
    }
    return json.dumps(facts, sort_keys=True)


def _sampling_key(config: PairsConfig, pipeline: str) -> str:
    deciding = replace(config, jpeg_quality=0)
    return hashlib.sha256(f"{pipeline} {deciding}".encode()).hexdigest()[:16]
