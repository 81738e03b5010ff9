"""A third party's backbone whose denoiser is a transformer: what is written names no U-Net.

Its forward process is Stable Diffusion's, so that nothing but the denoiser differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from bench_plugins.pretrained import Pretrained
from diffusers import DDIMScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from bench import (
    Backbone,
    PipelineLayout,
    StartModel,
    option,
)
from bench.api.policy import Condition, Moments, Policy
from bench.api.schedule import NoiseSchedule
from bench.diffusion import checkpoints
from bench.lib import hub
from bench.lib.progress import Progress
from bench.outputs.writing import write
from bench.registry.registry import Entry, Registry
from bench.running import planning
from bench.running.walk import Walk, status
from bench.store.store import Store
from tests import tiny, toy

LAYOUT = PipelineLayout(
    pipeline="StableDiffusion3Pipeline", denoiser="SD3Transformer2DModel", part="transformer"
)
WIDTH = 8


def save_pipeline(folder: Path) -> Path:
    """A pipeline of a transformer alone: it has neither text encoders nor an autoencoder."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
    )
    none = dict.fromkeys(
        f"{kind}{i}" for kind in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=DDIMScheduler(**tiny.SCHEDULE), vae=None, **none
    )
    pipeline.save_pretrained(folder)
    return folder


class TransformerPolicy(Policy):
    """A transformer on latents that are the pixels, shrunk."""

    latent_shape = (4, 8, 8)
    dtype = torch.float32

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, torch.device(device)
        self.scheduler_config = json.loads((path / "scheduler/scheduler_config.json").read_text())
        self.schedule = NoiseSchedule.from_scheduler(
            DDIMScheduler.from_config(self.scheduler_config), self.device
        )
        self.reset()

    def reset(self) -> None:
        self.denoiser = SD3Transformer2DModel.from_pretrained(self.path / "transformer").eval()

    def release(self, *, denoiser: bool = False) -> None:
        if denoiser:
            self.reset()

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        seeds = [int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) for p in prompts]
        rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return {"prompt": torch.stack(rows)}

    def encode_images(self, images: Sequence[Image.Image]) -> Moments:
        sides = [np.asarray(image.convert("RGBA").resize((8, 8))) for image in images]
        mean = torch.from_numpy(np.stack(sides)).permute(0, 3, 1, 2).float() / 128 - 1
        return Moments(mean=mean, std=torch.zeros_like(mean))

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        pixels = ((latents[:, :3].clamp(-1, 1) + 1) * 127).to(torch.uint8)
        return [Image.fromarray(p.permute(1, 2, 0).numpy()).resize((16, 16)) for p in pixels]

    def predict_epsilon(
        self,
        denoiser: torch.nn.Module,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        condition: Condition,
    ) -> torch.Tensor:
        prompt = condition["prompt"]
        told = {"encoder_hidden_states": prompt[:, None], "pooled_projections": prompt}
        output: torch.Tensor = denoiser(latents, timestep=timesteps, **told).sample
        return output

    def save_checkpoint(self, folder: Path) -> None:
        checkpoints.save(self.denoiser, folder, LAYOUT)

    def load_checkpoint(self, path: Path) -> None:
        structure = json.loads((self.path / "transformer" / "config.json").read_text())
        self.denoiser = checkpoints.load(
            path, lambda: self.denoiser, structure, LAYOUT, self.dtype, self.device
        )


@dataclass(frozen=True, kw_only=True)
class TransformerBackbone(Backbone):
    """A tiny transformer with random weights."""

    name: ClassVar[str] = "tiny-transformer"
    path: str = option(doc="folder", affects_results=False)

    @property
    def family(self) -> str:
        return "shapes"

    @property
    def resolution(self) -> int:
        return 16

    @property
    def seconds_per_evaluation(self) -> float:
        return 0.001

    @property
    def start_model(self) -> StartModel:
        arguments = ", ".join(
            [
                repr(self.path),
                "vae=None",
                *(f"text_encoder{i}=None, tokenizer{i}=None" for i in ("", "_2", "_3")),
            ]
        )
        code = f"pipeline = StableDiffusion3Pipeline.from_pretrained({arguments})"
        return StartModel(layout=LAYOUT, code=code)

    def fingerprint(self) -> str:
        return hub.fingerprint(self.path, revision="")

    def load(self, device: str) -> Policy:
        return TransformerPolicy(Path(self.path), device)


@pytest.fixture(scope="module")
def run_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs one training of the toy world on the transformer; gives the output folder."""
    folder = tmp_path_factory.mktemp("transformer")
    pipeline = save_pipeline(folder / "transformer-pipeline")
    own = Entry(kind="backbones", cls=TransformerBackbone, package="x", package_version="1")
    registry = Registry([*toy.registry().entries(), own])

    def run(**training: Any) -> Path:
        recipe = toy.recipe(
            folder,
            backbone=f"tiny-transformer[path={pipeline}]",
            methods=["dpo"],
            training={"steps": 2, **training},
        )
        plan = planning.make(recipe, registry)
        store = Store(folder / "store")
        progress = Progress(Console(quiet=True))
        runner = Walk(plan.stages, store, "cpu", progress)
        outcome = runner.run(status(plan.stages, store).finished)
        assert not outcome.failures
        out = folder / f"out-{len(training)}"
        out.mkdir()
        write(plan, store, out, outcome, "cpu")
        return out / "checkpoints" / "dpo-seed0"

    return run


def loaded_by_the_card(place: Path, monkeypatch: pytest.MonkeyPatch) -> StableDiffusion3Pipeline:
    code = (place / "README.md").read_text(encoding="utf-8").split("```python\n")[1]
    names: dict[str, Any] = {}
    monkeypatch.chdir(place)
    exec(code.split("```")[0], names)
    return names["pipeline"]


@pytest.mark.parametrize("training", [{}, {"lora_rank": 2}], ids=["whole", "lora"])
def test_files_and_card_are_the_transformers(
    run_in: Callable[..., Path], training: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run_in(**training)
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    if training:
        assert names == {"README.md", "curve.csv", checkpoints.LORA_FILE}
        with safe_open(place / checkpoints.LORA_FILE, framework="pt") as opened:
            assert all(key.startswith("transformer.") for key in opened.keys())  # noqa: SIM118
            (text,) = opened.metadata().values()
        assert {key.partition(".")[0] for key in json.loads(text)} == {"transformer"}
    else:
        weights = {
            f"transformer/{n}" for n in ("config.json", "diffusion_pytorch_model.safetensors")
        }
        assert names == {"README.md", "curve.csv", *weights}
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "unet" not in card.lower()

    pipeline = loaded_by_the_card(place, monkeypatch)
    start = place.parents[2] / "transformer-pipeline"
    policy = TransformerPolicy(start, "cpu")
    x, told = torch.randn(1, 4, 8, 8), policy.encode_prompts(["a"])

    def answer(denoiser: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return policy.predict_epsilon(denoiser, x, torch.tensor([300]), told)

    untouched = answer(policy.denoiser)
    method = Pretrained(weights=str(place))
    assert method.fingerprint() != Pretrained(weights=str(start / "transformer")).fingerprint()
    assert method.model(policy) is policy
    assert torch.allclose(answer(policy.denoiser), answer(pipeline.transformer.eval()), atol=1e-6)
    assert not torch.equal(answer(policy.denoiser), untouched)
