from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_plugins.pretrained import Pretrained

from bench.diffusion import lora
from bench.diffusion.pipeline import PipelinePolicy
from bench.diffusion.stable_diffusion import StableDiffusionPolicy, StableDiffusionXLPolicy
from bench.lib import hub
from bench.lib.errors import BenchError
from bench.registry.registry import Registry, default_registry, spec_text
from tests import tiny
from tests.training.conftest import ToyPolicy, toy_setup

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_sd1(tmp_path_factory.mktemp("pretrained") / "base")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny_sd1(tmp_path_factory.mktemp("pretrained") / "other", seed=3)


@pytest.fixture
def backbone(base: Path) -> StableDiffusionPolicy:
    return StableDiffusionPolicy.load(base, "cpu")


@pytest.fixture
def registry() -> Registry:
    return default_registry()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Puts a folder into a cache of the Hub's layout, without network; gives its id."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._resolved.cache_clear()

    def put(folder: Path) -> str:
        place = tmp_path / "hub" / f"models--owner--{folder.name}"
        shutil.copytree(folder, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        return f"owner/{folder.name}"

    return put


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for where weights lie in memory, which moves the last digits of products."""
    return torch.allclose(one, other, atol=1e-5)


def answers(policy: PipelinePolicy) -> torch.Tensor:
    """One pass, which any other text encoder or denoiser changes."""
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    told = policy.encode_prompts(["a red cat", "at"])
    with torch.no_grad():
        return policy.predict_epsilon(policy.denoiser, x, torch.tensor([50, 700]), told)


def model(weights: object, backbone: PipelinePolicy, **options: str) -> PipelinePolicy:
    policy = Pretrained(weights=str(weights), **options).model(backbone)
    assert isinstance(policy, PipelinePolicy)
    return policy


def test_it_is_evaluated_and_never_trained(registry: Registry, base: Path, tmp_path: Path) -> None:
    method = registry.build("methods", f"pretrained:{base}")
    assert method == Pretrained(weights=str(base))
    assert spec_text(method) == f"pretrained[weights={base}]"
    assert not method.trainable
    assert not method.baseline
    assert method.label_scorers(["a"]) == ()
    assert method.resolved("sdxl") == method
    with pytest.raises(BenchError, match="never trained"):
        method.train(toy_setup(tmp_path))


def test_a_pipeline_brings_its_own_parts(
    backbone: StableDiffusionPolicy, base: Path, other: Path, cache: Callable[[Path], str]
) -> None:
    expected = answers(StableDiffusionPolicy.load(other, "cpu"))
    before = answers(backbone)
    for weights in (other, cache(other)):
        policy = model(weights, backbone)
        assert policy is not backbone
        assert close(answers(policy), expected)
    # Both models need not fit into memory at once, and the backbone is still itself.
    assert not backbone._parts
    assert close(answers(backbone), before)
    assert (policy.dtype, policy.resolution) == (backbone.dtype, backbone.resolution)


def test_a_denoiser_replaces_the_backbones(
    backbone: StableDiffusionPolicy, base: Path, other: Path, cache: Callable[[Path], str]
) -> None:
    root = other.parent / "only-unet"
    shutil.copytree(other / "unet", root / "unet")
    expected = StableDiffusionPolicy.load(base, "cpu")
    expected.denoiser = StableDiffusionPolicy.load(other, "cpu").denoiser
    untouched, wanted = answers(backbone), answers(expected)
    state = expected.denoiser.state_dict()
    torch.save(state, root.parent / "unet.pth")
    hub_id = cache(root)
    for weights in (root, root / "unet", root.parent / "unet.pth", hub_id):
        assert model(weights, backbone) is backbone
        assert close(answers(backbone), wanted)
        backbone.reset()
    assert close(answers(backbone), untouched)


def test_an_adapter_is_put_on_the_backbone(
    backbone: StableDiffusionPolicy, base: Path, tmp_path: Path, cache: Callable[[Path], str]
) -> None:
    trained = StableDiffusionPolicy.load(base, "cpu")
    lora.add(trained.denoiser, lora.LoraSettings(rank=2, alpha=4.0), seed=0)
    with torch.no_grad():
        for weight in lora.parameters(trained.denoiser):
            weight.add_(0.05)
    folder = tmp_path / "adapter"
    trained.save_checkpoint(folder)
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for name in ("one.safetensors", "two.safetensors"):
        shutil.copy(folder / "pytorch_lora_weights.safetensors", renamed / name)
    expected = answers(trained)
    assert not torch.allclose(expected, answers(backbone), atol=1e-3)
    for weights, options in (
        (folder, {}),
        (cache(folder), {}),
        (renamed / "one.safetensors", {}),
        (renamed, {"file": "two.safetensors"}),
        (cache(renamed), {"file": "two.safetensors"}),
    ):
        assert close(answers(model(weights, backbone, **options)), expected)
        backbone.reset()
    with pytest.raises(BenchError, match=r"several weights files \(one\.safetensors, two"):
        model(renamed, backbone)
    with pytest.raises(BenchError, match=r"owner/renamed@main: .*name its file.*file=\.\.\.\]"):
        model("owner/renamed", backbone)
    with pytest.raises(BenchError, match="there is no file 'three"):
        model(renamed, backbone, file="three.safetensors")


def test_another_family_is_refused(
    backbone: StableDiffusionPolicy, base: Path, tmp_path: Path
) -> None:
    velocity = tiny.save_tiny_sd2(tmp_path / "sd2")
    with pytest.raises(BenchError, match="of the family sd2, but the backbone's family is sd1"):
        model(velocity, backbone)
    with pytest.raises(BenchError, match="do not fit this backbone's denoiser"):
        model(velocity / "unet", backbone)
    large = tiny.save_tiny_sdxl(tmp_path / "sdxl")
    with pytest.raises(BenchError, match="of the family sdxl, but the backbone's family is sd1"):
        model(large, backbone)
    own = StableDiffusionXLPolicy.load(large, "cpu")
    assert torch.equal(
        answers(model(large, own)), answers(StableDiffusionXLPolicy.load(large, "cpu"))
    )
    with pytest.raises(BenchError, match="the backbone is none"):
        Pretrained(weights=str(base)).model(ToyPolicy())


def test_fingerprints_need_no_download(
    other: Path, tmp_path: Path, cache: Callable[[Path], str], registry: Registry
) -> None:
    pinned = f"pretrained[weights=never/seen,revision={COMMIT}]"
    assert registry.build("methods", pinned).fingerprint() == f"never/seen@{COMMIT}"
    assert Pretrained(weights=cache(other)).fingerprint() == f"owner/{other.name}@{COMMIT}"
    with pytest.raises(BenchError, match="give a full commit hash"):
        Pretrained(weights="never/seen").fingerprint()
    folder = Path(shutil.copytree(other / "unet", tmp_path / "unet"))
    weights = folder / "diffusion_pytorch_model.safetensors"
    first = Pretrained(weights=str(folder)).fingerprint()
    assert first == Pretrained(weights=str(other / "unet")).fingerprint()
    alone = Pretrained(weights=str(folder), file=weights.name).fingerprint()
    assert alone == Pretrained(weights=str(weights)).fingerprint() == hub.cached_sha256(weights)
    weights.write_bytes(weights.read_bytes() + b" ")
    assert first != Pretrained(weights=str(folder)).fingerprint()


def test_what_is_nothing_of_the_kind_is_named(
    backbone: StableDiffusionPolicy, tmp_path: Path, cache: Callable[[Path], str]
) -> None:
    with pytest.raises(BenchError, match="holds no denoiser weights"):
        model(tmp_path, backbone)
    with pytest.raises(BenchError, match="there is no file or folder"):
        model("./gone", backbone)
    with pytest.raises(BenchError, match="the Hub cannot be reached"):
        model("never/seen", backbone, revision=COMMIT)


def test_scorers_that_its_makers_trained_on_are_in_loop() -> None:
    method = default_registry().build(
        "methods", "pretrained[weights=a/b,in_loop=pickscore+clip-h14]"
    )
    assert method.label_scorers(()) == ("pickscore", "clip-h14")
    assert default_registry().build("methods", "pretrained:a/b").label_scorers(("x",)) == ()
