"""The whole of `bench run` on the true structures of SD 1.5, SD 2.1 and SDXL, reduced in width."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from bench.cli import main as cli
from bench.diffusion.checkpoints import LORA_FILE
from bench.diffusion.sampling import initial_latent, solver
from bench.running.launch import meeting_point
from tests import toy
from tests.tiny import save_tiny_sd1, save_tiny_sd2, save_tiny_sdxl
from tests.training.conftest import exit_code, forked

ROOT = Path(__file__).parent.parent
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd15": save_tiny_sd1,
    "sd21": save_tiny_sd2,
    "sdxl": save_tiny_sdxl,
}
STEPS, GUIDANCE = 3, 3.0
METHODS = ("smpo[trajectory=renoise[steps=2]]", "balanced[reference=hard_copy[every=1]]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("structures")
    toy.write_pairs(folder / "pairs.parquet", count=10, broken=[7])
    toy.write_prompts(folder / "prompts.tsv", count=3)
    for name, save in FAMILIES.items():
        save(folder / name)
    return folder


def _recipe(
    folder: Path, family: str, file: Path, methods: Sequence[str] = METHODS, **training: Any
) -> Path:
    recipe = {
        "backbone": f"{family}[path={folder / family}]",
        "pairs": str(folder / "pairs.parquet"),
        "prompts": [str(folder / "prompts.tsv")],
        "scorers": ["shapes_clip", "shapes_aesthetic"],
        "label_scorers": ["shapes_clip", "shapes_aesthetic"],
        "methods": [*methods],
        "max_broken_share": 0.1,
        "framing": {"crop": "random", "flip": True},
        "training": {"steps": 2, "batch_size": 4, "micro_batch_size": 2, **training},
        "sampling": {"steps": STEPS, "guidance": GUIDANCE, "scheduler": "ddim", "batch_size": 2},
    }
    file.write_text(yaml.safe_dump(recipe))
    return file


def _run(recipe: Path, out: Path) -> None:
    cli.run(recipe=str(recipe), device="cpu", store=out / "store", out=out / "board")


def _plain_diffusers(folder: Path, family: str, checkpoint: Path, prompt: str) -> np.ndarray:
    """The image that diffusers' own pipeline draws with the checkpoint, float [H, W, 3]."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder / family)
    if (checkpoint / "unet").is_dir():
        pipeline.unet = UNet2DConditionModel.from_pretrained(checkpoint, subfolder="unet")
    else:
        pipeline.load_lora_weights(checkpoint, weight_name=LORA_FILE)
    config = dict(pipeline.scheduler.config)
    pipeline.scheduler = type(solver("ddim", config)).from_config(config, clip_sample=False)
    pipeline.set_progress_bar_config(disable=True)
    image: np.ndarray = pipeline(
        prompt,
        latents=initial_latent(prompt, 0, (4, 8, 8))[None],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    ).images[0]
    return image


QUICK = [("sdxl", True)]
"""SD 1.5 is trained below, and its adapter read by diffusers in tests/diffusion."""


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        pytest.param(
            family,
            adapter,
            id=f"{family}-{'lora' if adapter else 'full'}",
            marks=[] if (family, adapter) in QUICK else [pytest.mark.slow],
        )
        for family in FAMILIES
        for adapter in (False, True)
    ],
)
def test_from_pairs_to_board_and_back_into_diffusers(
    folder: Path, tmp_path: Path, family: str, adapter: bool
) -> None:
    options = {"lora_rank": 2} if adapter else {}
    _run(_recipe(folder, family, tmp_path / "recipe.yaml", **options), tmp_path)
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert {row["method"] for section in board["sections"] for row in section["rows"]} == {
        "base",
        "balanced[reference=hard_copy[every=1]]",
        "smpo[trajectory=renoise[steps=2]]",
    }
    checkpoints = sorted((tmp_path / "board" / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    images = {
        path.parent.parent.name: np.asarray(Image.open(path), dtype=np.float64) / 255
        for path in tmp_path.glob("store/artefacts/sample/*/images/00000.png")
    }
    for checkpoint in checkpoints:
        assert (checkpoint / "pytorch_lora_weights.safetensors").exists() == adapter
        assert (checkpoint / "README.md").read_text().startswith("---\nlibrary_name: diffusers")
        # What diffusers draws is one of the sampled images, up to their rounding to 8 bits, and
        # of no other cell.
        drawn = _plain_diffusers(folder, family, checkpoint, "toy 0")
        distances = sorted(float(np.abs(drawn - image).max()) for image in images.values())
        assert distances[0] < 0.5 / 255 + 1e-4
        assert distances[1] > distances[0]


def _artefacts(store: Path, stage: str) -> dict[str, Path]:
    return {path.name: path for path in (store / "artefacts" / stage).iterdir()}


def _launched(recipe: Path, two: Path) -> str:
    """Two processes of the command line, each a new interpreter; what they print."""
    command = ["run", "--recipe", str(recipe), "--device", "cpu", "--num-processes", "2"]
    command += ["--store", str(two / "store"), "--out", str(two / "board")]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _forked(recipe: Path, two: Path) -> str:
    """The same in two forks of this process, which has the slow imports done."""

    def share() -> None:
        with (two / os.environ["RANK"]).open("w") as printed, redirect_stdout(printed):
            _run(recipe, two)

    two.mkdir()
    shared = meeting_point(2)
    running = [forked(share, RANK=str(rank), **shared) for rank in range(2)]
    assert [exit_code(pid) for pid in running] == [0, 0]
    return "".join((two / str(rank)).read_text() for rank in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("run_as_two", [_forked, _launched])
def test_two_processes_give_what_one_gives(
    folder: Path, tmp_path: Path, run_as_two: Callable[[Path, Path], str]
) -> None:
    """The same labels and images to the byte, the same training curve up to float error."""
    recipe = _recipe(folder, "sd15", tmp_path / "recipe.yaml", METHODS[1:], lora_rank=2)
    _run(recipe, tmp_path / "one")
    printed = run_as_two(recipe, tmp_path / "two")
    assert "(2 at a time x 1 accumulated x 2 processes)" in " ".join(printed.split())
    one, two = tmp_path / "one", tmp_path / "two"
    for stage in ("inspect", "encode", "rewards", "train", "sample", "score"):
        first, second = (_artefacts(run / "store", stage) for run in (one, two))
        assert first.keys() == second.keys()
        for key, path in first.items():
            files = [p.relative_to(path) for p in path.rglob("*") if p.is_file()]
            for name in files:
                ours, theirs = path / name, second[key] / name
                if name.name == "artefact.json":
                    continue
                if stage in ("inspect", "encode", "rewards"):
                    assert ours.read_bytes() == theirs.read_bytes(), (stage, name)
                elif name.suffix == ".csv":
                    pd.testing.assert_frame_equal(pd.read_csv(ours), pd.read_csv(theirs), rtol=1e-4)
                elif name.suffix == ".png":
                    pixels = [np.asarray(Image.open(p), dtype=int) for p in (ours, theirs)]
                    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    costs = [json.loads((p / "artefact.json").read_text())["cost"] for p in second.values()]
    assert {cost["processes"] for cost in costs} == {2}


def test_an_untrained_opponent_stands_on_the_board(folder: Path, tmp_path: Path) -> None:
    """A published U-Net (here: another seed's) beside the untouched backbone."""
    save_tiny_sd1(tmp_path / "other", seed=1)
    torch.save(
        {name: weight + 0.01 for name, weight in _unet(folder / "sd15").state_dict().items()},
        tmp_path / "unet.pth",
    )
    recipe = _recipe(folder, "sd15", tmp_path / "recipe.yaml")
    methods = f"pretrained:{tmp_path / 'other' / 'unet'},pretrained:{tmp_path / 'unet.pth'}"
    cli.run(
        recipe=str(recipe),
        methods=methods,
        device="cpu",
        store=tmp_path / "store",
        out=tmp_path / "board",
    )
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    rows = [row for section in board["sections"] for row in section["rows"]]
    assert len(rows) == 3
    assert sorted(row["base"] for row in rows) == [False, False, True]
    assert not list(tmp_path.glob("store/artefacts/train/*"))
    assert len(list(tmp_path.glob("store/artefacts/sample/*"))) == 3


def _unet(folder: Path) -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    model: torch.nn.Module = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    return model
