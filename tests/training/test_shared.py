"""Two real processes that share each batch, against one."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_plugins.references import Ema, HardCopy

from bench.api.kinds import TrainingSetup
from bench.lib.distributed import ALONE, World
from bench.running.launch import meeting_point
from bench.training import gradients
from tests.training.conftest import exit_code, forked, tiny_setup, toy_setup, train
from tests.training.test_encoding import digests, run


def cases(
    pipeline: Path, folder: Path, world: World
) -> dict[str, tuple[TrainingSetup, dict[str, Any]]]:
    """What both do: name -> setup and the arguments of `train`."""
    seen: list[int] = []
    shared: dict[str, Any] = {"world": world, "report": lambda r: seen.append(r.step)}
    return {
        "full": (toy_setup(folder / "full", **shared), {"reference": HardCopy(every=3)}),
        # Shares of 3 and 4 pairs, in micro-batches of 2.
        "uneven": (
            toy_setup(folder / "uneven", batch_size=7, micro_batch_size=2, **shared),
            {"reference": Ema(decay=0.5)},
        ),
        # A process without any pair.
        "idle": (toy_setup(folder / "idle", batch_size=1, **shared), {}),
        "fp16": (toy_setup(folder / "fp16", precision="fp16", **shared), {"beta": 1.0}),
        "lora": (
            tiny_setup(pipeline, folder / "lora", **shared),
            {"reference": HardCopy(every=2)},
        ),
    }


def work(pipeline: Path, folder: Path, world: World) -> None:
    """Train all cases and encode the drawn pairs; leave what came of it."""
    results = {}
    for name, (setup, arguments) in cases(pipeline, folder / "work", world).items():
        outcome = train(setup, **arguments)
        weights = {k: w.detach() for k, w in setup.policy.denoiser.named_parameters()}
        steps = [astuple(step) for step in outcome.steps]
        results[name] = (weights, steps, outcome.steps[-1].nfe)
    torch.save(results, folder / f"rank{world.rank}.pt")
    run(folder / "encoded", tiny_setup(pipeline, folder).policy, world=world)


@pytest.fixture(scope="module")
def two(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")

    def share() -> None:
        # Small enough that the gradients need several.
        gradients.BUCKET = 100
        world = World.from_environment()
        world.connect("cpu")
        work(pipeline, folder, world)
        world.close()

    shared = meeting_point(2)
    running = [forked(share, RANK=str(rank), **shared) for rank in range(2)]
    assert [exit_code(pid) for pid in running] == [0, 0]
    return folder


@pytest.fixture(scope="module")
def one(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left."""
    folder = tmp_path_factory.mktemp("one")
    work(pipeline, folder, ALONE)
    return folder


def test_all_processes_end_with_the_same_bits(two: Path) -> None:
    first, second = (torch.load(two / f"rank{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, (weights, steps, nfe) in first.items():
        others, other_steps, other_nfe = second[name]
        assert weights.keys() == others.keys()
        assert all(torch.equal(w, others[key]) for key, w in weights.items()), name
        assert repr(steps) == repr(other_steps)
        assert nfe == other_nfe


def test_two_processes_train_as_one_does(one: Path, two: Path) -> None:
    alone, shared = (torch.load(folder / "rank0.pt") for folder in (one, two))
    for name, (weights, steps, nfe) in alone.items():
        others, other_steps, other_nfe = shared[name]
        assert nfe == other_nfe, name
        error = {"rel": 2e-2, "abs": 1e-4} if name == "fp16" else {"rel": 1e-3, "abs": 1e-5}
        for mine, theirs in zip(steps, other_steps, strict=True):
            assert theirs == pytest.approx(mine, **error, nan_ok=True), name
        a, b = (torch.cat([w.flatten() for w in ws.values()]) for ws in (weights, others))
        assert float((a - b).norm() / a.norm()) < 1e-4, name


def test_one_process_goes_on_from_the_state_of_two(pipeline: Path, two: Path) -> None:
    seen: list[int] = []
    setup = toy_setup(two / "work" / "full", lambda r: seen.append(r.step))
    outcome = train(setup, reference=HardCopy(every=3))
    assert seen == []
    steps = torch.load(two / "rank0.pt")["full"][1]
    assert [astuple(step) for step in outcome.steps] == steps


def test_two_processes_encode_the_same_bytes(one: Path, two: Path) -> None:
    assert digests(one / "encoded") == digests(two / "encoded")


def test_gradients_are_cut_into_buckets() -> None:
    tensors = [torch.zeros(n) for n in (60, 30, 20, 2**25, 5)]
    sizes = [[t.numel() for t in bucket] for bucket in gradients._buckets(tensors)]
    assert sizes == [[60, 30, 20], [2**25], [5]]
