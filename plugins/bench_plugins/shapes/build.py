"""The whole build of the embedded world, in order; every step is skipped where it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import BenchError
from bench_plugins.shapes import facts, pairs, pretrain, prompts, train_scorers


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Every number that decides the world; the defaults made the shipped one."""

    pretrain: pretrain.PretrainConfig = field(default_factory=pretrain.PretrainConfig)
    prompts: prompts.PromptsConfig = field(default_factory=prompts.PromptsConfig)
    pairs: pairs.PairsConfig = field(default_factory=pairs.PairsConfig)
    encoder: train_scorers.EncoderConfig = field(default_factory=train_scorers.EncoderConfig)
    aesthetic: train_scorers.AestheticConfig = field(default_factory=train_scorers.AestheticConfig)
    preference: train_scorers.PreferenceConfig = field(
        default_factory=train_scorers.PreferenceConfig
    )


def build_world(
    work: Path,
    assets: Path,
    report: Callable[[str], None],
    config: WorldConfig | None = None,
) -> None:
    """Make everything in `assets` from seeds.

    Args:
        work: unfinished work; the same call goes on from it.
        assets: where the finished files are put.
        report: told what happens, a line at a time.
        config: sizes and seeds; those of the shipped world by default.
    """
    config = config or WorldConfig()
    _check_own(work, assets)
    work.mkdir(parents=True, exist_ok=True)
    assets.mkdir(parents=True, exist_ok=True)
    pretrain.pretrain(config.pretrain, work / "pretrain", assets / "pipeline", report)
    prompts.build_prompts(config.prompts, assets, report)
    train_scorers.build_encoder(config.encoder, work / "scorers", assets, report)
    pairs.build_pairs(config.pairs, work / "pairs", assets, report)
    train_scorers.build_aesthetic(config.aesthetic, assets, report)
    train_scorers.build_preference(config.preference, assets, report)
    facts.build_facts(assets, report)


_PARTS = {"pretrain", "prompts", "scorers", "pairs", "facts"}


def _check_own(work: Path, assets: Path) -> None:
    """Raise `BenchError` where somebody else's files would be mixed with the world's."""
    if assets.resolve().is_relative_to(work.resolve()) or work.resolve().is_relative_to(
        assets.resolve()
    ):
        raise BenchError(f"{assets} and --work {work} lie in each other; name two folders")
    for folder in (work, assets):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BenchError(f"{folder} is no folder; name a new or an empty one")
    there = {path.name for path in assets.iterdir()} if assets.exists() else set()
    # The pipeline is there first, and the next moment the file that says how it was made.
    if there - {"pipeline", "pipeline.part"} and not _is_world(assets / "provenance.json"):
        raise BenchError(
            f"{assets} holds {min(there)!r} and is no shapes world; name a new or an empty folder"
        )
    others = {path.name for path in work.iterdir()} - _PARTS if work.exists() else set()
    if others:
        raise BenchError(
            f"--work {work} holds {min(others)!r}, which no build has left; name another folder"
        )


def _is_world(provenance: Path) -> bool:
    try:
        content = json.loads(provenance.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"config", "stages"} <= content.keys()
