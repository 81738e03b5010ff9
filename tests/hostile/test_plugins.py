"""Packages of other people that do what they should not; each is installed beside the toys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.harness import RUN, Case, World, judge, sample

HEAD = """\
import os, sys
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from bench import (
    Aggregation,
    Backbone,
    BenchError,
    Labels,
    Loss,
    Method,
    PairMethod,
    Scorer,
    Trajectory,
    hookimpl,
    option,
    uses,
)

"""


def scorer(body: str, extra: str = "") -> str:
    """A package with a scorer whose `score` is `body`."""
    return (
        HEAD
        + f'''
@dataclass(frozen=True, kw_only=True)
class Bad(Scorer):
    """Bad."""
    name: ClassVar[str] = "bad"
{extra}
    def load(self, device):
        return self
    def score(self, images, prompts):
        {body}

@hookimpl
def bench_scorers():
    return [Bad]
'''
    )


def loss(body: str) -> str:
    """A package with a loss."""
    return (
        HEAD
        + f'''
@dataclass(frozen=True, kw_only=True)
class Bad(Loss):
    """Bad."""
    name: ClassVar[str] = "bad"
    def __call__(self, errors, p, beta):
        import torch
        {body}

@hookimpl
def bench_losses():
    return [Bad]
'''
    )


def labels(body: str, needs: str = "()") -> str:
    """A package with an aggregation."""
    return (
        HEAD
        + f'''
@dataclass(frozen=True, kw_only=True)
class Bad(Aggregation):
    """Bad."""
    name: ClassVar[str] = "bad"
    def needs(self, pool):
        return {needs}
    def label(self, pairs, seed):
        n = len(pairs.human)
        {body}

@hookimpl
def bench_aggregations():
    return [Bad]
'''
    )


def method(body: str) -> str:
    """A package with a method without training."""
    return (
        HEAD
        + f'''
@dataclass(frozen=True, kw_only=True)
class Bad(Method):
    """Bad."""
    name: ClassVar[str] = "bad"
    trainable: ClassVar[bool] = False
    def model(self, backbone):
        {body}

@hookimpl
def bench_methods():
    return [Bad]
'''
    )


def scores(name: str, body: str, *says: str, extra: str = "") -> Case:
    """A scorer whose scores must be refused."""
    return Case(
        id=f"scorer-{name}",
        command=f"{RUN} --scorers channel,bad --methods base",
        plugin=scorer(body, extra),
        ends="refused",
        says=("bad", *says),
        may_name_exceptions=True,
        own=("bench-runs/toy/",),
    )


def trains(name: str, plugin: str, option: str, *says: str) -> Case:
    """A method of whose parts one is bad: only its cell fails."""
    return Case(
        id=f"{option}-{name}",
        command=f"{RUN} --methods 'dpo,dpo[{option}=bad]'",
        plugin=plugin,
        ends="refused",
        says=("bad", *says),
        may_name_exceptions=True,
        own=("bench-runs/toy/",),
    )


def package(name: str, source: str, **more: object) -> Case:
    """A package at which the plain command is not to fail."""
    return Case(id=f"package-{name}", plugin=source, may_name_exceptions=True, **more)  # type: ignore[arg-type]


CASES = [
    scores("raises", "raise ZeroDivisionError('deep inside')"),
    scores("raises-empty", "raise ValueError"),
    scores("raises-lines", "raise ValueError('one\\ntwo\\x1b[31m')"),
    scores("raises-long", "raise ValueError('x' * 10**6)"),
    scores("raises-markup", "raise ValueError('[/red]')"),
    scores("raises-os-error", "raise OSError(28, 'No space left on device')"),
    scores("raises-file-not-found", "open('/nowhere/weights')"),
    scores("raises-permission", "raise PermissionError(13, 'Permission denied', '/weights')"),
    scores("raises-memory", "raise MemoryError"),
    scores("raises-recursion", "return self.score(images, prompts)"),
    scores("raises-system-exit", "sys.exit(0)"),
    scores("raises-system-exit-words", "sys.exit('bye')"),
    scores("raises-stop-iteration", "next(iter(()))"),
    scores("raises-own", "raise type('Own', (BaseException,), {})('deep inside')"),
    scores(
        "raises-bench-error", "raise BenchError('the weights are missing; fetch them')", "fetch"
    ),
    scores("nothing", "return None"),
    scores("a-number", "return 1.0"),
    scores("words", "return ['good'] * len(images)"),
    scores("nan", "return np.full(len(images), np.nan)"),
    scores("inf", "return np.full(len(images), np.inf)"),
    scores("none-inside", "return [None] * len(images)"),
    scores("complex", "return np.full(len(images), 1j)"),
    scores("too-few", "return np.zeros(len(images) - 1)"),
    scores("too-many", "return np.zeros(len(images) + 1)"),
    scores("two-dimensions", "return np.zeros((len(images), 2))"),
    scores("objects", "return np.array([object()] * len(images))"),
    scores("a-generator", "return (x for x in 'ab')"),
    scores("a-mapping", "return {i: 0.0 for i in range(len(images))}"),
    scores("huge", "return [10**400] * len(images)"),
    scores("load-raises", "return 0", extra="    def load(self, device): raise OSError('gone')\n"),
    scores(
        "fingerprint-raises",
        "return np.zeros(len(images))",
        extra="    def fingerprint(self): raise FileNotFoundError('weights.bin')\n",
    ),
    scores(
        "fingerprint-a-number",
        "return np.zeros(len(images))",
        extra="    def fingerprint(self): return 3\n",
    ),
    scores(
        "fingerprint-an-array",
        "return np.zeros(len(images))",
        extra="    def fingerprint(self): return np.zeros(3)\n",
    ),
    scores(
        "reason-raises",
        "return np.zeros(len(images))",
        extra="    def unavailable_reason(self): raise KeyError('x')\n",
    ),
    scores(
        "bad-annotation",
        "return np.zeros(len(images))",
        extra="    size: 'Nowhere' = option(3, 'size')\n",
    ),
    trains("raises", loss("raise ValueError('deep inside')"), "loss"),
    trains("raises-system-exit", loss("raise SystemExit(3)"), "loss"),
    trains("raises-os-error", loss("raise OSError(28, 'No space left on device')"), "loss"),
    trains("raises-memory", loss("raise torch.cuda.OutOfMemoryError('out of memory')"), "loss"),
    trains("nothing", loss("return None"), "loss"),
    trains("a-number", loss("return 3.0"), "loss"),
    trains("a-scalar", loss("return errors.policy_0.mean()"), "loss"),
    trains("one-short", loss("return errors.policy_0[:-1]"), "loss"),
    trains("two-dimensions", loss("return errors.policy_0[:, None]"), "loss"),
    trains("nan", loss("return errors.policy_0 * float('nan')"), "loss"),
    trains("without-gradient", loss("return errors.policy_0.detach()"), "loss"),
    trains("integers", loss("return torch.ones_like(errors.policy_0).long()"), "loss"),
    trains("raises", labels("raise ValueError('deep inside')"), "labels"),
    trains("nothing", labels("return None"), "labels"),
    trains("a-tuple", labels("return np.zeros(n), np.ones(n, dtype=bool)"), "labels"),
    trains("short", labels("return Labels(p=np.zeros(1), kept=np.ones(1, dtype=bool))"), "labels"),
    trains("nan", labels("return Labels(p=np.full(n, np.nan), kept=np.ones(n, bool))"), "labels"),
    trains(
        "above-one", labels("return Labels(p=np.full(n, 2.0), kept=np.ones(n, bool))"), "labels"
    ),
    trains(
        "below-zero", labels("return Labels(p=np.full(n, -1.0), kept=np.ones(n, bool))"), "labels"
    ),
    trains("kept-numbers", labels("return Labels(p=np.zeros(n), kept=np.full(n, 0.5))"), "labels"),
    trains(
        "kept-nothing", labels("return Labels(p=np.zeros(n), kept=np.zeros(n, bool))"), "labels"
    ),
    trains("kept-short", labels("return Labels(p=np.zeros(n), kept=np.ones(2, bool))"), "labels"),
    trains(
        "words", labels("return Labels(p=np.array(['a'] * n), kept=np.ones(n, bool))"), "labels"
    ),
    trains("needs-nobody", labels("return None", "('nobody',)"), "labels"),
    trains("needs-a-number", labels("return None", "3"), "labels"),
    trains("needs-held-out", labels("return None", "('truth',)"), "labels"),
    *(
        Case(
            id=f"method-{name}",
            command=f"{RUN} --methods dpo,bad",
            plugin=method(body),
            ends="refused",
            says=("bad",),
            may_name_exceptions=True,
            own=("bench-runs/toy/",),
        )
        for name, body in {
            "raises": "raise RuntimeError('deep inside')",
            "raises-system-exit": "raise SystemExit",
            "returns-nothing": "return None",
            "returns-a-class": "return type(backbone)",
        }.items()
    ),
    package("import-error", "import nowhere_at_all\n", ends="well"),
    package("syntax-error", "def broken(:\n", ends="well"),
    package("raises-at-import", "raise RuntimeError('no')\n", ends="well"),
    package("exits-at-import", "import sys; sys.exit(3)\n", ends="well"),
    package("prints-at-import", "print('hello')\n", ends="well"),
    package("hook-raises", HEAD + "@hookimpl\ndef bench_scorers():\n    raise OSError('x')\n"),
    package("hook-exits", HEAD + "@hookimpl\ndef bench_scorers():\n    raise SystemExit(3)\n"),
    package("hook-returns-nothing", HEAD + "@hookimpl\ndef bench_scorers():\n    return None\n"),
    package("hook-returns-a-class", HEAD + "@hookimpl\ndef bench_scorers():\n    return Scorer\n"),
    package("hook-returns-words", HEAD + "@hookimpl\ndef bench_scorers():\n    return ['a']\n"),
    package("hook-misspelt", HEAD + "@hookimpl\ndef bench_scorer():\n    return []\n"),
    package("hook-with-arguments", HEAD + "@hookimpl\ndef bench_scorers(x):\n    return []\n"),
    package(
        "name-taken",
        scorer("return 0").replace('"bad"', '"channel"'),
        ends="refused",
        says=("channel",),
    ),
    package("name-markup", scorer("return 0").replace('"bad"', '"[red]"')),
    package("name-a-number", scorer("return 0").replace('"bad"', "3")),
    package("name-climbs", scorer("return 0").replace('"bad"', '"../x"')),
    package(
        "not-a-dataclass", scorer("return 0").replace("@dataclass(frozen=True, kw_only=True)", "")
    ),
    Case(
        id="prints-into-json",
        command="plugins --json",
        plugin="print('hello')\nimport sys; sys.stdout.write('again')\n",
        where="process",
        ends="well",
        gives_json=True,
    ),
    Case(
        id="broken-is-listed",
        command="plugins",
        plugin="import nowhere_at_all\n",
        ends="well",
        says=("nowhere_at_all",),
        may_name_exceptions=True,
    ),
    Case(
        id="broken-is-switched-off",
        command="plugins",
        plugin="import nowhere_at_all\n",
        environment={"BENCH_DISABLED_PLUGINS": "hostile-plugin"},
        ends="well",
        never_says=("nowhere_at_all",),
    ),
]


@pytest.mark.parametrize("case", sample(CASES))
def test_plugin(case: Case, world: World, tmp_path: Path) -> None:
    judge(case, world, tmp_path)
