"""What a constructor refuses, found without importing it.

Constructors open with sentences like ``if not 0 <= eta <= 1: raise ValueError(...)``, which need the arguments and
nothing else. Their source is read, and such statements are run, in order, on the config's plain values: those of the
class, of what it hands to ``super().__init__``, and of the functions that it calls for nothing but a check. What needs
more than that (torch, a built part, a name that cannot be followed) is skipped, and met when the part is built.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from diffusion.experiment.config.source import Definition, Function, lookup, module_file, own, statements, vast

_SAFE: tuple[Any, ...] = (ValueError, abs, all, any, bool, dict, enumerate, float, frozenset, int, isinstance, len)
_SAFE += (list, max, min, range, repr, reversed, round, set, sorted, str, sum, tuple, type, zip)
_NAMES = {"__builtins__": {known.__name__: known for known in _SAFE}, "math": math}


def refusal(target: str, values: Mapping[str, Any]) -> str | None:
    """The sentence with which what ``target`` names refuses ``values``, ``None`` where none is found.

    values: its node of the config as plain containers; parts that are built from it are not known yet, and stay out.
    """
    key = (target, repr(values))  # the cells of a sweep ask the same of most parts
    if key not in _SAID:
        _SAID[key] = _first(target, values)
    return _SAID[key]


_SAID: dict[tuple[str, str], str | None] = {}


def _first(target: str, values: Mapping[str, Any]) -> str | None:
    parts = target.split(".")
    ends = [end for end in range(len(parts) - 1, 0, -1) if module_file(".".join(parts[:end])) is not None]
    if not ends or parts[0] == "pytorch_lightning":  # long files that refuse nothing in this way
        return None
    found = lookup(".".join(parts[: ends[0]]), ".".join(parts[ends[0] :]))
    if found is None:
        return None
    try:
        _follow(*found, {k: v for k, v in values.items() if not _builds(v)}, set(values))
    except ValueError as error:
        return str(error)
    return None


def _follow(module: str, node: Definition, given: Mapping[str, Any], named: set[str]) -> None:
    """Runs what can be run of a function or constructor; ``named`` are the arguments that it gets, known or not.

    Raises:
        ValueError: its own.
    """
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
        bases = _bases(module, node)
        if init is None:
            for base in bases:
                _follow(*base, given, named)
            return
    else:
        init, bases = node, []
    known = {**_constants(module), **{k: v for k, v in _defaults(init).items() if k not in named}, **given}
    itself = known["self"] = SimpleNamespace(**_attributes(module, node))
    for line in init.body:
        call = line.value if isinstance(line, ast.Expr | ast.Assign) else None
        if isinstance(call, ast.Call):
            name = ast.unparse(call.func)
            found = None if vast(module) else own(module, name)
            for called in bases if name == "super().__init__" else filter(None, [found]):
                _follow(*called, *_handed_on(called[1], call, known))
        if not (_plain(line) and _ran(line, known)):
            for bound in ast.walk(line):  # to something that was not found out
                if isinstance(bound, ast.Name | ast.Attribute) and isinstance(bound.ctx, ast.Store):
                    known.pop(getattr(bound, "id", ""), None)
                    vars(itself).pop(getattr(bound, "attr", ""), None)


def _bases(module: str, node: ast.ClassDef) -> list[tuple[str, Definition]]:
    names = [ast.unparse(base).partition("[")[0] for base in node.bases]
    return [found for name in names if (found := own(module, name)) is not None]


def _plain(line: ast.stmt) -> bool:
    """Does a statement only refuse, or name a value?"""
    if isinstance(line, ast.If | ast.For):
        return all(map(_plain, line.body + line.orelse))
    return isinstance(line, ast.Raise | ast.Assign)


def _ran(line: ast.stmt, known: dict[str, Any]) -> bool:
    module = ast.fix_missing_locations(ast.Module([line], []))
    try:
        exec(compile(module, "<constructor>", "exec"), dict(_NAMES), known)
    except ValueError:
        raise
    except Exception:
        return False
    return True


def _handed_on(called: Definition, call: ast.Call, known: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The values that a call gives, as far as they are known, and the names of all that it gives."""
    if isinstance(called, ast.ClassDef):
        inits = [n for n in called.body if isinstance(n, Function) and n.name == "__init__"]
        names = [a.arg for init in inits for a in (init.args.posonlyargs + init.args.args)[1:]]
    else:
        names = [a.arg for a in called.args.posonlyargs + called.args.args]
    handed = dict(zip(names, call.args, strict=False)) | {k.arg: k.value for k in call.keywords if k.arg is not None}
    told: dict[str, Any] = {}
    for name, node in handed.items():
        here = dict(known)
        if _ran(ast.Assign([ast.Name("_", ast.Store())], node), here):
            told[name] = here["_"]
    return told, set(handed)


def _builds(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_builds, value.values()))
    return isinstance(value, list) and any(map(_builds, value))


@cache
def _constants(module: str) -> dict[str, Any]:
    """The module's own literals: ``KINDS = ("small", "large")``; any error of the project stands for a refusal."""
    imported = [a.asname or a.name for n in statements(module) if isinstance(n, ast.ImportFrom) for a in n.names]
    return {name: ValueError for name in imported if name.endswith("Error")} | _literals(statements(module))


def _attributes(module: str, node: Definition) -> dict[str, Any]:
    """The literals among a class's attributes, inherited ones too."""
    if not isinstance(node, ast.ClassDef):
        return {}
    inherited = {k: v for base in reversed(_bases(module, node)) for k, v in _attributes(*base).items()}
    return inherited | _literals(node.body)


def _literals(body: Sequence[ast.stmt]) -> dict[str, Any]:
    pairs = [(n.targets[0], n.value) for n in body if isinstance(n, ast.Assign)]
    pairs += [(n.target, n.value) for n in body if isinstance(n, ast.AnnAssign) and n.value is not None]
    return {k: v for target, node in pairs if isinstance(target, ast.Name) for k, v in _literal(target.id, node)}


def _defaults(init: Function) -> dict[str, Any]:
    given = init.args
    positional = given.posonlyargs + given.args
    pairs = list(zip(positional[len(positional) - len(given.defaults) :], given.defaults, strict=True))
    pairs += [(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True) if d is not None]
    return {k: v for a, node in pairs for k, v in _literal(a.arg, node)}


def _literal(name: str, node: ast.expr) -> list[tuple[str, Any]]:
    try:
        return [(name, ast.literal_eval(node))]
    except ValueError:
        return []
