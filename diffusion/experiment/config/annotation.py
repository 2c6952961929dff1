"""What an annotation accepts, read from its source: numbers, texts, lists, mappings, choices, parts of the project."""

from __future__ import annotations

import ast
from typing import Any

from diffusion.experiment.config.source import dotted, full_name, imported, module_file, own, statements, vast

_SEQUENCES = {"list", "List", "Sequence", "Iterable", "Collection", "MutableSequence", "set", "frozenset", "ListConfig"}
_MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping", "DictConfig"}
_SCALARS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "None": "null"}


def fits(value: Any, node: ast.expr, module: str) -> bool:
    if isinstance(value, dict) and "_target_" in value:
        return True  # built later; its own arguments are checked where it stands
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return fits(value, ast.parse(node.value, mode="eval").body, module)
        return value is None if node.value is None else True
    if isinstance(node, ast.BinOp):
        return fits(value, node.left, module) or fits(value, node.right, module)
    name = (dotted(node) or "").rpartition(".")[2]
    if isinstance(node, ast.Subscript):
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name in ("Optional", "Union"):
            return (name == "Optional" and value is None) or any(fits(value, part, module) for part in inner)
        if name in ("Final", "Annotated", "Required", "NotRequired"):
            return fits(value, inner[0], module)
        if name == "Literal":
            return value in [part.value for part in inner if isinstance(part, ast.Constant)]
        if name in _SEQUENCES:
            return isinstance(value, list) and all(fits(item, inner[0], module) for item in value)
        if name in ("tuple", "Tuple"):
            if not isinstance(value, list):
                return False
            if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
                return all(fits(item, inner[0], module) for item in value)
            return len(value) == len(inner) and all(map(lambda v, n: fits(v, n, module), value, inner))
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
        return fits(value, *alias)
    part = own(module, name) if name and not vast(module) else None
    if full_name(module, name) == "torch.Tensor" or (part is not None and isinstance(part[1], ast.ClassDef)):
        return not isinstance(value, int | float | str | bool | None)  # one of the project's parts
    return True


def words(node: ast.expr, module: str) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return words(ast.parse(node.value, mode="eval").body, module)
    if isinstance(node, ast.BinOp):
        return f"{words(node.left, module)} or {words(node.right, module)}"
    text = ast.unparse(node)
    if text in _SCALARS:
        return f"{_SCALARS[text]} ({text})" if text != "None" else "null"
    if isinstance(node, ast.Subscript):
        name = (dotted(node) or "").rpartition(".")[2]
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if name == "Literal":
            return "one of " + ", ".join(str(part.value) for part in inner if isinstance(part, ast.Constant))
        if name == "Optional":
            return f"{words(inner[0], module)} or null"
        if name in _SEQUENCES:
            return f"a list, each {words(inner[0], module)}"
    alias = _alias(module, text)
    return text if alias is None else words(*alias)


def _alias(module: str, name: str) -> tuple[ast.expr, str] | None:
    """The annotation that a module-level alias (``Kind: TypeAlias = Literal[...]``) stands for."""
    for node in statements(module):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == name
            and node.value
        ):
            return node.value, module
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return (node.value, module) if isinstance(node.value, ast.Subscript | ast.BinOp) else None
    for source, original in imported(module, name):
        if (
            source != module
            and original
            and module_file(source)
            and source.partition(".")[0] == module.partition(".")[0]
        ):
            return _alias(source, original)
    return None
