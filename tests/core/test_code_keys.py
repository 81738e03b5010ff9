"""Edited plugin code is another plugin: what counts as an edit, and for whom."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.registry import source_code as code
from bench.registry.registry import Entry, Registry
from bench.running import planning
from tests import toy

_PLUGIN = '''
"""A scorer."""
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from bench import Scorer

if TYPE_CHECKING:
    from studio import untouched


@dataclass(frozen=True, kw_only=True)
class Measured(Scorer):
    """Measures."""

    name: ClassVar[str] = "measured"

    def load(self, device):
        from .deep import helper
        return helper
'''


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in a folder that is no installation."""
    folder = tmp_path / "studio"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "plugin.py").write_text(_PLUGIN)
    (folder / "deep" / "__init__.py").write_text("FLAG = 1\n")
    (folder / "deep" / "helper.py").write_text("import studio.constants as c\nimport beside\n")
    (folder / "constants.py").write_text("SCALE = 2.0\n")
    (folder / "untouched.py").write_text("SCALE = 2.0\n")
    (tmp_path / "beside.py").write_text("SCALE = 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0] in ("studio", "beside")]:
        del sys.modules[name]


def _of(package: str = "studio") -> str:
    return code.of(importlib.import_module("studio.plugin").Measured, package, "1.0")


@pytest.mark.parametrize(
    "edited",
    [
        "plugin.py",
        "__init__.py",
        "deep/helper.py",
        "deep/__init__.py",
        "constants.py",
        "../beside.py",
    ],
)
def test_an_edit_of_what_it_imports_counts(studio: Path, edited: str) -> None:
    before = _of()
    with (studio / edited).open("a") as file:
        file.write("\nEDITED = True\n")
    assert _of() != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plugin.py", '"""Measures."""', '"""Measures well."""'),
        ("plugin.py", "\n\n@dataclass", "\n\n\n# a remark\n@dataclass"),
        ("constants.py", "SCALE = 2.0", 'SCALE = (2.0)  # a factor\n"""Of what."""'),
        ("untouched.py", "2.0", "3.0"),
    ],
)
def test_comments_docstrings_and_other_modules_do_not(
    studio: Path, name: str, old: str, new: str
) -> None:
    before, text = _of(), (studio / name).read_text()
    assert old in text
    (studio / name).write_text(text.replace(old, new, 1))
    assert _of() == before


def test_nothing_is_imported_for_it(studio: Path) -> None:
    _of()
    assert "studio.constants" not in sys.modules
    assert "beside" not in sys.modules


def test_code_that_cannot_be_parsed_counts_by_its_bytes(studio: Path) -> None:
    (studio / "constants.py").write_text("this is no Python\n")
    before = _of()
    (studio / "constants.py").write_text("nor is this\n")
    assert _of() != before


def test_a_base_class_of_another_package_counts(studio: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(_PLUGIN.replace("from .deep import helper", "pass"))
    text = "import beside\n\nclass Measured(beside.Measured):\n    name = 'mine'\n"
    (studio / "plugin.py").write_text(text)
    before = _of()
    with (tmp_path / "beside.py").open("a") as file:
        file.write("\nEDITED = True\n")
    assert _of() != before


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, "studio 1.0"),
        ({"url": "file:///x.whl", "archive_info": {"hash": "sha256=ab"}}, "studio 1.0 sha256=ab"),
        ({"url": "https://x", "vcs_info": {"commit_id": "c0ffee"}}, "studio 1.0 c0ffee"),
        ({"url": "file:///x", "dir_info": {}}, None),
        ({"url": "file:///x", "dir_info": {"editable": True}}, None),
    ],
)
def test_of_an_installed_package_its_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record: dict[str, Any] | None,
    expected: str | None,
) -> None:
    """None: its source, since a folder may be installed again under one version."""
    site = tmp_path / "site-packages"
    info = site / "studio-1.0.dist-info"
    (site / "studio").mkdir(parents=True)
    info.mkdir()
    (site / "studio" / "__init__.py").write_text("")
    (site / "studio" / "plugin.py").write_text(_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: studio\nVersion: 1.0\n")
    if record is not None:
        (info / "direct_url.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(str(site))
    code._record.cache_clear()
    try:
        before = _of()
        assert (before == expected) == (expected is not None)
        with (site / "studio" / "plugin.py").open("a") as file:
            file.write("\nEDITED = True\n")
        assert (_of() == before) == (expected is not None)
    finally:
        code._record.cache_clear()
        for name in [n for n in sys.modules if n.partition(".")[0] == "studio"]:
            del sys.modules[name]


@dataclass(frozen=True, kw_only=True)
class Weighed(toy.Channel):
    """Counts how often it is asked for its fingerprint."""

    name: ClassVar[str] = "weighed"
    asked: ClassVar[list[int]] = []

    def fingerprint(self) -> str:
        self.asked.append(self.index)
        return "weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toy")


def _registry() -> Registry:
    mine = Entry(kind="scorers", cls=Weighed, package="zoo", package_version="1")
    return Registry([*toy.registry().entries(), mine])


def test_a_plan_asks_each_plugin_for_its_fingerprint_once(folder: Path) -> None:
    recipe = toy.recipe(
        folder,
        methods=[f"balanced[beta={i}]" for i in range(1, 30)],
        seeds=[0, 1],
        scorers=["weighed", "weighed[index=1]"],
        label_scorers=["weighed[index=2]", "channel"],
    )
    Weighed.asked.clear()
    planning.make(recipe, _registry())
    assert sorted(Weighed.asked) == [0, 1, 2]


def test_code_is_in_keys_but_not_in_what_results_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has edited a remark elsewhere in a module has not made another method of it."""
    recipe = toy.recipe(folder, scorers=["weighed"])
    before = planning.make(recipe, _registry())
    of = code.of
    monkeypatch.setattr(
        code, "of", lambda cls, *rest: "edited" if cls is Weighed else of(cls, *rest)
    )
    after = planning.make(recipe, _registry())
    assert after.described == before.described
    changed = {s.name for s in after.stages} - {"score"}
    assert {s.key for s in after.stages if s.name in changed} == {
        s.key for s in before.stages if s.name in changed
    }
    assert not {s.key for s in after.stages if s.name == "score"} & {s.key for s in before.stages}


def test_variants_stand_in_the_order_of_their_numbers(folder: Path) -> None:
    methods = [f"dpo[beta={beta}]" for beta in ("2000", "5000", "500", "1e-05", "0.5")]
    cells = planning.make(toy.recipe(folder, methods=methods), toy.registry()).cells
    assert [cell.method for cell in cells] == [
        "base",
        "dpo[beta=1e-05]",
        "dpo[beta=0.5]",
        "dpo[beta=500]",
        "dpo[beta=2000]",
        "dpo[beta=5000]",
    ]
