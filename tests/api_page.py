"""The signatures on docs/api.md, from the code: `python -m tests.api_page` writes them anew.

Each comment `<!-- api: MODULE NAME... -->` of the page is followed by the source of these names
without their bodies: signatures, docstrings and fields.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "api.md"
COMMAND = "python -m tests.api_page"
PUBLIC = ("bench", "bench.diffusion", "bench.files")
_MARK = re.compile(
    r"<!-- api: (\S+) (.+?) -->\n(?:\n```python\n# Signatures\n.*?```\n)?", re.DOTALL
)
_SHOWN = frozenset({"__init__", "__call__", "__len__"})


def shown(page: str) -> dict[str, list[str]]:
    """Public module -> the names whose signatures the page has."""
    found: dict[str, list[str]] = {module: [] for module in PUBLIC}
    for module, names in _MARK.findall(page):
        found[module] += names.split()
    return found


def examples(page: str) -> list[tuple[str, str]]:
    """The page's other code in order: ("python", a part of the package) or ("pycon", a session)."""
    blocks: list[tuple[str, str]] = re.findall(r"```(python|pycon)\n(.*?)```", page, re.DOTALL)
    return [(kind, text) for kind, text in blocks if not text.startswith("# Signatures\n")]


def written(page: str) -> str:
    """The page with all signatures as the code has them."""

    def block(mark: re.Match[str]) -> str:
        module, names = mark.groups()
        parts = [part for name in names.split() for part in _signatures(module, name)]
        body = "\n\n\n".join(dict.fromkeys(parts))
        comment = mark.group(0).partition("\n")[0]
        return f"{comment}\n\n```python\n# Signatures\n{body}\n```\n"

    return _MARK.sub(block, page)


def _signatures(module: str, name: str) -> Iterator[str]:
    home, inner = _places(module)[name]
    file = _file(f"{home}.{inner}")
    if file is None:
        yield _definition(home, inner, name)
    else:
        for each in public_names(f"{home}.{inner}"):
            yield _definition(f"{home}.{inner}", each, each)


@cache
def _places(module: str) -> dict[str, tuple[str, str]]:
    """Public name -> the module that defines it, and its name there."""
    nodes = [n for n in ast.walk(_tree(module)) if isinstance(n, ast.ImportFrom) and n.module]
    return {a.asname or a.name: (str(n.module), a.name) for n in nodes for a in n.names}


def public_names(module: str) -> list[str]:
    """`__all__` of a module, as text: nothing is imported."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError(module)


def _file(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    paths = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in paths if path.is_file()), None)


@cache
def _source(module: str) -> tuple[str, ...]:
    file = _file(module)
    assert file is not None, module
    return tuple(file.read_text(encoding="utf-8").split("\n"))


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse("\n".join(_source(module)))


def _definition(module: str, name: str, public: str) -> str:
    body = _tree(module).body
    for position, node in enumerate(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            text = "\n".join(_stub(module, node))
            return re.sub(rf"\b(def|class) {name}\b", rf"\1 {public}", text, count=1)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            return "\n".join(_with_note(module, body, position))
    raise LookupError(f"{module}.{name}")


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _stub(module: str, node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """A definition without what it does."""
    first, note = node.body[0], ast.get_docstring(node) is not None
    start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    yield from _lines(module, start, first.lineno - 1)
    if note:
        yield from _lines(module, first.lineno, first.end_lineno or 0)
    members = list(_members(module, node)) if isinstance(node, ast.ClassDef) else []
    yield from members
    if not note and not members:
        yield " " * first.col_offset + "..."


def _inherited(module: str, node: ast.ClassDef) -> set[str]:
    """Methods that base classes of the project have."""
    found: set[str] = set()
    for name in (base.id for base in node.bases if isinstance(base, ast.Name)):
        home, inner = _places(module).get(name, (module, name))
        classes = _tree(home).body if _file(home) else []
        for base in (c for c in classes if isinstance(c, ast.ClassDef) and c.name == inner):
            found |= {member.name for member in base.body if isinstance(member, ast.FunctionDef)}
            found |= _inherited(home, base)
    return found


def _members(module: str, node: ast.ClassDef) -> Iterator[str]:
    """Public fields with what is said below them, and new methods behind an empty line each."""
    before: ast.stmt | None = None
    inherited = _inherited(module, node)
    for position, member in enumerate(node.body):
        if isinstance(member, ast.FunctionDef):
            setter = any(isinstance(d, ast.Attribute) for d in member.decorator_list)
            new = not (setter or member.name in inherited or member.name.startswith("_"))
            if new or member.name in _SHOWN:
                yield ""
                yield from _stub(module, member)
        elif isinstance(member, ast.Assign | ast.AnnAssign):
            if any(name.startswith("_") for name in _targets(member)):
                continue
            if not isinstance(before, ast.Assign | ast.AnnAssign):
                yield ""
            yield from _with_note(module, node.body, position)
        else:
            continue
        before = member


def _with_note(module: str, body: list[ast.stmt], position: int) -> Iterator[str]:
    node = body[position]
    yield from _lines(module, node.lineno, node.end_lineno or 0)
    follows = body[position + 1] if position + 1 < len(body) else None
    if isinstance(follows, ast.Expr) and isinstance(follows.value, ast.Constant):
        yield from _lines(module, follows.lineno, follows.end_lineno or 0)


def _lines(module: str, first: int, last: int) -> Iterator[str]:
    yield from _source(module)[first - 1 : last]


def main() -> None:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
