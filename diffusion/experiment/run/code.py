"""The code that a run's parts are made of: the modules that define them, and what these import, by their content.

It counts for whether a finished result still holds, and not for a run's name: a result whose code has changed is stale
and is made anew beside the old one, unless ``code=keep``. Packages that this project depends on are left out (their
versions are in ``environment.json``), and so are commands, sweeps and reports, which compute nothing of a result.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusion.experiment.config.config_hash import below
from diffusion.files import write_atomic

FILE = "code.json"
KEEP = "keep"
"""The value of ``code`` with which a finished result counts whatever became of its code."""
SCORING = [
    "autoencoder",
    "conditioner",
    "data",
    "evaluation",
    "guidance",
    "network",
    "operator",
    "parameterization",
    "sampler",
    "schedule",
    "spacing",
    "text_encoder",
]
"""Rooms of a config that decide a score of weights that are there."""
WATCHING = ("callbacks.progress", "callbacks.pruning", "logger", "trainer", "paths")
"""What only watches a run, or is another package's."""
ABOVE = ("diffusion.experiment", "diffusion.reporting", "diffusion.testing")


def code_of(cfg: Mapping[str, Any], rooms: Iterable[str] | None = None) -> dict[str, str]:
    """{module: the first digits of its file's sha256} of what the parts of a config are made of.

    cfg: plain containers. rooms: those that count, all where ``None``.
    """
    kept = {room: node for room, node in cfg.items() if rooms is None or room in rooms}
    targets = {target for path, target in _targets(kept, "") if not below(path, WATCHING)}
    pending, found = sorted({module for target in targets if (module := _defining(target))}), dict[str, str]()
    own = frozenset(target.partition(".")[0] for target in targets)
    while pending:
        module = pending.pop()
        if module in found or below(module, ABOVE) or not _counts(module.partition(".")[0], own):
            continue
        path = _file(module)
        if path is not None:
            found[module], imported = _read(path, module)
            pending += imported
    return dict(sorted(found.items()))


def write_code(folder: Path, code: Mapping[str, str]) -> None:
    """Records it in the folder of a result."""
    write_atomic(folder / FILE, json.dumps(code, indent=2) + "\n")


def read_code(folder: Path) -> dict[str, str] | None:
    """What the result in a folder was made with, ``None`` where that is not recorded."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def changed(folder: Path, code: Mapping[str, str]) -> list[str]:
    """The modules that differ from those that the result in a folder was made with; none where that is not known."""
    before = read_code(folder)
    if before is None:
        return []
    return sorted(name for name in {*before, *code} if before.get(name) != code.get(name))


def files_of(modules: Iterable[str]) -> str:
    """Modules as the files that a user knows, relative to the working folder where they lie below it."""
    paths = [(module, _file(module)) for module in modules]
    here = Path.cwd()
    return ", ".join(
        module if path is None else str(path.relative_to(here) if path.is_relative_to(here) else path)
        for module, path in paths
    )


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == "_target_" and isinstance(value, str):
            yield path, value
        else:
            yield from _targets(value, f"{path}.{key}" if path else str(key))


def _defining(target: str) -> str | None:
    """The module whose object a ``_target_`` names."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if _file(module := ".".join(parts[:end])) is not None:
            return _origin(module, parts[end])
    return None


def _origin(module: str, name: str) -> str:
    """The module that defines ``name`` of ``module``, which may be a package that only hands it on."""
    if _file(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    path = _file(module)
    if path is not None and path.name == "__init__.py":
        for line in _tree(path).body:
            if isinstance(line, ast.ImportFrom) and any(name == (a.asname or a.name) for a in line.names):
                return _origin(_absolute(line, module, package=True), name)
    return module


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """The digits of a file and the modules that it imports, wherever in it; those for type checkers alone are not."""
    tree, imported = _tree(path), dict[str, None]()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imported |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, package=path.name == "__init__.py")
            imported |= dict.fromkeys(_origin(base, alias.name) for alias in node.names)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12], tuple(imported)


def _statements(node: Any) -> Iterator[ast.stmt]:
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for line in getattr(node, name, ()):
            if not (isinstance(line, ast.If) and "TYPE_CHECKING" in ast.unparse(line.test)):
                yield line
                yield from _statements(line)


def _absolute(node: ast.ImportFrom, module: str, *, package: bool) -> str:
    if not node.level:
        return str(node.module)
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + package]
    return ".".join([*kept, *([node.module] if node.module else [])])


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError:  # it is said where the part is built
        return ast.Module([], [])


@cache
def _file(module: str) -> Path | None:
    """The source of a module, found without importing it; ``None`` where there is none."""
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names or top in _dependencies():
        return None
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


@cache
def _counts(package: str, own: frozenset[str]) -> bool:
    """This project's, a part's, or one that lies in no ``site-packages``."""
    spec = find_spec(package)
    places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
    return package == "diffusion" or package in own or not any("site-packages" in str(place) for place in places)


@cache
def _dependencies() -> frozenset[str]:
    try:
        lines = requires("alphabar") or []
    except PackageNotFoundError:
        lines = []
    names = {re.split(r"[^\w.-]", line)[0].replace("-", "_") for line in lines}
    return frozenset(names | {"torch", "hydra", "PIL", "sklearn", "yaml"})
