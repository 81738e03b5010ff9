"""The folder of a trained cell outlives tar, copies and the loss of the store."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from bench_plugins.pretrained import Pretrained
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from bench.diffusion import lora
from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.stable_diffusion import StableDiffusionPolicy
from bench.lib.errors import DamagedArtefactError
from bench.outputs.checkpoint_folders import is_adapter, write_checkpoint
from bench.store.store import Cost, Store
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_pipeline(tmp_path_factory.mktemp("base") / "pipeline")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def artefact(store: Store, base: Path, key: str, *, change: float, adapter: bool = False) -> Path:
    """A train stage's artefact: the U-Net or a LoRA, changed by an amount."""
    policy = StableDiffusionPolicy.load(base, "cpu")
    if adapter:
        lora.add(policy.denoiser, lora.LoraSettings(rank=2, alpha=4.0), seed=0)
    weights = lora.parameters(policy.denoiser) if adapter else list(policy.denoiser.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.add_(change)
    partial = store.begin("train", key)
    policy.save_checkpoint(partial.out)
    (partial.out / "curve.csv").write_text("step,loss\n1,0.5\n")
    return store.commit("train", key, partial, Cost(), {}).path


def answer(policy: PipelinePolicy) -> torch.Tensor:
    x = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = policy.encode_prompts(["a red cat"])
        return policy.predict_epsilon(policy.denoiser, x, torch.tensor([300]), told)


def evaluated(folder: Path, base: Path) -> torch.Tensor:
    backbone = StableDiffusionPolicy.load(base, "cpu")
    model = Pretrained(weights=str(folder)).model(backbone)
    assert isinstance(model, PipelinePolicy)
    return answer(model)


@pytest.mark.parametrize("adapter", [False, True])
def test_it_survives_an_archive_and_the_store(
    store: Store, base: Path, tmp_path: Path, adapter: bool
) -> None:
    made = artefact(store, base, "k1", change=0.02, adapter=adapter)
    out = tmp_path / "out" / "dpo-seed0"
    write_checkpoint(out, made, "# card\n")
    assert is_adapter(made) == adapter
    expected = evaluated(out, base)
    untouched = answer(StableDiffusionPolicy.load(base, "cpu"))
    assert not torch.allclose(expected, untouched, atol=1e-3)
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    with tarfile.open(tmp_path / "out.tar", "w") as archive:
        archive.add(tmp_path / "out", "out")
    copied = shutil.copytree(tmp_path / "out", tmp_path / "copy", symlinks=True)
    shutil.rmtree(store.root)
    shutil.rmtree(tmp_path / "out")
    with tarfile.open(tmp_path / "out.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for place in (copied / "dpo-seed0", tmp_path / "unpacked" / "out" / "dpo-seed0"):
        assert torch.allclose(evaluated(place, base), expected, atol=1e-6)
        pipeline = StableDiffusionPipeline.from_pretrained(base)
        if adapter:
            pipeline.load_lora_weights(place, weight_name="pytorch_lora_weights.safetensors")
        else:
            pipeline.unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet")
        policy = StableDiffusionPolicy.load(base, "cpu")
        policy.denoiser = pipeline.unet.eval()
        assert torch.allclose(answer(policy), expected, atol=1e-5)


def test_two_checkpoints_differ_and_one_does_not(store: Store, base: Path, tmp_path: Path) -> None:
    """By the weights alone: neither the card nor where it lies nor the training curve counts."""

    def fingerprint(folder: Path) -> str:
        return Pretrained(weights=str(folder)).fingerprint()

    for adapter in (False, True):
        one = artefact(store, base, f"one{adapter}", change=0.02, adapter=adapter)
        two = artefact(store, base, f"two{adapter}", change=0.03, adapter=adapter)
        folder = tmp_path / f"{adapter}"
        write_checkpoint(folder / "one", one, "# card")
        write_checkpoint(folder / "two", two, "# card")
        write_checkpoint(folder / "again", one, "# another card")
        (folder / "again" / "curve.csv").unlink()
        (folder / "again" / "curve.csv").write_text("other")
        assert fingerprint(folder / "one") != fingerprint(folder / "two")
        assert fingerprint(folder / "one") == fingerprint(folder / "again") == fingerprint(one)
        # What earlier versions left: links into the store.
        linked = folder / "linked"
        linked.mkdir()
        for part in one.iterdir():
            (linked / part.name).symlink_to(part)
        assert fingerprint(linked) == fingerprint(one)


def test_what_is_there_stays(store: Store, base: Path, tmp_path: Path) -> None:
    made, out = artefact(store, base, "k1", change=0.02), tmp_path / "out"
    weights = "unet/diffusion_pytorch_model.safetensors"
    write_checkpoint(out, made, "# card")
    assert (out / weights).samefile(made / weights)
    before = {path: path.stat() for path in out.rglob("*")}
    write_checkpoint(out, made, "# card")
    assert {path: path.stat() for path in out.rglob("*")} == before
    (out / "mine.txt").write_text("a reader's own")
    (out / ".card.1.tmp").write_text("half of a card of a killed process")
    write_checkpoint(out, made, "# another card")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "README.md",
        "curve.csv",
        "mine.txt",
        "unet/config.json",
        weights,
    ]


def test_it_copies_where_links_cannot_be(
    store: Store, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    made, out = artefact(store, base, "k1", change=0.02), tmp_path / "out"
    weights = "unet/diffusion_pytorch_model.safetensors"
    monkeypatch.setattr(os, "link", refuse)
    write_checkpoint(out, made, "# card")
    assert not (out / weights).samefile(made / weights)
    assert (out / weights).read_bytes() == (made / weights).read_bytes()
    inode = (out / weights).stat().st_ino
    write_checkpoint(out, made, "# card")
    assert (out / weights).stat().st_ino == inode
    # A copy that was damaged is made again.
    (out / weights).write_bytes(b"cut")
    write_checkpoint(out, made, "# card")
    assert (out / weights).read_bytes() == (made / weights).read_bytes()


def test_links_of_an_earlier_version_are_replaced(store: Store, base: Path, tmp_path: Path) -> None:
    made, out = artefact(store, base, "k1", change=0.02), tmp_path / "out"
    out.mkdir()
    (out / "unet").symlink_to(made / "unet")
    write_checkpoint(out, made, "# card")
    assert not (out / "unet").is_symlink()
    assert sorted(path.name for path in (made / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    (made / "curve.csv").unlink()
    (out / "curve.csv").unlink()
    with pytest.raises(DamagedArtefactError, match=r"curve\.csv is missing"):
        write_checkpoint(out, made, "# card")


def test_an_edited_checkpoint_is_found_in_the_store_and_mended(
    store: Store, base: Path, tmp_path: Path
) -> None:
    made, out = artefact(store, base, "k1", change=0.02), tmp_path / "out"
    write_checkpoint(out, made, "# card")
    with (out / "curve.csv").open("a") as file:
        file.write("2,0.4\n")
    with pytest.raises(DamagedArtefactError, match=r"curve\.csv differs .*edited in an output"):
        store.find("train", "k1")
    store.discard("train", "k1")
    again = artefact(store, base, "k1", change=0.02)
    write_checkpoint(out, again, "# card")
    assert (out / "curve.csv").read_text() == "step,loss\n1,0.5\n"
    assert store.find("train", "k1")
