"""What code each kind of stage runs through, as a digest: `python -m tests.core.stage_code`.

The command accepts the code as it is. Run it after a change that alters no byte of what the stage
writes; after one that does, raise the stage's `version` first.

Followed are definitions, not files: from the roots below through every function, class and
constant of `bench` that they name. What is asked of an object whose class is not named there
(`policy.encode`) is a root of its own.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.registry.source_code import absolute, executed, normal

REPOSITORY = Path(__file__).parents[2]
ACCEPTED = Path(__file__).with_suffix(".json")
COMMAND = "python -m tests.core.stage_code"

_SCORING = (
    "bench.scoring.chunks",
    "bench.stages.context:Context.scorer",
    "bench.lib.images",
    "bench.scoring.isolation.same_python",
)
_MODEL = (
    "bench.diffusion.stable_diffusion",
    "bench.diffusion.pipeline",
    "bench.api.schedule",
)
_PAIRS = "bench.preferences.pair_table:read"
_UNTOUCHED = "bench.stages.context:Context.untouched"
ROOTS: Mapping[str, tuple[str, ...]] = {
    "pairs": ("bench.stages.pairs", "bench.preferences.generating"),
    "inspect": (
        "bench.stages.inspect",
        "bench.preferences.inspecting",
        "bench.lib.images",
        # What preference sets are read with: core, so no part of their own code in the key.
        "bench.lib.tables",
    ),
    "encode": ("bench.stages.encode", _PAIRS, _UNTOUCHED, *_MODEL),
    "rewards": ("bench.stages.rewards", _PAIRS, *_SCORING),
    "train": (
        "bench.stages.train",
        _PAIRS,
        _UNTOUCHED,
        "bench.api.pair_method:PairMethod",
        "bench.training.loop",
        "bench.training.optimizers",
        "bench.training.weights",
        "bench.api.noising",
        "bench.diffusion.inversion",
        *_MODEL,
    ),
    "sample": (
        "bench.stages.sample",
        "bench.stages.context:Context.policy",
        "bench.diffusion.sampling",
        "bench.diffusion.checkpoints",
        *_MODEL,
    ),
    "describe": ("bench.stages.describe", "bench.scoring.image_facts", "bench.lib.images"),
    "score": ("bench.stages.score", *_SCORING),
}
"""Stage -> a module (all of it), a definition of it, or a method of a class."""
APART = frozenset(
    {
        "bench.lib.distributed",
        "bench.lib.errors",
        "bench.lib.hub",
        "bench.lib.interrupts",
        "bench.lib.io_errors",
        "bench.scoring.isolation.environments",
        "bench.running.launch",
        "bench.leaderboard.results",
        "bench.lib.cost_meter",
        "bench.registry.plugin_classes",
        "bench.lib.progress",
        "bench.api.kinds",
        "bench.recipe.recipe",
        "bench.registry.registry",
        "bench.lib.checksums",
        "bench.stages.stage",
        "bench.store.store",
        "bench.cli.output",
    }
)
"""Modules that declare, say, keep and pass on, but compute none of a stage's bytes."""


@cache
def digests(repository: Path = REPOSITORY) -> dict[str, str]:
    """The digest of every kind of stage: 16 hex digits."""
    return {stage: _digest(repository, roots) for stage, roots in ROOTS.items()}


def problems(
    accepted: Mapping[str, Any], versions: Mapping[str, int], found: Mapping[str, str]
) -> list[str]:
    """What is to be done about stages whose code is not the accepted one, in words."""
    said = []
    for stage, version in versions.items():
        was = accepted.get(stage)
        if was == {"version": version, "code": found[stage]}:
            continue
        if was is None or was["version"] != version:
            said.append(f"{stage}: its version has changed; accept it: {COMMAND}")
        else:
            said.append(
                f"{stage}: its code has changed; if that changes bytes that it writes, raise "
                f"`version` in bench/stages/{stage}.py; then accept it: {COMMAND}"
            )
    return said


def _digest(repository: Path, roots: tuple[str, ...]) -> str:
    found: dict[tuple[str, str], str] = {}
    todo = [place for root in roots for place in _places(repository, root)]
    while todo:
        place = todo.pop()
        module, name = place
        if place in found or module in APART:
            continue
        parsed = _module(repository, module)
        node = parsed and parsed.definition(name)
        if parsed is None or node is None:
            continue
        found[place] = hashlib.sha256(repr(normal(node)).encode()).hexdigest()
        # A stage names the stages that it reads from; what these run is in their own digests.
        todo += [place for place in parsed.named_in(node, name) if not _is_stage(*place)]
    text = repr(sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_stage(module: str, name: str) -> bool:
    return module.startswith("bench.stages.") and name.partition(".")[0].endswith("Stage")


def _places(repository: Path, root: str) -> list[tuple[str, str]]:
    module, _, name = root.partition(":")
    parsed = _module(repository, module)
    assert parsed is not None, f"{root}: there is no such module"
    if not name:
        return [(module, each) for each in parsed.definitions]
    assert parsed.definition(name) is not None, f"{root}: there is no such definition"
    return [(module, name)]


class _Module:
    """The definitions of a module and what its names stand for."""

    def __init__(self, repository: Path, name: str, path: Path) -> None:
        self.repository, self.name = repository, name
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.tree = ast.parse(path.read_bytes())
        self.definitions: dict[str, ast.AST] = {}
        for node in self.tree.body:
            for defined in _defines(node):
                self.definitions[defined] = node
        self.imports = dict(self._imports(self.tree))

    def definition(self, name: str) -> ast.AST | None:
        """A function, class, constant, or `Class.method`."""
        owner, _, method = name.partition(".")
        node = self.definitions.get(owner)
        if not method or not isinstance(node, ast.ClassDef):
            return node
        return next((m for m in node.body if method in _defines(m)), None)

    def _imports(self, tree: ast.AST) -> Iterator[tuple[str, tuple[str, str]]]:
        """Local name -> (module, its definition; "": the module itself)."""
        for node in executed(tree):
            if isinstance(node, ast.ImportFrom):
                base = absolute(node, self.package)
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    is_module = _path(self.repository, whole) is not None
                    place = (whole, "") if is_module else (base, alias.name)
                    yield alias.asname or alias.name, place
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.asname or alias.name.partition(".")[0], (alias.name, "")

    def named_in(self, node: ast.AST, within: str) -> Iterator[tuple[str, str]]:
        """The definitions that a definition names."""
        for part in executed(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                owner = part.value.id
                if owner == "self" and "." in within:
                    yield self.name, f"{within.partition('.')[0]}.{part.attr}"
                elif self.imports.get(owner, ("", "-"))[1] == "":
                    yield self.imports[owner][0], part.attr
            elif isinstance(part, ast.Name):
                if part.id in self.definitions:
                    yield self.name, part.id
                elif part.id in self.imports and self.imports[part.id][1]:
                    yield self.imports[part.id]


def _defines(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))


def _path(repository: Path, module: str) -> Path | None:
    base = repository.joinpath(*module.split("."))
    paths = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in paths if module.startswith("bench") and path.is_file()), None)


@cache
def _module(repository: Path, name: str) -> _Module | None:
    path = _path(repository, name)
    return _Module(repository, name, path) if path else None


def versions() -> dict[str, int]:
    """The number of each kind of stage."""
    from bench.running.planning import STAGES

    return {name: stage.version for name, stage in STAGES.items()}


def main() -> None:
    """Accept the code as it is."""
    found = digests()
    data = {s: {"version": version, "code": found[s]} for s, version in versions().items()}
    ACCEPTED.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"accepted: {', '.join(data)}")


if __name__ == "__main__":
    main()
