"""What a ``_target_`` takes: the arguments of a class or function, and whether a plain value fits an annotation."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Literal, Union, get_args, get_origin

_SEQUENCES = {list, tuple, set, frozenset, Sequence, MutableSequence, Collection, Iterable}
_MAPPINGS = {dict, Mapping, MutableMapping}
_UNIONS = {Union, types.UnionType}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Arguments:
    """The arguments by name with their types, ``Any`` where there is none; ``open`` where others are taken too."""

    name: str
    hints: Mapping[str, Any]
    optional: frozenset[str]
    open: bool

    def accepts(self, key: str, value: Any) -> bool:
        """Can ``key`` be this plain value, as far as numbers, texts, lists and mappings can show?"""
        return (value is None and key in self.optional) or fits(value, self.hints[key])

    def expected(self, key: str) -> str:
        """The type of ``key`` in words, for an error."""
        return words(self.hints[key])


@cache
def arguments(target: str) -> Arguments:
    """The arguments behind a ``_target_``, whose module is imported.

    Raises:
        LookupError: no such module is installed, or it defines no such name.
    """
    found = find(target)
    name = target.rpartition(".")[2]
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # compiled: it has none to show
        return Arguments(name, {}, frozenset(), open=True)
    function = inspect.unwrap(inspect.getattr_static(found, "__init__") if isinstance(found, type) else found)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Arguments(
        name,
        {p.name: _hint(p.annotation, getattr(function, "__globals__", {})) for p in named},
        frozenset(p.name for p in named if p.default is None),
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def find(target: str) -> Any:
    """The object at a full path.

    Raises:
        LookupError: no such module is installed, or it defines no such name.
    """
    parts = target.split(".")
    if len(parts) < 2:
        raise LookupError(f"'{target}' is no full path: expected package.module.Name")
    if find_spec(parts[0]) is None:
        raise LookupError(f"the package '{parts[0]}' is not installed")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):  # a package that this module needs
                raise LookupError(f"{module} needs '{error.name}', which is not installed") from None
            continue
        except Exception as error:  # the module's own, whatever it is
            raise LookupError(f"importing {module} fails with {type(error).__name__}: {error}") from error
        for position, name in enumerate(parts[end:], end):
            if not hasattr(found, name):
                raise LookupError(f"module '{'.'.join(parts[:position])}' has no '{name}'")
            found = getattr(found, name)
        return found
    raise LookupError(f"there is no module '{'.'.join(parts[:-1])}'")


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, names)["it"]
    except NameError:  # imported for type checkers only
        return Any


def fits(value: Any, hint: Any) -> bool:
    """Is a plain value of this type, or may it become one when parts are built?"""
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in _UNIONS:
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (bool, str, types.NoneType):
        return isinstance(value, origin)
    if origin is tuple and inner and inner[-1] is not ...:
        return isinstance(value, list) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin in _SEQUENCES:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value if inner)
    if origin in _MAPPINGS:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values() if inner)
    scalar = isinstance(value, int | float | str | bool | None)
    return not (scalar and isinstance(origin, type) and origin is not object and not _takes_text(origin))


def _takes_text(kind: type) -> bool:
    """Types of the standard library (paths, dates) that their owner makes of a text."""
    return kind.__module__.partition(".")[0] not in ("diffusion", "torch")


def words(hint: Any) -> str:
    """A type in words, for an error."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in _UNIONS:
        return " or ".join(words(one) for one in inner)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in _WORDS:
        return f"{_WORDS[origin]} ({origin.__name__})"
    if origin is types.NoneType:
        return "null"
    if origin in _SEQUENCES:
        return f"a list, each {words(inner[0])}" if inner else "a list"
    if origin in _MAPPINGS:
        return "a mapping"
    return str(getattr(origin, "__name__", origin))
