"""What a class or function takes, read from its source without importing it.

A config names parts by ``_target_``; importing one to ask for its arguments would import torch. Reading the file takes
milliseconds: find the module's file, follow imports and base classes, read ``__init__`` (or a dataclass's fields).
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_NO_ARGUMENTS = {"object", "abc.ABC", "typing.Protocol", "typing.Generic", "torch.nn.Module"}
_SEQUENCES = {"list", "List", "Sequence", "Iterable", "Collection", "MutableSequence", "set", "frozenset", "ListConfig"}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping", "DictConfig"}
_SCALARS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "None": "null"}


class NoSuchPartError(LookupError):
    """A ``_target_`` names no installed module, or nothing in that module."""


@dataclass(frozen=True)
class Argument:
    """One argument: its annotation (``None`` where there is none) and default, in the module that defines it."""

    name: str
    annotation: ast.expr | None
    default: ast.expr | None
    module: str

    def accepts(self, value: Any) -> bool:
        """Can this argument be ``value``, as far as numbers, texts, lists and mappings can tell?"""
        if value is None and isinstance(self.default, ast.Constant) and self.default.value is None:
            return True
        return self.annotation is None or _fits(value, self.annotation, self.module)

    def expects(self) -> str:
        """In words, for an error."""
        return "anything" if self.annotation is None else _words(self.annotation, self.module)


@dataclass(frozen=True)
class Signature:
    """The arguments by name; ``open`` where others are taken too (``**kwargs``)."""

    arguments: dict[str, Argument] = field(default_factory=dict)
    open: bool = False


@cache
def signature(target: str) -> Signature | None:
    """The signature behind a ``_target_``, or ``None`` where its source cannot say (compiled or generated).

    Raises:
        NoSuchPartError: no such module is installed, or it defines no such name.
    """
    parts = target.split(".")
    if len(parts) < 2:
        raise NoSuchPartError(f"'{target}' is no full path: expected package.module.Name")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if _file(module) is None:
            continue
        found = _lookup(module, parts[end])
        if found is None:
            if _readable(module) and not _dynamic(module):
                raise NoSuchPartError(f"module '{module}' has no '{parts[end]}'")
            return None
        return _of(*found, parts[end + 1 :])
    if parts[0] == "builtins" and hasattr(builtins, parts[1]):
        return None
    if _installed(parts[0]):
        raise NoSuchPartError(f"'{'.'.join(parts[:-1])}' is no module of the installed package '{parts[0]}'")
    raise NoSuchPartError(f"the package '{parts[0]}' is not installed")


def _of(module: str, node: Definition, rest: list[str]) -> Signature | None:
    if isinstance(node, ast.ClassDef):
        if rest:  # a class's own constructor: package.Class.from_something
            method = next((n for n in node.body if isinstance(n, Function) and n.name == rest[0]), None)
            return (
                None if method is None else _of_function(module, method, bound=not _decorated(method, "staticmethod"))
            )
        return _of_class(module, node)
    return _of_function(module, node, bound=False)


def _of_function(module: str, node: Function, *, bound: bool) -> Signature:
    given = node.args
    positional = given.posonlyargs + given.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    pairs = list(zip(positional, defaults, strict=True))[1 if bound else 0 :]
    pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    return Signature({a.arg: Argument(a.arg, a.annotation, d, module) for a, d in pairs}, open=given.kwarg is not None)


def _of_class(module: str, node: ast.ClassDef) -> Signature | None:
    init = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
    if init is not None:
        return _of_function(module, init, bound=True)
    inherited: Signature | None = Signature()
    for base in node.bases:
        name = _dotted(base)
        if name is None:
            return None
        found = _lookup(module, name)
        if _full_name(module, name) in _NO_ARGUMENTS or name in _NO_ARGUMENTS:
            continue
        if found is None or not isinstance(found[1], ast.ClassDef):
            return None
        inherited = _of_class(*found)  # type: ignore[arg-type]
        if inherited is None or inherited.arguments or inherited.open:
            break
    if inherited is not None and _decorated(node, "dataclass"):
        fields = {
            n.target.id: Argument(n.target.id, n.annotation, n.value, module)
            for n in node.body
            if isinstance(n, ast.AnnAssign)
            and isinstance(n.target, ast.Name)
            and "ClassVar" not in ast.unparse(n.annotation)
        }
        return Signature(inherited.arguments | fields, inherited.open)
    return inherited


def _decorated(node: Definition, name: str) -> bool:
    return any((_dotted(d.func if isinstance(d, ast.Call) else d) or "").endswith(name) for d in node.decorator_list)


# Names -------------------------------------------------------------------------------------------------------------


def _lookup(module: str, name: str, depth: int = 0) -> tuple[str, Definition] | None:
    """Where ``name`` (perhaps dotted), as written in ``module``, is defined; imports are followed."""
    head, _, rest = name.partition(".")
    if depth > 20:
        return None
    for node in _statements(module):
        if isinstance(node, Definition) and node.name == head:
            return (module, node) if not rest else None
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == head for t in node.targets):
            alias = _dotted(node.value)
            return _lookup(module, alias + ("." + rest if rest else ""), depth + 1) if alias else None
    for source, original in _imported(module, head):
        if original and (found := _lookup(source, original + ("." + rest if rest else ""), depth + 1)):
            return found
        inner = f"{source}.{original}" if original else source
        if rest and _file(inner) and (found := _lookup(inner, rest, depth + 1)):
            return found
    if rest and _file(f"{module}.{head}"):
        return _lookup(f"{module}.{head}", rest, depth + 1)
    return None


def _imported(module: str, name: str) -> Iterator[tuple[str, str]]:
    """(module, name in it) that ``name`` may have been imported from; name "" is the module itself."""
    for node in _statements(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) == name:
                    yield (alias.name if alias.asname else name), ""
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            for alias in node.names:
                if alias.name == "*" or (alias.asname or alias.name) == name:
                    yield source, (name if alias.name == "*" else alias.name)


def _full_name(module: str, name: str) -> str:
    head, _, rest = name.partition(".")
    for source, original in _imported(module, head):
        return ".".join(part for part in (source, original, rest) if part)
    return name


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    path = _file(module)
    package = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join(package + ([node.module] if node.module else []))


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else None
    return node.id if isinstance(node, ast.Name) else None


# Files -------------------------------------------------------------------------------------------------------------


@cache
def _installed(package: str) -> tuple[tuple[str, ...], str | None] | None:
    try:
        spec = find_spec(package)  # of a top-level name: nothing is imported
    except (ImportError, ValueError):
        return None
    return None if spec is None else (tuple(spec.submodule_search_locations or ()), spec.origin)


@cache
def _file(module: str) -> Path | None:
    head, *rest = module.split(".")
    top = _installed(head)
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
def _statements(module: str) -> tuple[ast.stmt, ...]:
    path = _file(module)
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


def _readable(module: str) -> bool:
    return bool(_statements(module))


def _dynamic(module: str) -> bool:
    return any(isinstance(n, Function) and n.name == "__getattr__" for n in _statements(module))


# Annotations -------------------------------------------------------------------------------------------------------


def _fits(value: Any, node: ast.expr, module: str) -> bool:
    if isinstance(value, dict) and "_target_" in value:
        return True  # built later; its own arguments are checked where it stands
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _fits(value, ast.parse(node.value, mode="eval").body, module)
        return value is None if node.value is None else True
    if isinstance(node, ast.BinOp):
        return _fits(value, node.left, module) or _fits(value, node.right, module)
    name = (_dotted(node) or "").rpartition(".")[2]
    if isinstance(node, ast.Subscript):
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name in ("Optional", "Union"):
            return (name == "Optional" and value is None) or any(_fits(value, part, module) for part in inner)
        if name in ("Final", "Annotated", "Required", "NotRequired"):
            return _fits(value, inner[0], module)
        if name == "Literal":
            return value in [part.value for part in inner if isinstance(part, ast.Constant)]
        if name in _SEQUENCES:
            return isinstance(value, list) and all(_fits(item, inner[0], module) for item in value)
        if name in ("tuple", "Tuple"):
            if not isinstance(value, list):
                return False
            if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
                return all(_fits(item, inner[0], module) for item in value)
            return len(value) == len(inner) and all(map(lambda v, n: _fits(v, n, module), value, inner))
        if name in _MAPPINGS:
            return isinstance(value, dict)
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "bool":
        return isinstance(value, bool)
    if name == "str":
        return isinstance(value, str)
    if name in _SEQUENCES | {"tuple", "Tuple"}:
        return isinstance(value, list)
    if name in _MAPPINGS:
        return isinstance(value, dict)
    alias = _alias(module, name)
    if alias is not None:
        return _fits(value, *alias)
    ours = module.partition(".")[0]
    part = _lookup(module, name) if name else None
    if part is not None and isinstance(part[1], ast.ClassDef) and part[0].partition(".")[0] == ours:
        return not isinstance(value, int | float | str | bool | None)  # one of the project's parts
    return True


def _words(node: ast.expr, module: str) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _words(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left, module)} or {_words(node.right, module)}"
    text = ast.unparse(node)
    if text in _SCALARS:
        return f"{_SCALARS[text]} ({text})" if text != "None" else "null"
    if isinstance(node, ast.Subscript):
        name = (_dotted(node) or "").rpartition(".")[2]
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            return "one of " + ", ".join(str(part.value) for part in inner if isinstance(part, ast.Constant))
        if name == "Optional":
            return f"{_words(inner[0], module)} or null"
        if name in _SEQUENCES:
            return f"a list, each {_words(inner[0], module)}"
    alias = _alias(module, text)
    return text if alias is None else _words(*alias)


def _alias(module: str, name: str) -> tuple[ast.expr, str] | None:
    """The annotation that a module-level alias (``Kind: TypeAlias = Literal[...]``) stands for."""
    for node in _statements(module):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == name
            and node.value
        ):
            return node.value, module
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return (node.value, module) if isinstance(node.value, ast.Subscript | ast.BinOp) else None
    for source, original in _imported(module, name):
        if source != module and original and _file(source) and source.partition(".")[0] == module.partition(".")[0]:
            return _alias(source, original)
    return None
