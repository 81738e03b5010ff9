"""Every YAML file of this folder as a preset: its name is the recipe's, its first line says what.

docs/recipes.md compares them; where each number comes from stands beside it in the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench import RecipePreset, hookimpl

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class YamlRecipe(RecipePreset):
    """A recipe in a file of this package."""

    file: ClassVar[Path]

    def text(self) -> str:
        """The file."""
        return self.file.read_text(encoding="utf-8")


def _preset(file: Path) -> type[RecipePreset]:
    with file.open(encoding="utf-8") as lines:
        summary = lines.readline().removeprefix("#").strip()
    body = {"name": file.stem, "file": file, "__doc__": summary, "__module__": __name__}
    return type(f"Recipe_{file.stem}", (YamlRecipe,), body)


@hookimpl
def bench_recipes() -> Sequence[type[RecipePreset]]:
    """The files beside this one."""
    return [_preset(file) for file in sorted(FOLDER.glob("*.yaml"))]
