"""The code of a plugin as data for artefact keys: edits count, comments and docstrings do not.

Modules are found and read as text: nothing is imported for it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

_CORE = "bench"
"""Its code is guarded by the `version` of each stage: see `bench.stages.stage`."""
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def of(cls: type, package: str, version: str) -> str:
    """What changes when the class's code does.

    The source of its module and of what that imports, where files may be edited under one
    version: a package installed editable or from a folder, or modules outside any installation.
    Else the package's version, with the commit or the archive that it was installed from.

    Args:
        cls: a plugin's class.
        package: the distribution that it comes from, or any name where there is none.
        version: the distribution's version.
    """
    return _source(cls) if _editable(cls, package) else f"{package} {version}{_origin(package)}"


def _editable(cls: type, package: str) -> bool:
    file = _file_of(cls.__module__)
    outside = file is not None and not _INSTALLED.intersection(file.parts)
    record = _record(package)
    return outside or record is None or "dir_info" in record


@cache
def _record(package: str) -> dict[str, Any] | None:
    """PEP 610: where a distribution was installed from ({}: an index); None: it is not one."""
    try:
        text = distribution(package).read_text("direct_url.json")
        return dict(json.loads(text)) if text else {}
    except (PackageNotFoundError, ValueError, TypeError):
        return None


def _origin(package: str) -> str:
    record = _record(package) or {}
    commit = record.get("vcs_info", {}).get("commit_id")
    archive = record.get("archive_info", {}).get("hash")
    return f" {commit or archive}" if commit or archive else ""


def _source(cls: type) -> str:
    """A hash of the modules of the class and its bases, and of all that these import."""
    names = dict.fromkeys(c.__module__ for c in cls.__mro__)
    modules: dict[str, Path] = {}
    for name in names:
        if _top(name) not in (_CORE, "builtins") and name not in modules:
            modules |= _closure(name)
    return digest(modules)


def digest(modules: dict[str, Path]) -> str:
    """A hash of modules' code, 20 hex digits."""
    listed = sorted((name, _digest_of(path, _stamp(path))) for name, path in modules.items())
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:20]


def _closure(name: str) -> dict[str, Path]:
    """A module, the packages that it lies in, and what they import from where it comes from."""
    start = _file_of(name)
    if start is None:
        return {}
    roots = _roots(name, start)
    tops = {_top(name)} if _INSTALLED.intersection(start.parts) else None
    modules, todo = {name: start}, [name, *_parents(name)]
    elsewhere = {_CORE}
    while todo:
        module = todo.pop()
        top = _top(module)
        if top in elsewhere or (tops and top not in tops):
            continue
        path = modules.get(module) or _find(module, roots)
        if path is None:
            if not any((root / top).is_dir() for root in roots):
                elsewhere.add(top)
            continue
        modules[module] = path
        wanted = _imports(path, _stamp(path), module)
        todo += [n for name in wanted for n in (name, *_parents(name)) if n not in modules]
    return modules


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).absolute() if file and Path(file).is_file() else None


def _roots(name: str, start: Path) -> tuple[Path, ...]:
    """The folders in which the module's top-level package, or the module itself, lies."""
    top = _top(name)
    paths = [Path(path).absolute() for path in getattr(sys.modules.get(top), "__path__", ())]
    return tuple(p.parent for p in paths if p.name == top) or (start.parent,)


def _find(name: str, roots: Iterable[Path]) -> Path | None:
    for root in roots:
        base = root.joinpath(*name.split("."))
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return path
    return None


def _top(name: str) -> str:
    return name.partition(".")[0]


def _parents(name: str) -> Iterator[str]:
    """Importing a.b.c runs a and a.b too."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@cache
def _digest_of(path: Path, stamp: tuple[int, int]) -> str:
    tree = parse(path, stamp)
    data = path.read_bytes() if tree is None else repr(normal(tree)).encode()
    return hashlib.sha256(data).hexdigest()


@cache
def parse(path: Path, stamp: tuple[int, int]) -> ast.Module | None:
    """The module's syntax; None if it is not readable as Python of this version."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


def normal(node: object) -> object:
    """Syntax as plain data, the same for every version of Python, without docstrings."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields if name != "kind")
        return type(node).__name__, [
            (name, normal(value)) for name, value in fields if value is not None and value != []
        ]
    if isinstance(node, list):
        return [normal(item) for item in node if not _is_text(item)]
    return node


def _is_text(node: object) -> bool:
    """Whether a statement is but text: a docstring of whatever."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _imports(path: Path, stamp: tuple[int, int], module: str) -> tuple[str, ...]:
    tree = parse(path, stamp)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: dict[str, None] = {}
    for node in () if tree is None else executed(tree):
        names |= dict.fromkeys(_imported(node, package))
    return tuple(names)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below but those that only type checkers see."""
    yield node
    if isinstance(node, ast.If) and _word(node.test) == "TYPE_CHECKING":
        below: Iterable[ast.AST] = node.orelse
    else:
        below = ast.iter_child_nodes(node)
    for child in below:
        yield from executed(child)


def _word(node: ast.AST) -> str:
    """`x` of `x` and of `module.x`."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Names of modules that a statement may import, those that are none included."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = absolute(node, package)
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _word(node.func) == "import_module":
        # Modules that are named in the code; names put together at run time are not seen.
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            level = len(first.value) - len(first.value.lstrip("."))
            name = first.value.lstrip(".")
            yield f"{_above(package, level)}.{name}" if level else name


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that `from ... import` names, seen from within `package`."""
    if not node.level:
        return node.module or ""
    base = _above(package, node.level)
    return f"{base}.{node.module}" if node.module else base


def _above(package: str, level: int) -> str:
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1])
