"""No plugin changes another cell's bytes: neither by failing at any stage nor by what it leaves."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import shutil
import sys
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from rich.console import Console

from bench import (
    Aggregation,
    Labels,
    Loss,
    Method,
    PairErrors,
    PairMethod,
    PairRewards,
    Scorer,
    option,
    uses,
)
from bench.lib.distributed import World
from bench.lib.progress import Progress
from bench.registry.registry import Entry, Registry
from bench.running import planning
from bench.running.launch import meeting_point
from bench.running.plan import Plan
from bench.running.walk import RunOutcome, Walk, status
from bench.store.store import Store
from tests import toy
from tests.training.conftest import exit_code, forked

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from bench.api.kinds import TrainingSetup
    from bench.api.policy import Policy
    from bench.api.training import TrainingOutcome


def _fail(how: str) -> None:
    match how:
        case "raise":
            raise ZeroDivisionError("deep inside")
        case "exit":
            sys.exit("a plugin that ends the process")
        case "base":
            raise BaseException("of no class that anyone catches")
        case "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/cache.bin")
        case "not allowed":
            raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/model.bin")
        case "memory":
            import torch

            torch.empty(2**50)


@dataclass(frozen=True, kw_only=True)
class AFailingLoss(Loss):
    """Fails in the third step, when two have changed the weights."""

    name: ClassVar[str] = "a_failing"
    how: str = option("raise", "how")
    rank: int = option(0, "in which process")

    def __call__(self, errors: PairErrors, p: torch.Tensor, beta: float) -> torch.Tensor:
        _calls.append(1)
        if len(_calls) == 3 and int(os.environ.get("RANK", "0")) == self.rank:
            _fail(self.how)
            if self.how == "nan":
                return errors.policy_0 * float("nan")
            if self.how == "shape":
                return errors.policy_0.mean()
            if self.how == "detached":
                return errors.policy_0.detach()
        return errors.policy_0


_calls: list[int] = []


@dataclass(frozen=True, kw_only=True)
class AFailing(PairMethod):
    """Trains on `a_failing`; stands before `dpo` in every plan."""

    name: ClassVar[str] = "a_failing"
    beta: float | None = 1.0
    learning_rate: float | None = option(1e-2, "large, so that weights are soon elsewhere")
    loss: Loss = uses("losses", "a_failing", "what")
    at: str = option("loss", "loss, save, pairs, outcome or checkpoint")
    how: str = option("raise", "how")

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        _calls.clear()
        done = super().train(setup)
        match self.at:
            case "save":
                setup.policy.save_checkpoint = lambda folder: _fail(self.how)  # type: ignore[method-assign]
            case "pairs":
                setup.pairs.mean[:] = 0
            case "outcome":
                return "done"  # type: ignore[return-value]
            case "checkpoint":
                # What is written can never be loaded.
                setup.policy.save_checkpoint = lambda folder: (
                    (  # type: ignore[method-assign]
                        folder / "unet.txt"
                    ).write_text("nothing")
                    and None
                )
        return done


@dataclass(frozen=True, kw_only=True)
class AModel(Method):
    """Untrained: changes the backbone's weights, then fails, or gives what cannot be sampled."""

    name: ClassVar[str] = "a_model"
    trainable: ClassVar[bool] = False
    how: str = option("raise", "how")

    def model(self, backbone: Policy) -> Policy:
        import torch

        with torch.no_grad():
            for weight in backbone.denoiser.parameters():
                weight.mul_(1.5)
            for weight in backbone.vae.parameters():  # type: ignore[attr-defined]
                weight.mul_(0.5)
        match self.how:
            case "nothing":
                return None  # type: ignore[return-value]
            case "decode":
                backbone.decode = lambda latents: _fail("raise")  # type: ignore[method-assign, assignment, return-value]
            case "too few":
                backbone.decode = lambda latents: []  # type: ignore[method-assign]
            case _:
                _fail(self.how)
        return backbone


@dataclass(frozen=True, kw_only=True)
class ALeaking(PairMethod):
    """Trains well and leaves something behind."""

    name: ClassVar[str] = "a_leaking"
    beta: float | None = 1.0
    learning_rate: float | None = 1e-3
    what: str = option("rng", "what")

    def train(self, setup: TrainingSetup) -> TrainingOutcome:
        done = super().train(setup)
        for what in LEAKS if self.what == "everything" else (self.what,):
            _leak(what, setup)
        return done


def _leak(what: str, setup: TrainingSetup) -> None:
    import torch
    from torch.nn.modules import module

    policy: Any = setup.policy
    match what:
        case "generators":
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
        case "threads":
            torch.set_num_threads(1 + torch.get_num_threads())
        case "no gradients":
            torch.set_grad_enabled(False)
        case "default dtype":
            torch.set_default_dtype(torch.float64)
        case "default device":
            torch.set_default_device("meta")
        case "deterministic":
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        case "matmul":
            torch.set_float32_matmul_precision("medium")
            torch.backends.mkldnn.enabled = False
        case "autocast":
            torch.set_autocast_dtype("cpu", torch.bfloat16)
            torch.set_autocast_enabled("cpu", True)
        case "attention":
            torch.backends.cuda.enable_flash_sdp(False)
        case "denormals":
            torch.set_flush_denormal(True)
        case "hooks on all modules":
            module.register_module_forward_hook(lambda m, a, out: out * 1.1)
        case "warnings":
            warnings.simplefilter("error")
        case "numpy errors":
            np.seterr(all="raise")
        case "folder":
            os.chdir("/")
        case "schedule":
            policy.schedule.alphas_cumprod.mul_(0.5)
            policy.scheduler_config["beta_end"] = 0.5
            policy.latent_shape = (4, 16, 16)
        case "other parts":
            with torch.no_grad():
                for weight in (*policy.vae.parameters(), *policy.denoiser.parameters()):
                    weight.mul_(2)
        case "methods":
            policy.release = policy.reset = lambda **_: None
            policy.denoiser.register_forward_hook(lambda m, a, out: (out[0] * 2,))
            policy.denoiser.train().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class SloppyLabels(Aggregation):
    """Draws from global generators, as no plugin should."""

    name: ClassVar[str] = "sloppy"

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        return ()

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        import torch

        n = len(pairs.human)
        p = np.random.rand(n) + torch.rand(n).numpy() + [random.random() for _ in range(n)]
        return Labels(p=p / 3, kept=np.ones(n, dtype=bool))


@dataclass(frozen=True, kw_only=True)
class GreedyLabels(Aggregation):
    """Writes into what it is shown."""

    name: ClassVar[str] = "a_greedy"

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        return tuple(pool)

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        pairs.human[:] = 1 - pairs.human
        return Labels(p=pairs.human, kept=np.ones(len(pairs.human), dtype=bool))


@dataclass(frozen=True, kw_only=True)
class SharingBackbone(toy.ToyBackbone):
    """Gives the same policy whenever it is asked for one, as if loading had been cached."""

    name: ClassVar[str] = "sharing"

    def load(self, device: str) -> Policy:
        return _shared(self.path, device)


@cache
def _shared(path: str, device: str) -> Policy:
    from bench.diffusion.stable_diffusion import StableDiffusionPolicy

    return StableDiffusionPolicy.load(path, device)


@dataclass(frozen=True, kw_only=True)
class FailingEncoder(toy.ToyBackbone):
    """Its VAE fails once it has changed the U-Net."""

    name: ClassVar[str] = "failing_encoder"

    def load(self, device: str) -> Policy:
        import torch

        policy = toy.ToyBackbone(path=self.path).load(device)

        def encode_images(images: Sequence[Image]) -> Any:
            with torch.no_grad():
                for weight in policy.denoiser.parameters():
                    weight.zero_()
            _fail("exit")

        policy.encode_images = encode_images  # type: ignore[method-assign]
        return policy


@dataclass(frozen=True, kw_only=True)
class AScorer(Scorer):
    """Fails while it loads or scores, where the errors of files are its own."""

    name: ClassVar[str] = "a_scorer"
    at: str = option("score", "load or score")
    how: str = option("raise", "how")

    def load(self, device: str) -> AScorer:
        if self.at == "load":
            _fail(self.how)
        return self

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        _fail(self.how)
        return np.zeros(len(images))


class _Weights:
    """What is large, and part of a cycle as modules are."""

    def __init__(self) -> None:
        self.module = self


@dataclass(frozen=True, kw_only=True)
class AHeavyScorer(Scorer):
    """Fails while it holds what is large; another of its options tells whether that still lives."""

    name: ClassVar[str] = "a_heavy"
    looks: bool = option(False, "whether to look")
    held: ClassVar[list[weakref.ref[_Weights]]] = []
    alive: ClassVar[list[int]] = []

    def load(self, device: str) -> AHeavyScorer:
        return self

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        if not self.looks:
            weights = _Weights()
            self.held.append(weakref.ref(weights))
            raise ZeroDivisionError("with much in memory")
        self.alive.append(sum(one() is not None for one in self.held))
        return np.zeros(len(images))


def registry() -> Registry:
    own: list[tuple[Any, type]] = [
        ("losses", AFailingLoss),
        ("methods", AFailing),
        ("methods", AModel),
        ("methods", ALeaking),
        ("aggregations", SloppyLabels),
        ("aggregations", GreedyLabels),
        ("backbones", SharingBackbone),
        ("backbones", FailingEncoder),
        ("scorers", AScorer),
        ("scorers", AHeavyScorer),
    ]
    entries = [Entry(kind=k, cls=c, package="hostile", package_version="1") for k, c in own]
    return Registry([*toy.registry().entries(), *entries])


def slow(*case: str) -> ParameterSet:
    """A case that differs little from those that always run."""
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apart")


def _plan(folder: Path, *methods: str, **changes: Any) -> Plan:
    changes = {"scorers": ["channel"], "methods": [*methods], **changes}
    return planning.make(toy.recipe(folder, **changes), registry())


def _run(plan: Plan, store: Store) -> RunOutcome:
    progress = Progress(Console(quiet=True))
    return Walk(plan.stages, store, "cpu", progress).run(status(plan.stages, store).finished)


@pytest.fixture(scope="module")
def alone(folder: Path) -> Store:
    """What `dpo` is on its own."""
    store = Store(folder / "alone")
    assert not _run(_plan(folder, "dpo"), store).failures
    return store


def _after(folder: Path, alone: Store, tmp_path: Path, before: str, **changes: Any) -> list[str]:
    """Run `before` and then `dpo` in one process: dpo must be what it is alone.

    Pairs and untouched backbone are finished, so that nothing but the two cells runs.

    Returns:
        Why stages of `before` failed.
    """
    plan, own = _plan(folder, before, "dpo", **changes), _plan(folder, "dpo")
    store = Store(tmp_path / "store")
    kept = {"inspect", "encode", "rewards"}
    for stage in own.stages:
        if stage.name in kept or " base" in stage.label:
            shutil.copytree(alone.path(stage.name, stage.key), store.path(stage.name, stage.key))
    outcome = _run(plan, store)
    dpo = [stage for stage in own.stages if "dpo" in stage.label]
    assert [stage.name for stage in dpo] == ["train", "sample", "describe", "score"]
    theirs, ours = toy.artefacts(store), toy.artefacts(alone)
    for stage in dpo:
        assert stage.key not in outcome.failures
        assert theirs[f"{stage.name}/{stage.key}"] == ours[f"{stage.name}/{stage.key}"]
    return [*dict.fromkeys(outcome.failures.values())]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "loss 'a_failing' failed in test_cells_apart.py, line "),
        ("exit", "SystemExit: a plugin that ends the process (traceback: "),
        slow(
            "base",
            "BaseException: of no class that anyone catches (traceback: ",
        ),
        ("full disk", "No space left on device: '/elsewhere/cache.bin' (traceback: "),
        slow(
            "not allowed",
            "PermissionError: [Errno 13] Permission denied: '/elsewhere/model.bin'",
        ),
        ("memory", "out of memory; try --set training.micro_batch_size=2 "),
        ("nan", "training diverged at step 3: the loss is nan"),
        ("shape", "loss 'a_failing' gave float32 () as `loss`; expected is a floating-point"),
        slow("detached", "loss 'a_failing' gave a loss without gradient"),
    ],
)
def test_training_that_fails_in_its_third_step(
    folder: Path, alone: Store, tmp_path: Path, how: str, said: str
) -> None:
    spec = f"a_failing[loss=a_failing[how={how}]]"
    reasons = _after(folder, alone, tmp_path, spec)
    assert len(reasons) == 1
    assert said in reasons[0]


@pytest.mark.parametrize("lora", [None, 2])
def test_training_that_fails_with_and_without_adapter(
    folder: Path, alone: Store, tmp_path: Path, lora: int | None
) -> None:
    """dpo itself, at a learning rate that diverges; the next one would begin from its weights."""
    changes = {"training": {"lora_rank": lora, "gradient_checkpointing": True}}
    if lora:
        alone = Store(tmp_path / "alone")
        assert not _run(_plan(folder, "dpo", **changes), alone).failures
        store = Store(shutil.copytree(alone.root, tmp_path / "again"))
        trained = next(s for s in _plan(folder, "dpo", **changes).stages if s.name == "train")
        store.discard("train", trained.key)
        outcome = _run(_plan(folder, "a_failing", "dpo", **changes), store)
        assert len({*outcome.failures.values()}) == 1
        assert toy.artefacts(store) == toy.artefacts(alone)
    else:
        assert _after(folder, alone, tmp_path, "a_failing", **changes)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("at=save", "backbone 'toy' failed in test_cells_apart.py, line "),
        slow("at=save,how=exit", "SystemExit: a plugin that ends the process"),
        slow("at=save,how=memory", "out of memory"),
        ("at=pairs", "method 'a_failing' failed in test_cells_apart.py"),
        ("at=outcome", "method 'a_failing' gave 'done' (str); expected is bench.TrainingOutcome"),
        ("at=checkpoint", "holds no denoiser weights"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_or_read(
    folder: Path, alone: Store, tmp_path: Path, spec: str, said: str
) -> None:
    reasons = _after(folder, alone, tmp_path, f"a_failing[loss=sft,{spec}]")
    assert len(reasons) == 1
    assert said in reasons[0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "method 'a_model' failed in test_cells_apart.py"),
        slow("exit", "SystemExit: a plugin"),
        ("memory", "out of memory; try --set sampling.batch_size=1"),
        slow("full disk", "No space left on device"),
        ("nothing", "method 'a_model' gave None (NoneType) as `model`; expected is a bench"),
        slow("decode", "ZeroDivisionError: deep inside"),
        ("too few", "gave 0 images for 2 prompts"),
    ],
)
def test_a_model_that_cannot_be_had_or_sampled(
    folder: Path, alone: Store, tmp_path: Path, how: str, said: str
) -> None:
    reasons = _after(folder, alone, tmp_path, f"a_model[how={how}]")
    assert len(reasons) == 1
    assert said in reasons[0]


QUICK = [("load", "memory"), ("load", "not allowed"), ("score", "raise"), ("score", "exit")]


@pytest.mark.parametrize(
    ("at", "how"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in product(
            ["load", "score"], ["raise", "exit", "memory", "full disk", "not allowed"]
        )
    ],
)
def test_a_scorer_that_fails(folder: Path, alone: Store, tmp_path: Path, at: str, how: str) -> None:
    scorer = f"a_scorer[at={at},how={how}]"
    reasons = _after(folder, alone, tmp_path, "base", scorers=["channel", scorer])
    assert len(reasons) == 2
    told = "out of memory" if how == "memory" else "scorer 'a_scorer"
    assert all(told in reason for reason in reasons)


def test_what_a_failed_stage_held_is_free_when_the_next_begins(
    folder: Path, tmp_path: Path
) -> None:
    """Garbage in cycles would keep a GPU's memory from it, which no collection of its own sees."""
    plan = _plan(folder, "base", scorers=["a_heavy", "a_heavy[looks=true]"])
    gc.disable()
    try:
        outcome = _run(plan, Store(tmp_path / "store"))
    finally:
        gc.enable()
    assert len(outcome.failures) == 1
    assert AHeavyScorer.held
    assert AHeavyScorer.alive == [0]


def test_pairs_that_cannot_be_encoded(folder: Path, alone: Store, tmp_path: Path) -> None:
    """The images of the untouched backbone are those that it draws alone."""
    pipeline = f"failing_encoder[path={folder / 'pipeline'}]"
    store, plan = Store(tmp_path / "store"), _plan(folder, "dpo", backbone=pipeline)
    reasons = {*_run(plan, store).failures.values()}
    assert len(reasons) == 1
    assert "the backbone failed in test_cells_apart.py, line " in reasons.pop()
    pictures = {
        path.name: path.read_bytes() for path in store.root.glob("artefacts/sample/*/images/*.png")
    }
    assert len(pictures) == 5
    base = next(s for s in _plan(folder, "dpo").stages if s.label.endswith("from base"))
    images = alone.path("sample", base.key) / "images"
    assert pictures == {path.name: path.read_bytes() for path in images.iterdir()}


LEAKS = (
    "generators",
    "threads",
    "no gradients",
    "default dtype",
    "default device",
    "deterministic",
    "matmul",
    "autocast",
    "attention",
    "denormals",
    "hooks on all modules",
    "warnings",
    "numpy errors",
    "folder",
    "schedule",
    "other parts",
    "methods",
)


@pytest.mark.parametrize(
    "what", ["everything", *(pytest.param(one, marks=pytest.mark.slow) for one in LEAKS)]
)
def test_what_a_method_leaves_behind(folder: Path, alone: Store, tmp_path: Path, what: str) -> None:
    try:
        assert not _after(folder, alone, tmp_path, f"a_leaking[what={what}]")
    finally:
        _clean_up()


def _clean_up() -> None:
    """So that a leak that is not mended spoils no other test."""
    import torch

    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("cpu")
    torch.use_deterministic_algorithms(False)
    torch.set_autocast_enabled("cpu", False)
    torch.set_flush_denormal(False)
    torch.nn.modules.module._global_forward_hooks.clear()
    np.seterr(all="warn", under="ignore")


def test_a_backbone_that_gives_one_policy_to_all(
    folder: Path, alone: Store, tmp_path: Path
) -> None:
    """Even its denoiser is read again for the next cell."""
    pipeline = f"sharing[path={folder / 'pipeline'}]"
    store, plan = Store(tmp_path / "store"), _plan(folder, "a_failing", "dpo", backbone=pipeline)
    assert len({*_run(plan, store).failures.values()}) == 1
    own = {stage.name: stage.key for stage in _plan(folder, "dpo").stages if "dpo" in stage.label}
    for stage in plan.stages:
        if "dpo" in stage.label:
            ours = toy.artefacts(alone)[f"{stage.name}/{own[stage.name]}"]["files"]
            assert toy.artefacts(store)[f"{stage.name}/{stage.key}"]["files"] == ours


def test_labels_may_not_write_into_what_they_are_shown(
    folder: Path, alone: Store, tmp_path: Path
) -> None:
    reasons = _after(folder, alone, tmp_path, "balanced[labels=a_greedy]")
    assert len(reasons) == 1
    assert "aggregation 'a_greedy' failed" in reasons[0]
    assert "read-only" in reasons[0]


def test_global_generators_begin_alike_in_every_stage(folder: Path, tmp_path: Path) -> None:
    """A method that draws from them is the same alone, and after another one."""
    stores = []
    for number, methods in enumerate((["sft[labels=sloppy]"], ["dpo", "sft[labels=sloppy]"])):
        random.seed(), np.random.seed()
        stores.append(Store(tmp_path / str(number)))
        assert not _run(_plan(folder, *methods), stores[-1]).failures
    one, two = map(toy.artefacts, stores)
    assert one.items() <= two.items()


def _run_as_two(plan: Plan, store: Store) -> list[dict[str, str]]:
    """What failed in each of two processes that share the run."""

    def share() -> None:
        world = World.from_environment()
        world.connect("cpu")
        progress = Progress(Console(quiet=True))
        found = world.broadcast(status(plan.stages, store) if world.is_main else None)
        assert found is not None
        outcome = Walk(plan.stages, store, "cpu", progress, world).run(found.finished)
        (store.root / f"failures-{world.rank}.json").write_text(json.dumps(outcome.failures))
        world.close()

    shared = meeting_point(2)
    running = [forked(share, RANK=str(rank), **shared) for rank in range(2)]
    assert [exit_code(pid) for pid in running] == [0, 0]
    files = [store.root / f"failures-{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def together(folder: Path) -> Store:
    """What `dpo` is of two processes."""
    store = Store(folder / "together")
    _run_as_two(_plan(folder, "dpo"), store)
    return store


@pytest.mark.parametrize("how", ["exit", pytest.param("memory", marks=pytest.mark.slow)])
def test_a_failure_in_one_of_two_processes(
    folder: Path, together: Store, tmp_path: Path, how: str
) -> None:
    """Training fails in the second process alone: both leave it, and go on to the next cell."""
    after = Store(shutil.copytree(together.root, tmp_path / "after"))
    for stage in _plan(folder, "dpo").stages:
        if "dpo" in stage.label:
            after.discard(stage.name, stage.key)
    spec = f"a_failing[loss=a_failing[how={how},rank=1]]"
    first, second = _run_as_two(_plan(folder, spec, "dpo"), after)
    assert first.keys() == second.keys()
    assert len({*first.values()}) == 1
    assert "in process 1 of 2" in next(iter(first.values()))
    assert toy.artefacts(after) == toy.artefacts(together)


def test_a_failed_attempt_goes_on_from_its_state(folder: Path, tmp_path: Path) -> None:
    """What it left under its own key leads to the bytes of an attempt that never failed."""
    plan = _plan(folder, "a_failing")
    once = Store(tmp_path / "once")
    assert _run(plan, once).failures
    stores = [once, Store(tmp_path / "never")]
    real = AFailingLoss.__call__
    try:
        AFailingLoss.__call__ = lambda self, errors, p, beta: errors.policy_0  # type: ignore[method-assign]
        assert [*once.root.glob("partial/*/work/state.pt")]
        for store in stores:
            assert not _run(plan, store).failures
    finally:
        AFailingLoss.__call__ = real  # type: ignore[method-assign]
    assert toy.artefacts(stores[0]) == toy.artefacts(stores[1])
