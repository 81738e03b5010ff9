"""Files: where they come from, what they must hold, what is said where they do not."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
from bench_plugins.reward_models import plugin
from bench_plugins.reward_models.checkpoints import Origin, load_weights
from bench_plugins.reward_models.clip import Towers
from safetensors.torch import load_file, save_file
from torch import nn

from bench import BenchError
from tests.reward_models import cases, material


def _refused(scorer, *parts):
    with pytest.raises(BenchError) as refusal:
        scorer.load("cpu")
    text = str(refusal.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def _pickscore(folder, state):
    path = folder / "changed.safetensors"
    save_file(state, path)
    return cases.SmallPickScore(weights=str(path)), str(path)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path, case):
    state = load_file(case("pickscore").request["weights"])
    q = "vision_model.encoder.layers.1.self_attn.q_proj.weight"
    del state["logit_scale"], state["text_model.final_layer_norm.bias"]
    state["ema.decay"] = torch.zeros(1)
    state[q] = state[q][:, :64].contiguous()
    scorer, path = _pickscore(tmp_path, state)
    _refused(
        scorer,
        path,
        "2 missing (",
        "logit_scale",
        "text_model.final_layer_norm.bias",
        "1 unexpected (ema.decay)",
        f"1 of another shape ({q} (128, 64) instead of (128, 128))",
    )


def test_only_the_first_names_are_shown(tmp_path, case):
    state = load_file(case("pickscore").request["weights"])
    kept = {k: v for k, v in state.items() if not k.startswith("vision_model.encoder")}
    scorer, _ = _pickscore(tmp_path, kept)
    with pytest.raises(BenchError, match=r"32 missing \([^;]*, \.\.\.\)") as refusal:
        scorer.load("cpu")
    assert len(str(refusal.value)) < 500


def test_another_models_file_is_refused(case):
    hps, pick = case("hpsv2").request["weights"], case("pickscore").request["weights"]
    _refused(cases.SmallHPSv2(weights=pick), pick, "missing", "unexpected")
    _refused(cases.SmallPickScore(weights=hps), hps, "missing", "unexpected")
    vocabulary = case("image_reward").scorer.vocabulary
    _refused(cases.SmallImageReward(weights=hps, vocabulary=vocabulary), hps, "missing")
    aesthetic = case("aesthetic").scorer
    _refused(cases.SmallAesthetic(weights=aesthetic.clip, clip=aesthetic.clip), aesthetic.clip)


@pytest.mark.parametrize("scorer", ["hpsv2", "pickscore", "image_reward", "aesthetic"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(scorer, share, tmp_path, case):
    original = case(scorer).scorer
    whole = original.assets()[0].fetch()
    path = tmp_path / whole.name
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    others = {k: getattr(original, k) for k in ("clip", "vocabulary") if hasattr(original, k)}
    _refused(type(original)(weights=str(path), **others), str(path), "no checkpoint")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\x80\x02garbage", b"PK\x03\x04zip"])
def test_foreign_bytes_are_refused(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    _refused(cases.SmallHPSv2(weights=str(path)), str(path), "no checkpoint")


class _Harmful:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("content", [_Harmful(), {"state_dict": 3}, {"a": "text"}, [1]])
def test_only_tensors_are_read_and_no_code_is_run(content, tmp_path, capsys):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    _refused(cases.SmallHPSv2(weights=str(path)), str(path), "no checkpoint")
    assert "code was run" not in capsys.readouterr().out


def test_a_wrong_vocabulary_is_refused(tmp_path, case):
    original = case("image_reward").scorer
    path = tmp_path / "vocab.txt"
    material.save_vocabulary(399, path)
    scorer = cases.SmallImageReward(weights=original.weights, vocabulary=str(path))
    _refused(scorer, str(path), "399 tokens instead of 400", "bert-base-uncased")
    path.write_bytes(b"\xff\xfe\x00")
    _refused(scorer, str(path), "no BERT vocabulary")


def test_layouts_join_and_transpose(tmp_path):
    path = tmp_path / "a.safetensors"
    q, k, v = (torch.full((2, 3), float(i)) for i in range(3))
    save_file({"q": q, "k": k, "v": v, "t": torch.arange(6.0).view(2, 3)}, path)
    with torch.device("meta"):
        network = nn.ParameterDict({"qkv": torch.empty(6, 3), "t": torch.empty(3, 2)})
    layout = {"qkv": Origin(("q", "k", "v")), "t": Origin(("t",), transposed=True)}
    load_weights(network, path, device="cpu", dtype=torch.float32, layout=layout)
    assert torch.equal(network["qkv"], torch.cat([q, k, v]))
    assert torch.equal(network["t"], torch.arange(6.0).view(2, 3).T)
    assert not network["t"].requires_grad


def test_a_network_is_never_left_half_filled(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(2, 2)}, path)
    with torch.device("meta"):
        network = nn.Linear(2, 2, bias=False)
        network.register_buffer("new_in_this_version", torch.zeros(1), persistent=False)
    with pytest.raises(BenchError, match="new_in_this_version"):
        load_weights(network, path, device="cpu", dtype=torch.float32)


def test_half_precision_leaves_scalars_alone(tmp_path, case):
    path = case("pickscore").request["weights"]
    towers = Towers(
        "pickscore",
        cases.SMALL_H,
        Path(path),
        "transformers",
        "transformers",
        "cpu",
        torch.bfloat16,
        scaled=True,
    )
    assert towers.factor == pytest.approx(100, rel=1e-5)
    assert towers.clip.visual.proj.dtype == torch.bfloat16


def test_half_precision_leaves_image_rewards_head_alone(case):
    scorer = dataclasses.replace(case("image_reward").scorer, dtype="bf16")
    network = scorer.load("cpu").network
    written = torch.load(scorer.assets()[0].fetch())["mlp.layers.7.weight"]
    with torch.no_grad():
        read = network.head[7:](torch.eye(16)) - network.head[7:](torch.zeros(1, 16))
    torch.testing.assert_close(read, written.T, rtol=0, atol=1e-6)
    assert network.vision.embeddings.position_embedding.dtype == torch.bfloat16


PINNED = {
    plugin.PickScore: "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800",
    plugin.HPSv2: "xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a/HPS_v2_compressed.pt",
    plugin.HPSv21: "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
    plugin.ImageReward: "zai-org/ImageReward@5736be03b2652728fb87788c9797b0570450ab72",
    plugin.ClipH14: "0084e75319a50ad85ef45377bad5bc38f2f58824459eb690048d51c9f8863be5",
    plugin.ClipL14: "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    plugin.Aesthetic: "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
}


@pytest.mark.parametrize("scorer", PINNED)
def test_plans_know_the_bytes_without_network_or_cache(scorer, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert PINNED[scorer] in scorer().fingerprint()


def test_a_local_copy_of_a_known_file_is_the_same_file(tmp_path, case):
    weights = case("pickscore").scorer.assets()[0].fetch()
    shutil.copy(weights, tmp_path / "model.safetensors")
    prints = {
        cases.SmallPickScore(weights=str(place)).fingerprint()
        for place in (weights, tmp_path, tmp_path / "model.safetensors")
    }
    assert len(prints) == 1
    assert re.fullmatch(r"[0-9a-f]{64}", prints.pop())


def test_a_pin_belongs_to_its_own_repository():
    other = plugin.OPENAI_CLIP_L.at("me/my-clip", plugin.OPENAI_CLIP_L.revision)
    assert (other.revision, other.sha256) == ("main", "")
    later = plugin.OPENAI_CLIP_L.at(plugin.OPENAI_CLIP_L.source, "main")
    assert (later.revision, later.sha256) == ("main", "")
    assert plugin.OPENAI_CLIP_L.at("me/my-clip", "abc").revision == "abc"


@pytest.mark.parametrize(
    ("scorer", "files"),
    [
        (plugin.HPSv2, ["xswu/HPSv2 HPS_v2_compressed.pt"]),
        (plugin.HPSv21, ["xswu/HPSv2 HPS_v2.1_compressed.pt"]),
        (
            plugin.ImageReward,
            ["zai-org/ImageReward ImageReward.pt", "google-bert/bert-base-uncased vocab.txt"],
        ),
        (plugin.PickScore, ["yuvalkirstain/PickScore_v1 model.safetensors"]),
    ],
)
def test_nothing_is_downloaded_that_is_not_needed(scorer, files):
    assert [f"{asset.source} {asset.filename}" for asset in scorer().assets()] == files


def test_a_missing_local_file_is_named_while_planning(tmp_path):
    with pytest.raises(BenchError, match="there is no file or folder"):
        plugin.PickScore(weights=str(tmp_path / "nothing")).fingerprint()
    with pytest.raises(BenchError, match=r"no file 'model.safetensors' in this folder"):
        plugin.PickScore(weights=str(tmp_path)).fingerprint()
