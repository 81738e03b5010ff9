"""The documentation keeps up with the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from bench.api import hookspecs
from bench.api.kinds import BASES
from bench.recipe.recipe import BLOCKS, Recipe, load
from bench.registry.registry import default_registry

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("block", ["", *BLOCKS])
def test_every_recipe_key_is_documented(block: str) -> None:
    model: type[BaseModel] = BLOCKS.get(block, Recipe)
    keys = {f"{block}.{name}" if block else name for name in model.model_fields} - BLOCKS.keys()
    documented = set(re.findall(r"^\| `([\w.]+)` \|", RECIPE, flags=re.MULTILINE))
    assert keys <= documented


def test_the_recipe_of_the_docs_loads(tmp_path: Path) -> None:
    path = tmp_path / "docs.yaml"
    path.write_text(_blocks(RECIPE, "yaml")[0], encoding="utf-8")
    assert load(default_registry(), str(path)).seeds == (0, 1, 2)


@pytest.mark.parametrize("kind", BASES)
def test_every_hook_is_documented(kind: str) -> None:
    hook = getattr(hookspecs, f"bench_{kind}")
    assert f"`bench_{kind}`" in PLUGINS
    assert inspect.getdoc(hook)


def test_the_tutorials_package_is_the_one_that_is_tested() -> None:
    package = ROOT / "tests" / "third_party"
    assert (package / "bench_brightness" / "__init__.py").read_text() in _blocks(PLUGINS, "python")
    assert (package / "pyproject.toml").read_text() in _blocks(PLUGINS, "toml")


@pytest.mark.parametrize(
    "page",
    [
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/*.md")),
        *ROOT.glob("leaderboards/*/*.md"),
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https:", "http:")):
            continue
        name, _, part = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not part or part in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """As GitHub names the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


def test_every_room_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "bench").glob("*/__init__.py")}
    assert rooms
    assert [room for room in sorted(rooms) if f"| `bench/{room}/` |" not in page] == []
