"""The public API: what is in it, that the project's own plugins use nothing else, its page."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

from bench.api.kinds import BASES
from bench.registry.registry import Registry
from tests import api_page
from tests.api_page import PUBLIC, REPOSITORY, public_names
from tests.tiny import save_tiny_pipeline

PAGE = api_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there_and_on_the_page(module: str) -> None:
    names = public_names(module)
    assert all(hasattr(import_module(module), name) for name in names)
    assert sorted(names) == sorted(set(names))
    assert sorted(api_page.shown(PAGE)[module]) == sorted(names)
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = import_module(module).nothing


def test_importing_it_is_quick() -> None:
    code = f"import sys, {', '.join(PUBLIC)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    heavy = {"torch", "diffusers", "transformers", "numpy", "pandas", "pyarrow", "PIL", "pydantic"}
    assert not heavy & set(done.stdout.split())


# Who uses it.


def _private(tree: ast.AST) -> Iterator[str]:
    """What code asks of `bench` that is not public."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "bench" and alias.name not in PUBLIC:
                    yield alias.name
                elif alias.name in PUBLIC and (alias.asname or alias.name == "bench"):
                    modules[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bench":
            for alias in node.names:
                if node.module not in PUBLIC or alias.name not in public_names(node.module):
                    yield f"{node.module}.{alias.name}"
                elif _is_module(node.module, alias.name):
                    modules[alias.asname or alias.name] = f"bench.lib.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module and node.attr not in public_names(module):
                yield f"{module}.{node.attr}"


def _is_module(module: str, name: str) -> bool:
    return isinstance(getattr(import_module(module), name), ModuleType)


@pytest.mark.parametrize(
    "path",
    [
        *sorted((REPOSITORY / "plugins").rglob("*.py")),
        *sorted((REPOSITORY / "tests" / "third_party").rglob("*.py")),
    ],
    ids=lambda path: "/".join(path.parts[-2:]),
)
def test_plugins_use_public_names_alone(path: Path) -> None:
    assert not set(_private(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "path",
    [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))],
    ids=lambda path: path.name,
)
def test_the_docs_use_public_names_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    code = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if not block.startswith("# Signatures\n")
    ]
    assert not {name for block in code for name in _private(ast.parse(block))}
    sentences = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for name in re.findall(r"`(bench\.[a-z_]+(?:\.\w+)*)[`(]", sentences):
        assert name in PUBLIC or any(_names(name, module) for module in PUBLIC), name


def _names(dotted: str, module: str) -> bool:
    first = dotted.removeprefix(f"{module}.").split(".")[0]
    return dotted.startswith(f"{module}.") and first in public_names(module)


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import bench\nbench.option\nfrom bench.files import hub\nhub.local", set()),
        ("from bench.lib import hub", {"bench.lib.hub"}),
        ("import bench.lib.hub", {"bench.lib.hub"}),
        ("from bench.diffusion import lora", {"bench.diffusion.lora"}),
        ("import bench\nbench.lib.errors", {"bench.lib"}),
        ("from bench.files import hub\nhub._state", {"bench.lib.hub._state"}),
        ("def f():\n    from bench.api.policy import Policy", {"bench.api.policy.Policy"}),
    ],
)
def test_what_is_private_is_seen(code: str, private: set[str]) -> None:
    assert set(_private(ast.parse(code))) == private


def test_the_core_does_not_ask_its_own_public_modules() -> None:
    # `bench` reaches into every room, so a room that asked it would reach upwards unseen.
    for path in (REPOSITORY / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in PUBLIC:
                names = {alias.name for alias in node.names}
                asked = names & set(public_names(node.module))
                assert not asked, f"{path} asks {node.module} for {asked}"


def test_the_wheel_carries_the_types() -> None:
    files = WheelBuilder(str(REPOSITORY)).recurse_included_files()
    assert "bench/py.typed" in {Path(file.distribution_path).as_posix() for file in files}


# The page.


def test_the_signatures_on_the_page_are_those_of_the_code() -> None:
    assert api_page.written(PAGE) == PAGE, f"docs/api.md is behind the code: {api_page.COMMAND}"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The page's examples as an installed package, once its sessions were typed."""

    folder: Path
    kinds: frozenset[str]
    """Those of the plugins that were found."""
    tried: int
    wrong: str
    """What came out of the sessions instead of what is printed."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    folder = tmp_path_factory.mktemp("examples")
    parts = api_page.examples(PAGE)
    code = "\n\n".join(text for kind, text in parts if kind == "python")
    (folder / "bench_example.py").write_text(code, encoding="utf-8")
    installed = folder / "bench_example-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-example\nVersion: 1.0")
    (installed / "entry_points.txt").write_text("[bench]\nexample = bench_example\n")
    save_tiny_pipeline(folder / "pipeline")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        registry = Registry.discover()
        patch.setattr("bench.registry.registry.default_registry", lambda: registry)
        names: dict[str, Any] = dict(vars(import_module("bench_example")))
        sessions = "\n".join(text for kind, text in parts if kind == "pycon")
        test = doctest.DocTestParser().get_doctest(sessions, names, "api.md", "docs/api.md", 0)
        tried = doctest.DocTestRunner(verbose=False).run(test, out=said.append).attempted
    sys.modules.pop("bench_example")
    own = [entry for entry in registry.entries() if entry.package == "bench-example"]
    return Examples(
        folder=folder,
        kinds=frozenset(entry.kind for entry in own),
        tried=tried,
        wrong="".join(said),
    )


def test_there_is_an_example_of_every_kind_and_it_gives_what_is_printed(
    examples: Examples,
) -> None:
    assert examples.kinds == set(BASES)
    assert examples.tried > len(BASES)
    assert not examples.wrong, examples.wrong


def _bench(examples: Examples, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=examples.folder,
        env={**os.environ, "PYTHONPATH": str(examples.folder), "COLUMNS": "200"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_recipe_and_the_command_of_the_page_run(examples: Examples) -> None:
    assert "bench run --recipe example\n" in PAGE
    said = _bench(examples, "run", "--recipe", "example")
    assert "example_method" in said
    assert _bench(examples, "example", "contrast", "wide.png") == "wide.png: 0.500\n"
