"""The whole build of the embedded world, in order; every step is skipped where it is finished."""

from __future__ import annotations

from pathlib import Path

from bench import BenchError
from bench_plugins.shapes import facts, files, pairs, pretrain, prompts, train_scorers
from bench_plugins.shapes.files import Report


def build_world(work: Path, assets: Path, report: Report) -> None:
    """Make everything in `assets` from seeds; the same call goes on from unfinished `work`."""
    check_own(work, assets)
    work.mkdir(parents=True, exist_ok=True)
    assets.mkdir(parents=True, exist_ok=True)
    pretrain.pretrain(pretrain.PretrainConfig(), work / "pretrain", assets / "pipeline", report)
    prompts.build_prompts(prompts.PromptsConfig(), assets, report)
    train_scorers.build_encoder(train_scorers.EncoderConfig(), work / "scorers", assets, report)
    pairs.build_pairs(pairs.PairsConfig(), work / "pairs", assets, report)
    train_scorers.build_aesthetic(train_scorers.AestheticConfig(), assets, report)
    train_scorers.build_preference(train_scorers.PreferenceConfig(), assets, report)
    facts.build_facts(assets, report)


_PARTS = {"pretrain", "prompts", "scorers", "pairs", "facts"}
"""What a folder of unfinished work may hold."""


def check_own(work: Path, assets: Path) -> None:
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
        content = files.read_json(provenance)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"config", "stages"} <= content.keys()
