"""The learned scorers: tokens, batching, files, and that training learns."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_plugins.shapes import draw, facts, grammar, learned, pairs, scorers, train_scorers
from PIL import Image
from safetensors.torch import load_file

from bench import BenchError

QUIET = lambda _: None  # noqa: E731
ENCODER = train_scorers.EncoderConfig(
    families=6, batch_families=2, steps=4, warmup=1, checkpoint_every=1
)


def _pictures(count: int) -> tuple[list[Image.Image], list[str]]:
    images, captions = [], []
    for i in range(count):
        rng = random.Random(i)
        scene = grammar.fill(grammar.sample_scene(rng), rng)
        images.append(Image.fromarray(draw.render(scene, rng)))
        captions.append(grammar.caption(scene))
    return images, captions


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a few steps, from pairs of drawn pictures."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("assets")
    train_scorers.build_encoder(ENCODER, folder / "work", folder, QUIET)
    images, captions = _pictures(12)
    arrays = [np.asarray(i) for i in images]
    dull = [draw.degrade(a, random.Random(0), "dull") for a in arrays]
    config = pairs.PairsConfig()
    rows = zip(captions, arrays, dull, strict=True)
    labelled = [pairs.label_pair(c, (a, b), i, config) for i, (c, a, b) in enumerate(rows)]
    pq.write_table(pairs.table_of(labelled, "test"), folder / pairs.PAIRS_FILE)
    aesthetic = train_scorers.AestheticConfig(drawn=20, steps=5, batch=8)
    train_scorers.build_aesthetic(aesthetic, folder, QUIET)
    preference = train_scorers.PreferenceConfig(steps=5, batch=8)
    train_scorers.build_preference(preference, folder, QUIET)
    return folder


def test_tokens_end_with_the_highest_and_unknown_words_share_one() -> None:
    tokens = learned.tokenise(["a red circle, flat", "bond", "", "word " * 99])
    end = learned.vocabulary_size() - 1
    assert tokens.shape == (4, learned.CONTEXT)
    assert (tokens.max(dim=1).values == end).all()
    assert tokens.argmax(dim=1).tolist() == [6, 2, 1, learned.CONTEXT - 1]
    assert tokens[1, 1] == tokens[3, 1]


def test_every_caption_fits_the_context() -> None:
    for i in range(300):
        rng = random.Random(i)
        scene = grammar.fill(grammar.sample_scene(rng), rng)
        text = f"{grammar.caption(scene)}, blurry"
        words = text.replace(",", " ,").split()
        tokens = learned.tokenise([text])[0]
        assert int(tokens.argmax()) == len(words) + 1
        assert 2 not in tokens.tolist()


def test_altered_scenes_differ_in_one_attribute() -> None:
    for i in range(200):
        rng = random.Random(i)
        scene = grammar.fill(grammar.sample_scene(rng), rng)
        other = train_scorers.altered(scene, rng)
        assert other != scene
        differ = sum(getattr(scene, f) != getattr(other, f) for f in ("background", "style"))
        differ += scene.relation != other.relation
        differ += scene.count != other.count
        for a, b in zip(scene.things, other.things, strict=True):
            differ += sum(getattr(a, f) != getattr(b, f) for f in ("shape", "colour", "size"))
        assert differ == 1


def test_the_encoder_is_small() -> None:
    count = sum(p.numel() for p in learned.DualEncoder().parameters())
    assert count < 1_500_000


def test_looking_equals_open_clips_own_encoding() -> None:
    encoder = learned.DualEncoder().eval()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = encoder.clip.encode_image(pictures, normalize=True)
        _, seen = encoder.look(pictures)
        _, again = encoder.look(pictures)
    assert torch.allclose(seen, expected, atol=1e-6)
    assert torch.equal(seen, again)


@pytest.mark.parametrize("name", [learned.ENCODER, learned.AESTHETIC, learned.PREFERENCE])
def test_scores_depend_neither_on_batch_nor_order(assets: Path, name: str) -> None:
    scorer = learned.LearnedScorer(assets / "scorers", name, "cpu")
    images, captions = _pictures(learned.BATCH + 3)
    together = scorer.score(images, captions)
    assert together.dtype == np.float64
    assert together.shape == (learned.BATCH + 3,)
    backwards = scorer.score(images[::-1], captions[::-1])[::-1]
    assert together == pytest.approx(backwards, abs=1e-6)
    assert float(scorer.score(images[7:8], captions[7:8])[0]) == pytest.approx(
        together[7], abs=1e-6
    )
    assert scorer.score([], []).shape == (0,)


def test_any_size_mode_and_prompt_has_a_finite_score(assets: Path) -> None:
    odd = [Image.new("L", (31, 50), 3), Image.new("RGBA", (200, 200), (1, 2, 3, 4))]
    for name in (learned.ENCODER, learned.AESTHETIC, learned.PREFERENCE):
        scorer = learned.LearnedScorer(assets / "scorers", name, "cpu")
        assert np.isfinite(scorer.score(odd, ["a portrait of a cat", ""])).all()


def test_pictures_are_seen_upright_and_in_eight_bits(assets: Path) -> None:
    scorer = learned.LearnedScorer(assets / "scorers", learned.AESTHETIC, "cpu")
    (plain, *_), _ = _pictures(1)
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    pixels = torch.from_numpy(np.array(plain)).permute(2, 0, 1)
    grey = np.array(plain.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 256)
    scores = scorer.score([plain, turned, pixels, Image.fromarray(grey), deep], [""] * 5)
    assert scores[1] == scores[2] == scores[0]
    assert scores[4] == scores[3]


def test_only_the_aesthetic_ignores_the_prompt(assets: Path) -> None:
    images, captions = _pictures(4)
    for name in (learned.ENCODER, learned.AESTHETIC, learned.PREFERENCE):
        scorer = learned.LearnedScorer(assets / "scorers", name, "cpu")
        same = np.array_equal(scorer.score(images, captions), scorer.score(images, captions[::-1]))
        assert same == (name == learned.AESTHETIC)


def test_finished_weights_are_kept_and_interrupted_training_goes_on(
    assets: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    train_scorers.build_encoder(ENCODER, assets / "work", assets, told.append)
    assert told == ["scorers: shapes_clip is there already"]

    def stop(text: str) -> None:
        if "step 2/" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_scorers.build_encoder(ENCODER, tmp_path / "work", tmp_path, stop)
    train_scorers.build_encoder(ENCODER, tmp_path / "work", tmp_path, told.append)
    assert not any("drew" in line for line in told)
    assert any("step 2/" in line for line in told)
    file = f"scorers/{learned.ENCODER}.safetensors"
    # Not the files' bytes: safetensors writes the header's facts in no fixed order.
    one, two = load_file(tmp_path / file), load_file(assets / file)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_configuration_trains_anew(assets: Path) -> None:
    told: list[str] = []
    other = train_scorers.PreferenceConfig(steps=3, batch=8)
    train_scorers.build_preference(other, assets, told.append)
    assert "done" in told[-1]


def test_the_contrastive_loss_falls() -> None:
    torch.manual_seed(0)
    model = learned.DualEncoder()
    images, captions = _pictures(16)
    x = learned.picture_tensor(np.stack([np.asarray(i) for i in images]))
    tokens = learned.tokenise(captions)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = train_scorers.contrastive_loss(
            model.look(x)[1], model.read(tokens), model.clip.logit_scale.exp()
        )
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_facts_are_shares_and_written_once(assets: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        facts.build_facts(assets, told.append)
    assert told[1] == "facts: there already"
    found = json.loads((assets / "facts.json").read_text(encoding="utf-8"))
    assert found["pairs"] == 12
    shares = [found["ties"], found["attributes_right"], *found["agreement"].values()]
    assert all(0.0 <= share <= 1.0 for share in shares)
    # Every caption is true of its pictures.
    assert found["attributes_right"] > 0.95


def test_accuracy_leaves_ties_out() -> None:
    margins, labels = np.asarray([1.0, -1.0, 2.0, 3.0]), np.asarray([1.0, 1.0, 0.5, 1.0])
    assert train_scorers.accuracy(margins, labels) == pytest.approx(2 / 3)


def test_damaged_weights_are_one_clear_sentence(assets: Path, tmp_path: Path) -> None:
    good = (assets / "scorers" / f"{learned.ENCODER}.safetensors").read_bytes()
    (tmp_path / f"{learned.ENCODER}.safetensors").write_bytes(good[: len(good) // 2])
    with pytest.raises(BenchError, match="missing or damaged"):
        learned.LearnedScorer(tmp_path, learned.ENCODER, "cpu")
    with pytest.raises(BenchError, match="missing or damaged"):
        learned.LearnedScorer(tmp_path / "nowhere", learned.ENCODER, "cpu")


def test_a_broken_open_clip_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip.model", None)
    with pytest.raises(BenchError, match="open_clip, which cannot be imported"):
        learned.DualEncoder()


def test_plugins_read_what_was_built(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "WEIGHTS", assets / "scorers")
    images, captions = _pictures(3)
    kinds = (scorers.ShapesClip, scorers.ShapesAesthetic, scorers.ShapesPreference, scorers.Gold)
    assert [k.name for k in kinds] == [
        "shapes_clip",
        "shapes_aesthetic",
        "shapes_preference",
        "gold",
    ]
    assert [k.held_out for k in kinds] == [False, False, False, True]
    assert len({k().fingerprint() for k in kinds}) == 4
    for kind in kinds:
        scores = kind().load("cpu").score(images, captions)
        assert scores.shape == (3,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()


def test_config_changes_change_the_work_folder(tmp_path: Path) -> None:
    one, two = ENCODER, replace(ENCODER, seed=1)
    for config in (one, two):
        train_scorers.build_encoder(config, tmp_path, tmp_path, QUIET)
    assert len(list(tmp_path.glob("encoder-*"))) == 2
