"""The numbers of the official code, and of independent formulations, at reduced width."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from bench_plugins.reward_models.architectures import CLIP_H, CLIP_L

from tests.reward_models import cases, material
from tests.reward_models.parity import difference, open_clips_scores

IMAGES, PROMPTS = zip(*((image, prompt) for _, image, prompt in material.pairs()), strict=True)


@pytest.mark.parametrize("scorer", ["hpsv2", "image_reward", "pickscore", "clip-l14", "aesthetic"])
def test_scores_are_those_of_the_official_code(scorer, case, model):
    golden = cases.golden(scorer)
    assert case(scorer).sha256 == golden["weights_sha256"]
    official = np.array(golden["scores"])
    assert np.ptp(official) > 0.1
    apart = difference(scorer, model(scorer).score(IMAGES, PROMPTS), official)
    assert apart <= cases.TOLERANCE[scorer]


def test_clip_h14_is_open_clips_own(case, model):
    made = case("clip-h14")
    expected = np.array(open_clips_scores(made.request["openai"], made.scorer.architecture))
    assert np.ptp(expected) > 0.1
    apart = difference("clip-h14", model("clip-h14").score(IMAGES, PROMPTS), expected)
    assert apart <= cases.TOLERANCE["clip-h14"]


def test_pickscore_is_the_product_that_transformers_computes(case, model):
    from transformers import CLIPConfig, CLIPModel

    told = case("pickscore").request
    config = told["clip"]
    vision, text = config["vision_cfg"], config["text_cfg"]
    official = CLIPModel(
        CLIPConfig(
            projection_dim=config["embed_dim"],
            vision_config={
                "hidden_size": vision["width"],
                "intermediate_size": 4 * vision["width"],
                "num_hidden_layers": vision["layers"],
                "num_attention_heads": vision["width"] // vision["head_width"],
                "patch_size": vision["patch_size"],
                "hidden_act": "gelu",
            },
            text_config={
                "hidden_size": text["width"],
                "intermediate_size": 4 * text["width"],
                "num_hidden_layers": text["layers"],
                "num_attention_heads": text["heads"],
                "hidden_act": "gelu",
            },
        )
    ).eval()
    state = material.in_transformers(material.draw(material.clip_shapes(config), cases.SEED))
    official.load_state_dict({k: v for k, v in state.items() if "position_ids" not in k})
    ours = model("pickscore")
    pictures = torch.stack([ours.preprocessing(image) for image in IMAGES])
    tokens = open_clip.tokenize(["a red cat"] * len(IMAGES))
    with torch.no_grad():
        logits = official(input_ids=tokens, pixel_values=pictures).logits_per_image[:, 0]
    scores = ours.score(IMAGES, ["a red cat"] * len(IMAGES))
    np.testing.assert_allclose(scores, logits.double(), rtol=1e-5)


@pytest.mark.parametrize(("name", "tensors", "quick"), [(CLIP_H, 686, False), (CLIP_L, 446, True)])
def test_the_real_architectures_are_the_published_ones(name, tensors, quick):
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        state = open_clip.CLIP(**config).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == material.clip_shapes(config)
    assert len(state) == tensors
    assert config.get("quick_gelu", False) == quick


def test_pickscores_texts_are_split_as_transformers_does_it():
    from bench_plugins.reward_models import clip

    typographic = "“quotes”, ﬁne & Ｗｉｄｅ &amp; mojibake â€œ"
    plain = "a photo of 2 cats"
    assert clip._split_as_transformers([plain]) == clip._split_as_open_clip([plain])
    assert clip._split_as_transformers([typographic]) != clip._split_as_open_clip([typographic])
