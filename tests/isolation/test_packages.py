"""The published packages, in environments built from the package index: same scores in a worker.

Small models with random weights of the packages' own classes; `packages/` holds the scripts that
make them and score with the package alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_plugins.isolated_scorers import plugin
from PIL import Image

from bench.lib.errors import BenchError
from bench.scoring.isolation import build, environments
from bench.scoring.isolation.scorer import IsolatedScorer

SCRIPTS = Path(__file__).parent / "packages"
SIZES = [(512, 512), (640, 360), (300, 700), (224, 224), (100, 60), (231, 101)]
PROMPTS = ["a small red circle", "a cat " * 60, "日本の城 été 🎨", "", "a dog", "{} PUNCTUATION!?"]


def narrow(cls: type[IsolatedScorer], script: Path) -> type[IsolatedScorer]:
    """The scorer with the shipped adapter on a narrow model, which the script makes of it."""

    class Narrow(cls):  # type: ignore[misc, valid-type]
        adapter = script

        def options(self) -> Mapping[str, Any]:
            return {**super().options(), "adapter": str(cls.adapter)}

    return Narrow


def scorers(folder: Path) -> dict[str, IsolatedScorer]:
    hpsv2 = narrow(plugin.HPSv2Official, SCRIPTS / "small_hpsv2.py")
    image_reward = narrow(plugin.ImageRewardOfficial, SCRIPTS / "small_image_reward.py")
    weights = str(folder / "weights.pt")
    return {
        "hpsv2": hpsv2(weights=weights),
        "image_reward": image_reward(
            weights=weights,
            med_config=str(folder / "med_config.json"),
            vocabulary=str(folder / "vocab.txt"),
        ),
        "hpsv3": plugin.HPSv3(
            weights=str(folder / "weights.safetensors"), base=str(folder / "base")
        ),
        "vqascore": plugin.VQAScore(
            weights=str(folder / "weights"),
            tokenizer=str(folder / "tokenizer"),
            vision_tower=str(folder / "tower"),
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hpsv2", "image_reward", "hpsv3", "vqascore"])
def test_a_worker_gives_the_packages_own_scores(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(5)
    case = []
    for i, (size, prompt) in enumerate(zip(SIZES, PROMPTS, strict=True)):
        coarse = rng.integers(0, 256, (size[1] // 20 + 2, size[0] // 20 + 2, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
        case.append((f"{i}.png", prompt))
    (tmp_path / "case.json").write_text(json.dumps(case))

    scorer = scorers(tmp_path)[name]
    users = [cls for cls in plugin.bench_scorers() if cls.environment == scorer.environment]
    build.create(scorer.environment, sorted({cls.adapter for cls in users}), print)
    try:
        python = environments.require(scorer.environment).python
        script = SCRIPTS / f"small_{name}.py"
        subprocess.run([python, "-I", script, tmp_path], check=True)
        official = json.loads((tmp_path / "scores.json").read_text())
        assert len(set(official)) == len(case)
        worker = scorer.load("cpu")
        images = [Image.open(tmp_path / file) for file, _ in case]
        scores = worker.score(images, PROMPTS)
        np.testing.assert_array_equal(scores, official)
        # Neither order nor neighbours matter.
        np.testing.assert_array_equal(worker.score(images[::-1], PROMPTS[::-1]), official[::-1])
        if name in ("hpsv2", "image_reward"):
            assert worker.truncated(PROMPTS) == [1]
        assert build.check(scorer.environment, [scorer.adapter]) == []
        worker.close()
        if name == "image_reward":
            _refuses_a_checkpoint_that_lacks_a_tensor(scorer, tmp_path)
        if name == "vqascore":
            _refuses_folders_that_lack_a_tensor(scorer, tmp_path)
    finally:
        environments.remove(scorer.environment.name, print)


def _refuses_a_checkpoint_that_lacks_a_tensor(scorer: IsolatedScorer, folder: Path) -> None:
    import torch

    state = torch.load(folder / "weights.pt", weights_only=True)
    del state["mlp.layers.7.bias"]
    torch.save(state, folder / "weights.pt")
    with pytest.raises(BenchError, match=r"lacks 1 of \d+ tensors: mlp\.layers\.7\.bias"):
        scorer.load("cpu")


def _refuses_folders_that_lack_a_tensor(scorer: IsolatedScorer, folder: Path) -> None:
    from safetensors import torch

    for part, lost in (("weights", "mm_projector.0.bias"), ("tower", "layernorm.weight")):
        path = folder / part / "model.safetensors"
        whole = torch.load_file(path)
        kept = {key: tensor for key, tensor in whole.items() if not key.endswith(lost)}
        torch.save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(
            BenchError, match=rf"{part} is no whole CLIP.*, it lacks \d+ tens.*{lost}"
        ):
            scorer.load("cpu")
        torch.save_file(whole, path, metadata={"format": "pt"})
