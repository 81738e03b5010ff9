"""The whole build of the embedded world, in order; every step is skipped where it is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench_plugins.shapes import facts, pairs, pretrain, prompts, train_scorers


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Every number that decides the world; the defaults made the shipped one."""

    pretrain: pretrain.PretrainConfig = field(default_factory=pretrain.PretrainConfig)
    prompts: prompts.PromptsConfig = field(default_factory=prompts.PromptsConfig)
    pairs: pairs.PairsConfig = field(default_factory=pairs.PairsConfig)
    encoder: train_scorers.EncoderConfig = field(default_factory=train_scorers.EncoderConfig)
    heads: train_scorers.HeadsConfig = field(default_factory=train_scorers.HeadsConfig)


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
    work.mkdir(parents=True, exist_ok=True)
    assets.mkdir(parents=True, exist_ok=True)
    pretrain.pretrain(config.pretrain, work / "pretrain", assets / "pipeline", report)
    prompts.build_prompts(config.prompts, work / "prompts", assets, report)
    train_scorers.build_encoder(config.encoder, work / "scorers", assets, report)
    pairs.build_pairs(config.pairs, work / "pairs", assets, report)
    train_scorers.build_heads(config.heads, work / "scorers", assets, report)
    facts.build_facts(work / "facts", assets, report)
