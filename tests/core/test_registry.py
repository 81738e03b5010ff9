from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar, Literal

import numpy as np
import pytest

from bench import (
    Aggregation,
    BenchError,
    Labels,
    PairRewards,
    Scorer,
    hookimpl,
    option,
    uses,
)
from bench.registry import registry as registry_module
from bench.registry.registry import Entry, Registry, default_registry, spec_text


@dataclass(frozen=True, kw_only=True)
class Ruler(Scorer):
    """Measures.

    More words.
    """

    name: ClassVar[str] = "ruler"
    length: float = option(1.5, "in metres", gt=0)
    unit: Literal["m", "cm"] = option("m", "unit")
    marks: tuple[int, ...] = option((), "marks")
    owner: str | None = option(None, "who has it")


@dataclass(frozen=True, kw_only=True)
class Picky(Scorer):
    """Must be told something."""

    name: ClassVar[str] = "picky"
    path: str = option(doc="where")


@dataclass(frozen=True, kw_only=True)
class Judge(Aggregation):
    """Uses a scorer."""

    name: ClassVar[str] = "judge"
    scorer: Scorer = uses("scorers", "ruler", "whom to trust")

    def needs(self, pool: Sequence[str]) -> tuple[str, ...]:
        return (spec_text(self.scorer),)

    def label(self, pairs: PairRewards, seed: int) -> Labels:
        return Labels(p=pairs.human, kept=np.ones(len(pairs.human), dtype=bool))


def _registry(*extra: Entry) -> Registry:
    own = [
        Entry(kind="scorers", cls=Ruler, package="tools", package_version="1"),
        Entry(kind="scorers", cls=Picky, package="tools", package_version="1"),
        Entry(kind="aggregations", cls=Judge, package="tools", package_version="1"),
    ]
    return Registry([*own, *extra])


def test_options_are_typed() -> None:
    ruler = _registry().build("scorers", "ruler[length=2,unit=cm,marks=1+2,owner=none]")
    assert ruler == Ruler(length=2.0, unit="cm", marks=(1, 2), owner=None)
    assert isinstance(ruler.length, float)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rular", r"unknown scorer 'rular'\. Did you mean 'ruler'\? Known: picky, ruler"),
        ("ruler[lenght=2]", r"unknown option of scorer 'ruler' 'lenght'\. Did you mean 'length'"),
        ("ruler[length=long]", r"ruler\[length=long\]: input should be a valid number.*float"),
        ("ruler[length=-1]", r"ruler\[length=-1\]: input should be greater than 0"),
        ("ruler[unit=mile]", r"ruler\[unit=mile\]: input should be 'm' or 'cm'"),
        ("ruler[marks=1+x]", r"ruler\[marks=1\+x\]: input should be a valid integer"),
        ("ruler[unit=a[b=1]]", "the option does not name a plugin"),
        ("picky", r"scorer 'picky' needs its option 'path': picky\[path=\.\.\.\]"),
    ],
)
def test_wrong_specs_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        _registry().build("scorers", spec)


def test_options_that_name_plugins_are_built_and_described() -> None:
    registry = _registry()
    judge = registry.build("aggregations", "judge[scorer=ruler[length=3]]")
    assert judge.scorer == Ruler(length=3.0)
    described = registry.describe(judge)
    assert described["options"]["scorer"]["options"]["length"] == 3.0
    assert described["package"] == "tools 1"
    assert registry.build("aggregations", "judge").scorer == Ruler()


@pytest.mark.parametrize("text", ["judge", "judge[scorer=ruler[length=3]]"])
def test_spec_text_is_the_shortest_spec(text: str) -> None:
    assert spec_text(_registry().build("aggregations", text)) == text


def test_equal_plugins_share_one_text() -> None:
    registry = _registry()
    texts = ["ruler", "ruler[length=1.5]", "ruler[unit=m,length=1.50]"]
    assert {spec_text(registry.build("scorers", t)) for t in texts} == {"ruler"}


def test_duplicate_names_cite_both_packages() -> None:
    other = Entry(kind="scorers", cls=Ruler, package="other-tools", package_version="7")
    registry = _registry(other)
    with pytest.raises(BenchError, match=r"share the name 'ruler'.* tools 1 .* other-tools 7"):
        registry.build("scorers", "ruler")
    assert [e.cls for e in registry.entries("scorers")] == [Picky]


class _Dist:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


class _Point:
    """An entry point of a package that is not installed."""

    def __init__(self, name: str, package: str, module: types.ModuleType | Exception) -> None:
        self.name, self.dist, self._module = name, _Dist(package), module

    def load(self) -> types.ModuleType:
        if isinstance(self._module, Exception):
            raise self._module
        return self._module


def _module(**functions: object) -> types.ModuleType:
    module = types.ModuleType("fake_plugin")
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def _discover(monkeypatch: pytest.MonkeyPatch, *points: _Point) -> Registry:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    return Registry.discover()


def _good() -> types.ModuleType:
    @hookimpl
    def bench_scorers() -> list[type[Scorer]]:
        return [Ruler]

    return _module(bench_scorers=bench_scorers)


def test_a_broken_package_is_named_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _Point("bad", "bad-package", ImportError("no module named 'gpu_magic'"))
    registry = _discover(monkeypatch, _Point("good", "tools", _good()), broken)
    assert registry.build("scorers", "ruler") == Ruler()
    reason = r"bad-package 1\.0 \(bad\): ImportError: no module named 'gpu_magic'"
    with pytest.raises(BenchError, match=reason):
        registry.build("scorers", "magic")
    with pytest.raises(BenchError, match=reason):
        registry.find("bad")


def test_a_hook_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def bench_scorers() -> list[type[Scorer]]:
        raise RuntimeError("lost\nthe list")

    registry = _discover(monkeypatch, _Point("bad", "b", _module(bench_scorers=bench_scorers)))
    assert [b.reason for b in registry.broken] == [
        "hook bench_scorers failed: RuntimeError: lost the list"
    ]


def test_a_misspelt_hook_is_named_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def bench_scorer() -> list[type[Scorer]]:
        return [Picky]

    module = _good()
    module.__dict__["bench_scorer"] = bench_scorer
    registry = _discover(monkeypatch, _Point("typo", "typo-package", module))
    assert [e.cls for e in registry.entries()] == [Ruler]
    assert "unknown hook 'bench_scorer'; did you mean 'bench_scorers'?" in registry.broken[0].reason
    assert registry.broken[0].package == "typo-package"


@pytest.mark.parametrize("off", ["good", "tools"])
def test_packages_are_switched_off_by_name(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    monkeypatch.setenv("BENCH_DISABLED_PLUGINS", off)
    assert not _discover(monkeypatch, _Point("good", "tools", _good())).entries()


def test_everything_installed_is_found_and_documented() -> None:
    registry = default_registry()
    assert not registry.broken
    for entry in registry.entries():
        assert entry.summary.endswith("."), entry
        assert all(option.doc for option in registry.options(entry)), entry


def test_real_entry_points_are_used() -> None:
    assert all(isinstance(p, EntryPoint) for p in registry_module.entry_points(group="bench"))


def test_listing_imports_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys; from bench.registry.registry import default_registry;"
        "registry = default_registry();"
        "[registry.options(e) for e in registry.entries()];"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip', 'pandas'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
