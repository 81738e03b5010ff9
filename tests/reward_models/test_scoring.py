"""Batches, order, neighbours, long prompts, gradients."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from bench import BenchError
from tests.reward_models import cases, material

SCORERS = tuple(cases.TOLERANCE)
IMAGES, PROMPTS = zip(*((image, prompt) for _, image, prompt in material.pairs()), strict=True)


def _near(found, expected, scores):
    """Within 1e-6 of the size that the scores have: PickScore's cosines are times 100."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, np.abs(scores).max()))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_scores_do_not_depend_on_batch_order_or_neighbours(scorer, batch, model, batches_of):
    together = model(scorer).score(IMAGES, PROMPTS)
    batches_of(model(scorer), batch)
    order = [5, 0, 7, 2, 2, 6, 1]
    shuffled = model(scorer).score([IMAGES[i] for i in order], [PROMPTS[i] for i in order])
    alone = model(scorer).score([IMAGES[3]], [PROMPTS[3]])
    assert together.dtype == np.float64
    _near(shuffled, together[order], together)
    _near(alone, together[3:4], together)


@pytest.mark.parametrize("scorer", SCORERS)
def test_pairs_are_scored_by_position(scorer, model):
    images = [IMAGES[0], IMAGES[1], IMAGES[0]]
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[4]]
    scores = model(scorer).score(images, prompts)
    assert scores.shape == (3,)
    one_by_one = [model(scorer).score([i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    np.testing.assert_allclose(scores, one_by_one, atol=1e-6, rtol=1e-6)
    assert scores[0] != scores[1]
    assert (scores[0] == scores[2]) == (scorer == "aesthetic")
    with pytest.raises(ValueError, match="3 images but 1 prompts"):
        model(scorer).score(images, ["a"])


@pytest.mark.parametrize("scorer", SCORERS)
def test_nothing_is_scored_as_nothing(scorer, model):
    assert model(scorer).score([], []).shape == (0,)


@pytest.mark.parametrize("scorer", SCORERS)
def test_tensors_are_scored_as_images(scorer, model):
    images, prompts = IMAGES[:2], PROMPTS[:2]
    tensors = [to_tensor(image) for image in images]
    assert (model(scorer).score(tensors, prompts) == model(scorer).score(images, prompts)).all()


@pytest.mark.parametrize("scorer", SCORERS)
def test_networks_have_the_slope_of_their_pictures(scorer, model):
    """What methods that follow a reward's gradient build on."""
    network, prepare = model(scorer).network, model(scorer).preprocessing
    with torch.no_grad():
        texts = network.read(["a red cat"])
    picture = prepare(material.pictures()["odd"])[None].requires_grad_()
    network.rate(picture, texts).sum().backward()
    step = 0.004 * picture.grad.sign()
    with torch.no_grad():
        ends = [network.rate(picture + s, texts) for s in (step, -step)]
    slope = (ends[0] - ends[1]).item()
    assert slope == pytest.approx(2 * (picture.grad * step).sum().item(), rel=0.1)


@pytest.mark.parametrize("scorer", ["hpsv2", "pickscore", "clip-l14", "clip-h14"])
def test_clip_reads_77_tokens(scorer, model):
    words = ["cat"] * 75
    assert model(scorer).truncated([" ".join(words), " ".join([*words, "dog"]), ""]) == [1]
    scores = model(scorer).score(
        [IMAGES[0]] * 3, [" ".join(w) for w in (words, [*words, "dog"], [*words[:-1], "dog"])]
    )
    assert scores[0] == scores[1] != scores[2]


def test_image_reward_reads_35_tokens(model):
    words = ["cat"] * 33
    texts = [" ".join(w) for w in (words, [*words, "red"], [*words[:-1], "red"])]
    assert model("image_reward").truncated([*texts, ""]) == [1]
    scores = model("image_reward").score([IMAGES[0]] * 3, texts)
    assert scores[0] == scores[1] != scores[2]


def test_the_aesthetic_score_reads_no_prompt(model):
    assert model("aesthetic").truncated(["cat " * 100]) == []
    scores = model("aesthetic").score([IMAGES[0]] * 2, ["a", "b " * 100])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("scorer", ["hpsv2", "pickscore", "image_reward"])
def test_images_of_every_mode_are_scored(scorer, model):
    grey = IMAGES[0].convert("L")
    images = [
        grey,
        grey.convert("RGB"),
        grey.convert("P"),
        Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257),
        grey.convert("RGBA"),
    ]
    scores = model(scorer).score(images, ["a red cat"] * len(images))
    _near(scores, scores[0], scores)


def test_antialias_is_an_option_that_counts(case):
    scorer = case("hpsv2").scorer
    old = type(scorer)(weights=scorer.weights, antialias=False)
    image = material.pictures()["large"]
    smooth, rough = (s.load("cpu").score([image], ["a"])[0] for s in (scorer, old))
    assert abs(smooth - rough) > 1e-3


@pytest.mark.parametrize("scorer", SCORERS)
def test_half_precision_is_near_full_precision(scorer, case, model):
    full, plugin = model(scorer).score(IMAGES, PROMPTS), case(scorer).scorer
    half = dataclasses.replace(plugin, dtype="bf16").load("cpu").score(IMAGES, PROMPTS)
    assert 0 < np.abs(half - full).max() < 0.25 * full.std()


@pytest.mark.parametrize("scorer", ["hpsv2", "pickscore", "clip-l14"])
def test_long_neighbours_change_no_text_in_half_precision(scorer, case):
    network = dataclasses.replace(case(scorer).scorer, dtype="bf16").load("cpu").network
    with torch.no_grad():
        short, long = (network.read(["a red cat", text])[0] for text in ("a dog", "dog " * 80))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)


def test_a_bad_image_is_named_by_its_position(model):
    with pytest.raises(ValueError, match=r"^image 3: a tensor of shape"):
        model("hpsv2").score([*IMAGES[:3], torch.zeros(2)], PROMPTS[:4])


_NEW = hasattr(torch.backends.cudnn, "conv")


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(
    "switch",
    [torch.backends.cudnn.conv if _NEW else torch.backends.cudnn, torch.backends.cuda.matmul],
)
def test_float32_products_are_not_rounded_to_tf32(switch, allowed, model, monkeypatch):
    name, values = ("fp32_precision", ("ieee", "tf32")) if _NEW else ("allow_tf32", (False, True))
    network, seen = model("clip-h14").network, []
    rate = network.rate

    def watched(pictures, texts):
        seen.append(getattr(switch, name))
        return rate(pictures, texts)

    monkeypatch.setattr(network, "rate", watched)
    before = getattr(switch, name)
    setattr(switch, name, values[allowed])
    try:
        model("clip-h14").score(IMAGES[:1], PROMPTS[:1])
        assert getattr(switch, name) == values[allowed]
    finally:
        setattr(switch, name, before)
    assert seen == [values[False]]


def test_images_are_prepared_before_texts_are_read(model, monkeypatch):
    prepared = threading.Event()
    prepare, read = model("clip-h14").preprocessing, model("clip-h14").network.read

    def watched(image):
        prepared.set()
        return prepare(image)

    def patient(prompts):
        assert prepared.wait(timeout=10)
        return read(prompts)

    monkeypatch.setattr(model("clip-h14"), "preprocessing", watched)
    monkeypatch.setattr(model("clip-h14").network, "read", patient)
    model("clip-h14").score(IMAGES[:1], PROMPTS[:1])


def test_the_aesthetic_score_holds_no_text_tower(model):
    names = [name for name, _ in model("aesthetic").network.towers.clip.named_parameters()]
    assert [name for name in names if "transformer" in name or "token" in name] == [
        name for name in names if name.startswith("visual.transformer")
    ]


def test_fp16_needs_a_gpu(case):
    plugin = dataclasses.replace(case("hpsv2").scorer, dtype="fp16")
    with pytest.raises(BenchError, match=r"hpsv2\[dtype=fp16\] needs a GPU; use fp32 or bf16"):
        plugin.load("cpu")
