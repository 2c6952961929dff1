"""What a class or function takes, read from its source without importing it.

A config names parts by ``_target_``; importing one to ask for its arguments would import torch. Reading the file takes
milliseconds: find the module's file, follow imports and base classes, read ``__init__`` (or a dataclass's fields).
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from diffusion.experiment.config.annotation import fits, words
from diffusion.experiment.config.source import (
    Definition,
    Function,
    dotted,
    dynamic,
    full_name,
    installed,
    lookup,
    module_file,
    readable,
)

_NO_ARGUMENTS = {"object", "abc.ABC", "typing.Protocol", "typing.Generic", "torch.nn.Module"}


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
        return self.annotation is None or fits(value, self.annotation, self.module)

    def expects(self) -> str:
        """In words, for an error."""
        return "anything" if self.annotation is None else words(self.annotation, self.module)


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
        if module_file(module) is None:
            continue
        found = lookup(module, parts[end])
        if found is None:
            if readable(module) and not dynamic(module):
                raise NoSuchPartError(f"module '{module}' has no '{parts[end]}'")
            return None
        return _of(*found, parts[end + 1 :])
    if parts[0] == "builtins" and hasattr(builtins, parts[1]):
        return None
    if installed(parts[0]):
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
        name = dotted(base)
        if name is None:
            return None
        if full_name(module, name) in _NO_ARGUMENTS or name in _NO_ARGUMENTS:
            continue
        found = lookup(module, name)
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
    return any((dotted(d.func if isinstance(d, ast.Call) else d) or "").endswith(name) for d in node.decorator_list)
