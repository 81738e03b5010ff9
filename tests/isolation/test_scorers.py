"""Scorer plugins that work in a worker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bench_plugins.isolated_scorers import plugin
from bench_plugins.isolated_scorers.plugin import HPSv2Official, ImageRewardOfficial
from PIL import Image

from bench import BenchError, Scorer, option
from bench.lib import hub
from bench.registry.registry import Entry, Registry, default_registry, spec_text
from bench.scoring.isolation import build, environments
from bench.scoring.isolation.client import Worker
from bench.scoring.isolation.environments import EnvironmentSpec
from bench.scoring.isolation.scorer import IsolatedScorer, load, load_in_worker
from tests.isolation.conftest import ADAPTER, expected, pictures, tiny, wheel


@dataclass(frozen=True, kw_only=True)
class Adapted(IsolatedScorer):
    """The test adapter as a plugin."""

    name: ClassVar[str] = "adapted"
    environment: ClassVar[EnvironmentSpec] = tiny()
    adapter: ClassVar[Path] = ADAPTER
    images_per_request: ClassVar[int] = 3
    how: str = option("well", "what it does")

    def options(self) -> Mapping[str, Any]:
        return {"how": self.how}

    def weights_fingerprint(self) -> str:
        return "0" * 8


@dataclass(frozen=True, kw_only=True)
class Reader(Scorer):
    """Mean brightness of the top row; says what it cannot read."""

    name: ClassVar[str] = "reader"
    held_out: ClassVar[bool] = True
    version: ClassVar[str] = "7"
    missing: bool = option(False, "whether its weights are")

    def fingerprint(self) -> str:
        return "weights"

    def load(self, device: str) -> Reader:
        if self.missing:
            raise BenchError("weights.pt: there is no such file; fetch it")
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        return np.array([np.asarray(image)[0].mean() / 3 for image in images])

    def truncated(self, prompts: Sequence[str]) -> list[int]:
        return [i for i, prompt in enumerate(prompts) if len(prompt) > 3]


@pytest.fixture(scope="module")
def registry() -> Registry:
    own = [
        Entry(kind="scorers", cls=cls, package="tests", package_version="1")
        for cls in (Adapted, Reader)
    ]
    return Registry([*default_registry().entries(), *own])


def test_a_scorer_without_its_environment_says_what_to_run() -> None:
    message = "environment 'tiny' is not built; run: bench env create tiny"
    assert Adapted().unavailable_reason() == message
    with pytest.raises(BenchError, match=f"^{message}$"):
        Adapted().load("cpu")


def test_a_scorer_works_in_its_environment() -> None:
    build.create(Adapted.environment, [ADAPTER], lambda line: None)
    assert Adapted().unavailable_reason() == ""
    images, prompts = pictures(7), list("abcdefg")
    worker = Adapted().load("cpu")
    np.testing.assert_array_equal(worker.score(images, prompts), expected(images, prompts))
    assert worker.truncated(prompts) == []
    worker.close()


def test_a_broken_package_names_the_command_that_finds_it() -> None:
    build.create(Adapted.environment, [ADAPTER], lambda line: None)
    with pytest.raises(
        BenchError, match=r"No module named 'flux_cap.*; run: bench env check tiny$"
    ):
        Adapted(how="miss a package").load("cpu")


def test_what_is_installed_is_part_of_the_key(registry: Registry) -> None:
    described = registry.describe(Adapted())
    assert re.fullmatch("[0-9a-f]{20} 00000000", described["fingerprint"])
    assert described["options"] == {"how": "well"}
    changed = type("Changed", (Adapted,), {"environment": tiny(no_deps=("alpha",))})
    assert changed().fingerprint() != Adapted().fingerprint()


def test_another_adapter_is_part_of_the_key(tmp_path: Path) -> None:
    copy = tmp_path / "adapter.py"
    copy.write_bytes(ADAPTER.read_bytes())
    cls = type("Copied", (Adapted,), {"adapter": copy})
    assert cls().fingerprint() == Adapted().fingerprint()
    copy.write_text(ADAPTER.read_text() + "# changed\n")
    assert cls().fingerprint() != Adapted().fingerprint()
    copy.unlink()
    with pytest.raises(BenchError, match=rf"adapter cannot be read: {copy}: No such file"):
        cls().fingerprint()


@pytest.mark.slow
def test_a_rebuild_with_other_versions_is_part_of_the_key(
    tmp_path: Path, lender: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", f"{lender},{tmp_path}")
    spec = tiny(requirements=("bench-test-alpha",))
    scorer = type("Alpha", (Adapted,), {"environment": spec})()
    prints = [scorer.fingerprint()]
    for version in ("1.5", "1.6", "1.6"):
        wheel(tmp_path, "bench_test_alpha", version, "")
        build.create(spec, [ADAPTER], lambda line: None, rebuild=True)
        prints.append(scorer.fingerprint())
    assert len(set(prints)) == 3
    assert prints[2] == prints[3]
    environments.remove(spec.name, lambda line: None)
    assert scorer.fingerprint() == prints[0]


@pytest.mark.parametrize(
    "name", ["gold", pytest.param("shapes_clip", marks=pytest.mark.slow, id="shapes_clip")]
)
def test_any_scorer_gives_the_same_scores_in_a_worker(registry: Registry, name: str) -> None:
    isolated = registry.build("scorers", f"{name}[isolate=true]")
    assert spec_text(isolated) == name
    images = pictures(4, (64, 64))
    prompts = ["a small red circle", "a large blue star", "", "two green squares"]
    worker = load(isolated, "cpu")
    assert isinstance(worker, Worker)
    plain = load(replace(isolated, isolate=False), "cpu")
    assert not isinstance(plain, Worker)
    np.testing.assert_array_equal(worker.score(images, prompts), plain.score(images, prompts))
    worker.close()


def test_where_a_scorer_runs_changes_neither_name_nor_key(registry: Registry) -> None:
    plain, isolated = (registry.build("scorers", f"reader{o}") for o in ("", "[isolate=true]"))
    assert plain != isolated
    assert spec_text(plain) == spec_text(isolated) == "reader"
    assert registry.describe(plain) == registry.describe(isolated)
    patient = registry.build("scorers", "hpsv2-official[timeout=90]")
    assert spec_text(patient) == "hpsv2-official"


def test_a_clear_sentence_stays_as_it_is() -> None:
    with pytest.raises(BenchError, match=r"^weights\.pt: there is no such file; fetch it$"):
        load_in_worker(Reader(missing=True), "cpu")


def test_prompts_that_are_cut_are_known() -> None:
    worker = load_in_worker(Reader(), "cpu")
    assert worker.truncated(["abc", "abcd", "", "abcde"]) == [1, 3]
    assert worker.truncated([]) == []
    worker.close()


def test_images_arrive_upright_and_in_rgb() -> None:
    worker = load_in_worker(Reader(), "cpu")
    sixteen = Image.fromarray(np.full((4, 4), 0x4000, dtype=np.uint16))
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6) * 20
    turned = Image.fromarray(pixels).convert("RGB")
    turned.getexif()[0x0112] = 6
    # Turned clockwise, the left column is the top row.
    top = pixels[:, 0].mean()
    assert top != pixels[0].mean()
    np.testing.assert_allclose(worker.score([sixteen, turned], ["", ""]), [0x40 / 3, top / 3])
    worker.close()


@pytest.mark.parametrize("value", ["inf", "1e10", "nan", "0"])
@pytest.mark.parametrize("name", ["timeout", "load_timeout"])
def test_limits_are_finite(registry: Registry, name: str, value: str) -> None:
    with pytest.raises(BenchError, match=rf"adapted\[{name}=.*input should be"):
        registry.build("scorers", f"adapted[{name}={value}]")


def test_one_that_has_an_environment_is_isolated_once() -> None:
    build.create(Adapted.environment, [ADAPTER], lambda line: None)
    worker = load(Adapted(isolate=True, timeout=7), "cpu")
    assert isinstance(worker, Worker)
    assert worker.order.timeout == 7
    assert worker.order.python != Path(sys.executable)
    worker.close()


def test_the_stated_limit_is_kept_whatever_the_scorer() -> None:
    build.create(Adapted.environment, [ADAPTER], lambda line: None)
    worker = load_in_worker(Adapted(how="hang"), "cpu", timeout=0.5)
    with pytest.raises(BenchError, match=r"within 0\.5 s and was ended$"):
        worker.score(pictures(1), ["a"])


def test_a_scorer_that_cannot_be_sent_says_so() -> None:
    class Local(Reader):
        pass

    with pytest.raises(BenchError, match=r"'reader' cannot be run in a worker: .*local"):
        load_in_worker(Local(), "cpu")


def test_a_scorer_of_the_running_script_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\n"
        "from bench import BenchError, Scorer\n"
        "from bench.scoring.isolation.scorer import load_in_worker\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Scorer):\n"
        "    name = 'mine'\n"
        "try:\n"
        "    load_in_worker(Mine(), 'cpu')\n"
        "except BenchError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "scorer 'mine' cannot be run in a worker: its class stands in the script that is being "
        "run; put it into a module of its own\n"
    )


def test_published_packages_are_given_local_files(tmp_path: Path) -> None:
    for name in ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt", "ImageReward.pt", "v.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "med_config.json").write_text("{}")
    hpsv2 = HPSv2Official(weights=str(tmp_path))
    assert hpsv2.options() == {"weights": str(tmp_path / "HPS_v2_compressed.pt")}
    hpsv21 = plugin.HPSv21Official(weights=str(tmp_path))
    assert hpsv21.options() == {"weights": str(tmp_path / "HPS_v2.1_compressed.pt")}
    assert hpsv2.fingerprint().split()[0] == hpsv21.fingerprint().split()[0]
    assert hpsv2.fingerprint() != hpsv21.fingerprint()
    image_reward = ImageRewardOfficial(
        weights=str(tmp_path), med_config=str(tmp_path), vocabulary=str(tmp_path / "v.txt")
    )
    assert image_reward.options() == {
        "weights": str(tmp_path / "ImageReward.pt"),
        "med_config": str(tmp_path / "med_config.json"),
        "vocabulary": str(tmp_path / "v.txt"),
    }
    before = image_reward.fingerprint()
    (tmp_path / "v.txt").write_text("other words")
    assert image_reward.fingerprint() != before
    with pytest.raises(BenchError, match="there is no file"):
        HPSv2Official(weights=str(tmp_path / "missing")).options()


def test_heavy_packages_are_given_local_folders(tmp_path: Path) -> None:
    for folder, file in (("base", "config.json"), ("net", "a.bin"), ("tok", "spiece.model")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(file)
    (tmp_path / "HPSv3.safetensors").write_text("w")
    hpsv3 = plugin.HPSv3(weights=str(tmp_path), base=str(tmp_path / "base"))
    assert hpsv3.options() == {
        "weights": str(tmp_path / "HPSv3.safetensors"),
        "base": str(tmp_path / "base"),
    }
    before = hpsv3.fingerprint()
    (tmp_path / "base" / "config.json").write_text("{}")
    assert hpsv3.fingerprint() != before
    vqascore = plugin.VQAScore(
        weights=str(tmp_path / "net"),
        tokenizer=str(tmp_path / "tok"),
        vision_tower=str(tmp_path / "base"),
    )
    assert vqascore.options() == {
        "model": "clip-flant5-xxl",
        "weights": str(tmp_path / "net"),
        "tokenizer": str(tmp_path / "tok"),
        "vision_tower": str(tmp_path / "base"),
    }
    before = vqascore.fingerprint()
    (tmp_path / "tok" / "spiece.model").write_text("other")
    assert vqascore.fingerprint() != before


def test_the_commit_that_the_key_names_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the branch has moved since, as a cache without the network shows."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._resolved.cache_clear()
    first, second = "1" * 40, "2" * 40
    branches = []
    for source in ("zhiqiulin/clip-flant5-xxl", "google/flan-t5-xxl"):
        repository = tmp_path / f"models--{source.replace('/', '--')}"
        for commit in (first, second):
            (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "refs").mkdir()
        branches.append(repository / "refs" / "main")
        branches[-1].write_text(first)
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "config.json").write_text("{}")
    scorer = plugin.VQAScore(vision_tower=str(tower))
    assert f"clip-flant5-xxl@{first}" in scorer.fingerprint()
    for branch in branches:
        branch.write_text(second)
    options = scorer.options()
    assert {Path(options[name]).name for name in ("weights", "tokenizer")} == {first}
    hub._resolved.cache_clear()


def test_adapters_stand_alone() -> None:
    """They run where bench is not installed, so they may import neither it nor anything early."""
    scorers = [cls for cls in plugin.bench_scorers() if issubclass(cls, IsolatedScorer)]
    adapters = sorted({cls.adapter for cls in scorers})
    assert len(adapters) == 4
    code = (
        "import json, sys; from importlib.util import *;"
        "before = set(sys.modules);"
        "[s.loader.exec_module(module_from_spec(s)) for s in"
        " [spec_from_file_location('adapter', p) for p in sys.argv[1:]]];"
        "print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *adapters], capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stdout)) <= set(sys.stdlib_module_names)


def test_the_worker_needs_no_more_than_the_standard_library_and_pil() -> None:
    from bench.scoring.isolation import worker

    code = (
        f"import runpy, sys; before = set(sys.modules); runpy.run_path({worker.__file__!r});"
        "print({m.partition('.')[0] for m in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_planning_builds_no_environment_and_starts_nothing(registry: Registry) -> None:
    command = (
        "import sys; from bench.registry.registry import default_registry as r;"
        "r().describe(r().build('scorers', 'gold[isolate=true]'));"
        "sys.exit(bool({'torch', 'open_clip'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
    assert not environments.root().exists()
