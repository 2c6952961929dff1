"""Python source read as text: where a name is defined, imports followed, without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def lookup(module: str, name: str, depth: int = 0) -> tuple[str, Definition] | None:
    """Where ``name`` (perhaps dotted), as written in ``module``, is defined; imports are followed."""
    head, _, rest = name.partition(".")
    if depth > 20 or module == "typing":  # what its names mean is in no source
        return None
    for node in statements(module):
        if isinstance(node, Definition) and node.name == head:
            return (module, node) if not rest else None
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == head for t in node.targets):
            alias = dotted(node.value)
            return lookup(module, alias + ("." + rest if rest else ""), depth + 1) if alias else None
    for source, original in imported(module, head):
        if original and (found := lookup(source, original + ("." + rest if rest else ""), depth + 1)):
            return found
        inner = f"{source}.{original}" if original else source
        if rest and module_file(inner) and (found := lookup(inner, rest, depth + 1)):
            return found
    if rest and module_file(f"{module}.{head}"):
        return lookup(f"{module}.{head}", rest, depth + 1)
    return None


def imported(module: str, name: str) -> Iterator[tuple[str, str]]:
    """(module, name in it) that ``name`` may have been imported from; name "" is the module itself."""
    for node in statements(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) == name:
                    yield (alias.name if alias.asname else name), ""
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            for alias in node.names:
                if alias.name == "*" or (alias.asname or alias.name) == name:
                    yield source, (name if alias.name == "*" else alias.name)


def full_name(module: str, name: str) -> str:
    head, _, rest = name.partition(".")
    for source, original in imported(module, head):
        return ".".join(part for part in (source, original, rest) if part)
    return name


def own(module: str, name: str) -> tuple[str, Definition] | None:
    """What a name stands for where it is of the module's own package: others are parts of no config of its."""
    sources = [source for source, _ in imported(module, name.partition(".")[0])]
    return lookup(module, name) if not sources or _package(module) in map(_package, sources) else None


def vast(module: str) -> bool:
    """Is the module of a package of which constructors are read and nothing further, since it takes half a second?"""
    return _package(module) in ("torch", "pytorch_lightning", "lightning_fabric")


def _package(path: str) -> str:
    return path.partition(".")[0]


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    path = module_file(module)
    package = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join(package + ([node.module] if node.module else []))


def dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else None
    return node.id if isinstance(node, ast.Name) else None


@cache
def installed(package: str) -> tuple[tuple[str, ...], str | None] | None:
    try:
        spec = find_spec(package)  # of a top-level name: nothing is imported
    except (ImportError, ValueError):
        return None
    return None if spec is None else (tuple(spec.submodule_search_locations or ()), spec.origin)


@cache
def module_file(module: str) -> Path | None:
    head, *rest = module.split(".")
    top = installed(head)
    if top is None:
        return None
    folders, origin = top
    if not rest:
        return Path(origin) if origin and origin not in ("built-in", "frozen") else None
    for folder in folders:
        path = Path(folder).joinpath(*rest)
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
    return None


@cache
def statements(module: str) -> tuple[ast.stmt, ...]:
    path = module_file(module)
    if path is None or path.suffix != ".py":
        return ()
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError):
        return ()
    return tuple(_flat(body))


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _flat(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _flat(node.body + node.orelse + [n for h in node.handlers for n in h.body])


def readable(module: str) -> bool:
    return bool(statements(module))


def dynamic(module: str) -> bool:
    return any(isinstance(n, Function) and n.name == "__getattr__" for n in statements(module))
