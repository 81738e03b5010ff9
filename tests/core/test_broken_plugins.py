"""Plugins that do not keep to their part: one sentence each, and nobody else is touched."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from bench import (
    BenchError,
    PreferenceSet,
    Scorer,
    hookimpl,
    option,
    uses,
)
from bench.recipe.recipe import validate
from bench.registry import location
from bench.registry import registry as registry_module
from bench.registry.registry import Broken, Entry, Registry
from bench.running import planning
from tests import toy

if False:
    from nowhere import Unknown


@dataclass(frozen=True, kw_only=True)
class Good(Scorer):
    """Keeps to its part."""

    name: ClassVar[str] = "good"


@dataclass(frozen=True, kw_only=True)
class Forward(Scorer):
    name: ClassVar[str] = "forward"
    length: Unknown = option(None, "of a type that is not there")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Odd(Scorer):
    name: ClassVar[str] = "odd"
    length: types.ModuleType = option(None, "of a type that cannot be written")  # noqa: RUF009


@dataclass(frozen=True, kw_only=True)
class Marked(Scorer):
    name: ClassVar[str] = "marked"
    length: ClassVar[float] = option(1.5, "not meant for the class")


@dataclass(frozen=True, kw_only=True)
class OutOfBounds(Scorer):
    name: ClassVar[str] = "out-of-bounds"
    length: float = option(-1.0, "in metres", gt=0)


@dataclass(frozen=True, kw_only=True)
class WrongDefault(Scorer):
    name: ClassVar[str] = "wrong-default"
    unit: Literal["m", "cm"] = option("mile", "unit")


@dataclass(frozen=True, kw_only=True)
class WrongBound(Scorer):
    name: ClassVar[str] = "wrong-bound"
    unit: str = option("m", "unit", gt=0)


@dataclass(frozen=True, kw_only=True)
class Hiding(Scorer):
    name: ClassVar[str] = "hiding"
    load: str = option("x", "named like a method")


@dataclass(frozen=True, kw_only=True)
class Factory(Scorer):
    name: ClassVar[str] = "factory"
    marks: tuple[int, ...] = dataclasses.field(default_factory=tuple)


@dataclass(frozen=True, kw_only=True)
class NoKind(Scorer):
    name: ClassVar[str] = "no-kind"
    other: Scorer = uses("scorer", "good", "misspelt")  # type: ignore[arg-type]


class Undecorated(Scorer):
    name: ClassVar[str] = "undecorated"
    length: float = option(1.0, "lost")


@dataclass(frozen=True, kw_only=True)
class Number(Scorer):
    name: ClassVar[str] = 5  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Brackets(Scorer):
    name: ClassVar[str] = "good[x=1]"


@dataclass(frozen=True, kw_only=True)
class Version(Scorer):
    name: ClassVar[str] = "version"
    version: ClassVar[str] = 2  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Truthy(Scorer):
    name: ClassVar[str] = "truthy"
    held_out: ClassVar[bool] = "no"  # type: ignore[assignment]


class _Point:
    """An entry point of a package that is not installed."""

    def __init__(self, name: str, package: str, load: object) -> None:
        self.name, self._load = name, load
        self.dist = types.SimpleNamespace(name=package, version="1.0")

    def load(self) -> object:
        if isinstance(self._load, BaseException):
            raise self._load
        return self._load


def _module(result: object) -> types.ModuleType:
    @hookimpl
    def bench_scorers() -> object:
        return result() if isinstance(result, types.FunctionType) else result

    module = types.ModuleType("fake_plugin")
    module.__dict__["bench_scorers"] = bench_scorers
    return module


def _discover(monkeypatch: pytest.MonkeyPatch, bad: object) -> Registry:
    points = [_Point("bad", "bad-package", bad), _Point("fine", "tools", _module([Good]))]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    return Registry.discover()


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Forward, "annotation cannot be resolved .*Unknown"),
        (Odd, "option 'length'.*cannot be the type of an option"),
        (Marked, "option 'length' is marked ClassVar"),
        (OutOfBounds, "option 'length': its default -1.0 is not allowed.*greater than 0"),
        (WrongDefault, "option 'unit': its default 'mile' is not allowed"),
        (WrongBound, "option 'unit'.*bounds|cannot be the type"),
        (Hiding, "option 'load' has the name of something that the class inherits"),
        (Factory, "option 'marks'.*a tuple"),
        (NoKind, "option 'other': 'scorer' is no kind of plugin"),
        (Undecorated, "option 'length': class Undecorated is not a dataclass"),
        (Number, "class Number has no valid `name`"),
        (Brackets, "class Brackets has no valid `name`"),
        (Version, "'version' must be text"),
        (Truthy, "'held_out' must be True or False, not 'no'"),
        (int, "class int is not derived from Scorer"),
        (toy.Truth(), "is not a class.*an instance of Truth"),
        ("good", "is not a class.*text"),
    ],
)
def test_a_bad_class_is_left_out_alone(
    monkeypatch: pytest.MonkeyPatch, cls: object, reason: str
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Neighbour(Scorer):
        name: ClassVar[str] = "neighbour"

    registry = _discover(monkeypatch, _module([cls, Neighbour]))
    assert [e.cls for e in registry.entries()] == [Good, Neighbour]
    (broken,) = registry.broken
    _is_sentence(broken, reason)
    name = broken.name or "bad"
    with pytest.raises(BenchError, match=r"bad-package 1\.0 \(bad"):
        registry.find(name)


def _is_sentence(broken: Broken, reason: str) -> None:
    assert re.search(reason, broken.reason), broken.reason
    assert "\n" not in str(broken)
    assert "BENCH_DISABLED_PLUGINS=bad-package" in str(broken)


class _Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def _raises_midway() -> Iterator[type[Scorer]]:
    yield Good
    raise RuntimeError("halfway")


def _leaves() -> None:
    sys.exit("I leave")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (Good, "gave <class .*Good'>, not a list"),
        (None, "gave None, not a list"),
        ("good", "gave 'good', not a list"),
        (Good(), r"gave Good\(.*, not a list"),
        (_Unprintable(), "gave what cannot be shown, not a list"),
        (_raises_midway, "failed: RuntimeError: halfway"),
        (_leaves, "failed: SystemExit: I leave"),
    ],
)
def test_a_bad_hook_is_left_out_alone(
    monkeypatch: pytest.MonkeyPatch, result: object, reason: str
) -> None:
    registry = _discover(monkeypatch, _module(result))
    assert [e.cls for e in registry.entries()] == [Good]
    _is_sentence(registry.broken[0], f"hook bench_scorers {reason}")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        ModuleNotFoundError("No module named 'gone'"),
        AttributeError("module 'a' has no attribute 'b'"),
        RecursionError("too deep"),
        type("Stop", (BaseException,), {})("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_import_raises_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    registry = _discover(monkeypatch, error)
    assert registry.build("scorers", "good") == Good()
    _is_sentence(registry.broken[0], type(error).__name__)


def test_ctrl_c_is_not_a_broken_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        _discover(monkeypatch, KeyboardInterrupt())


def test_two_of_one_name_in_one_package_are_both_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other(Scorer):
        name: ClassVar[str] = "twin"

    @dataclass(frozen=True, kw_only=True)
    class Twin(Other):
        name: ClassVar[str] = "twin"

    registry = _discover(monkeypatch, _module([Other, Twin, Other]))
    assert [e.cls for e in registry.entries()] == [Good]
    with pytest.raises(BenchError, match=r"share the name 'twin'.*Other of .* and .*Twin of"):
        registry.build("scorers", "twin")


@dataclass(frozen=True, kw_only=True)
class Lively(toy.Channel):
    """Asked for something, it does as told."""

    name: ClassVar[str] = "lively"
    answers: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        _answer(self.answers, "__post_init__", None)

    def fingerprint(self) -> str:
        return _answer(self.answers, "fingerprint", "")

    def unavailable_reason(self) -> str:
        return _answer(self.answers, "unavailable_reason", "")

    @property
    def seconds_per_image(self) -> float:
        return _answer(self.answers, "seconds_per_image", 0.1)

    @property
    def tower(self) -> str:
        return _answer(self.answers, "tower", "")


@dataclass(frozen=True, kw_only=True)
class LivelyBackbone(toy.ToyBackbone):
    """The same for a backbone."""

    name: ClassVar[str] = "lively"
    answers: ClassVar[dict[str, Any]] = {}

    @property
    def family(self) -> str:
        return _answer(self.answers, "family", "shapes")

    @property
    def resolution(self) -> int:
        return _answer(self.answers, "resolution", 16)

    @property
    def seconds_per_evaluation(self) -> float:
        return _answer(self.answers, "seconds_per_evaluation", 0.1)


@dataclass(frozen=True, kw_only=True)
class Reader(PreferenceSet):
    """Fails at every path."""

    name: ClassVar[str] = "a-reader"

    @classmethod
    def reads(cls, path: Path) -> bool:
        raise ZeroDivisionError("reads")


def _answer(answers: dict[str, Any], name: str, default: Any) -> Any:
    answer = answers.get(name, default)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _registry() -> Registry:
    extra: list[tuple[Any, Any]] = [
        ("scorers", Lively),
        ("backbones", LivelyBackbone),
        ("preference_sets", Reader),
    ]
    own = [Entry(kind=k, cls=c, package="zoo", package_version="1") for k, c in extra]
    return Registry([*toy.registry().entries(), *own])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("fingerprint", ZeroDivisionError("deep"), "ZeroDivisionError: deep"),
        ("fingerprint", SystemExit(1), "SystemExit: 1"),
        ("fingerprint", None, "gave a NoneType as `fingerprint`; expected is text"),
        ("fingerprint", 7, "gave a int as `fingerprint`; expected is text"),
        ("fingerprint", "x" * 10**6, "1,000,000 characters"),
        ("seconds_per_image", ZeroDivisionError("deep"), "ZeroDivisionError: deep"),
        (
            "seconds_per_image",
            -1.0,
            "gave -1.0 .float. as .*; expected is seconds",
        ),
        (
            "seconds_per_image",
            float("nan"),
            "gave nan .float. as .*; expected is seconds",
        ),
        (
            "seconds_per_image",
            "fast",
            "gave 'fast' .str. as .*; expected is seconds",
        ),
        ("tower", ZeroDivisionError("deep"), "ZeroDivisionError: deep"),
        ("tower", None, "gave None .NoneType. as `tower`; expected is text"),
        ("__post_init__", ValueError("no"), "building it failed in .*: ValueError: no"),
    ],
)
def test_what_a_plan_asks_a_scorer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, answer: object, said: str
) -> None:
    monkeypatch.setitem(Lively.answers, name, answer)
    registry = _registry()
    planning.make(toy.recipe(folder), registry)
    with pytest.raises(BenchError, match=rf"scorer 'lively' of zoo 1 .*{said}"):
        planning.make(toy.recipe(folder, scorers=["lively"]), registry)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("family", ZeroDivisionError("deep"), "failed in .*: ZeroDivisionError: deep"),
        ("family", None, "gave None .NoneType. as `family`"),
        ("resolution", 0, "gave 0 .int. as `resolution`"),
        ("seconds_per_evaluation", float("inf"), "gave inf .float. as `seconds_per_evaluation`"),
    ],
)
def test_what_a_plan_asks_a_backbone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, answer: object, said: str
) -> None:
    recipe = toy.recipe(folder, backbone=f"lively[path={folder / 'pipeline'}]")
    planning.make(recipe, _registry())
    monkeypatch.setitem(LivelyBackbone.answers, name, answer)
    with pytest.raises(BenchError, match=f"backbone 'lively' of zoo 1 .*{said}"):
        planning.make(recipe, _registry())


def test_a_backbone_that_only_draws_is_asked_as_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy.recipe(folder)
    drawing = [recipe.backbone, f"lively[path={folder / 'pipeline'}]"]
    generate = {"prompts": recipe.prompts, "backbones": drawing, "images_per_prompt": 2}
    made = recipe.model_dump() | {"pairs": "generated", "generate": generate}
    planning.make(validate(made, "generated"), _registry())
    monkeypatch.setitem(LivelyBackbone.answers, "seconds_per_evaluation", "fast")
    with pytest.raises(BenchError, match=r"backbone 'lively' of zoo 1 .*gave 'fast' .str."):
        planning.make(validate(made, "generated"), _registry())


def test_a_reason_that_raises_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planning.make(toy.recipe(folder, scorers=["lively"]), _registry())
    assert planning.unavailable_reasons(plan.stages, frozenset()) == ()
    monkeypatch.setitem(Lively.answers, "unavailable_reason", ZeroDivisionError("deep"))
    (reason,) = planning.unavailable_reasons(plan.stages, frozenset())
    assert reason.startswith("scorer 'lively' failed in ")
    assert reason.endswith("ZeroDivisionError: deep")


def test_reads_that_raises_is_in_nobodys_way(folder: Path, tmp_path: Path) -> None:
    planning.make(toy.recipe(folder), _registry())
    strange = tmp_path / "strange.xyz"
    strange.write_text("?")
    with pytest.raises(BenchError, match=r"no plugin reads such files; .*'a-reader' of zoo 1"):
        planning.make(toy.recipe(folder, pairs=str(strange)), _registry())


def test_a_baseline_of_another_package_does_not_take_the_place_of_ours() -> None:
    from bench_plugins.methods import Base

    @dataclass(frozen=True, kw_only=True)
    class Aardvark(Base):
        name: ClassVar[str] = "aardvark"

    mine = Entry(kind="methods", cls=Aardvark, package="zoo", package_version="1")
    assert location.baseline(Registry([mine, *toy.registry().entries()])) == "base"


_NOISY = '''
"""Prints wherever it can."""
import atexit, os, subprocess, sys
from dataclasses import dataclass
from typing import ClassVar
from bench import Scorer, hookimpl, option
print("printed at import")
os.write(1, b"written at import\\\\n")
subprocess.run(["echo", "echoed at import"])
atexit.register(print, "printed at exit")

@dataclass(frozen=True, kw_only=True)
class Noisy(Scorer):
    """Prints."""
    name: ClassVar[str] = "noisy"

    @property
    def seconds_per_image(self):
        print("printed when asked")
        return 0.1

    def fingerprint(self):
        print("printed when described")
        return "x"

    def load(self, device):
        print("printed when loaded")
        return self

    def score(self, images, prompts):
        import numpy as np
        os.write(1, b"written when scoring\\\\n")
        return np.zeros(len(images))

@hookimpl
def bench_scorers():
    print("printed by the hook")
    return [Noisy]
'''


@pytest.fixture
def noisy(tmp_path: Path) -> dict[str, str]:
    """The environment of a command that finds an installed package which prints."""
    site = tmp_path / "site"
    info = site / "noisy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noisy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench]\nnoisy = noisy\n")
    (site / "noisy.py").write_text(_NOISY.replace("\\\\", "\\"))
    return {**os.environ, "PYTHONPATH": str(site)}


def _bench(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_plugins_print_never_reaches_json(tmp_path: Path, noisy: dict[str, str]) -> None:
    listed = json.loads(_bench(tmp_path, noisy, "plugins", "--json"))
    assert "noisy" in {plugin["name"] for plugin in listed["plugins"]}
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(toy.jpeg(np.random.default_rng(0)))
    (tmp_path / "list.csv").write_text("file_name,prompt\npictures/a.jpg,a toy\n")
    scored = json.loads(
        _bench(tmp_path, noisy, "score", "list.csv", "--scorers", "noisy", "--json")
    )
    assert scored


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "return 5"])
def test_a_broken_command_is_in_nobodys_way(tmp_path: Path, body: str) -> None:
    info = tmp_path / "site" / "loud-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench]\nloud = loud\n")
    (tmp_path / "site" / "loud.py").write_text(
        "from bench import Command, hookimpl\n\n"
        "class Loud(Command):\n    name = 'loud'\n\n"
        f"    def app(self):\n        {body}\n\n"
        "@hookimpl\ndef bench_commands():\n    return [Loud]\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    assert "shapes" in _bench(tmp_path, environment, "--help")
    command = [sys.executable, "-m", "bench", "loud"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: command 'loud' of loud 1.0 (loud)")
    assert "`app`" in done.stderr
    assert done.stderr.count("\n") == 1
