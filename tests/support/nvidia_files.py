"""Pickles as NVIDIA's codes write them: modules of theirs, which are not installed, with their source text."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


class Persistent:
    """A module of theirs."""

    def __init__(self, name: str, parameters: dict[str, Any], modules: dict[str, Any], **state: Any) -> None:
        self.name = name
        self.state = {
            "training": False,
            "_parameters": {key: torch.nn.Parameter(value) for key, value in parameters.items() if value is not None},
            "_buffers": {},
            "_non_persistent_buffers_set": set(),
            "_modules": modules,
            **state,
        }

    def __reduce__(self) -> Any:
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('this text was run')",
            "class_name": self.name,
            "state": self.state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def container(modules: dict[str, Any]) -> Any:
    """torch's ModuleDict of modules that are none here."""
    it = torch.nn.ModuleDict()
    it.__dict__["_modules"] = modules
    return it


def save(content: Any, path: Path) -> Path:
    """The file, written while modules of their names are there."""
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> None: ...

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    EasyDict.__module__, util.EasyDict = "dnnlib.util", EasyDict  # type: ignore[attr-defined]
    places = {"torch_utils": ModuleType("torch_utils"), "torch_utils.persistence": persistence,
              "dnnlib": ModuleType("dnnlib"), "dnnlib.util": util}  # fmt: skip
    sys.modules.update(places)
    try:
        path.write_bytes(pickle.dumps(content))
    finally:
        for name in places:
            del sys.modules[name]
    return path


class EasyDict(dict[str, Any]):
    """Theirs."""


def nested(tensors: dict[str, torch.Tensor], name: str, kwargs: dict[str, Any], buffers: tuple[str, ...] = ()) -> Any:
    """A network with these tensors under dotted names; modules that only hold others are torch's containers."""
    own = {key: value for key, value in tensors.items() if "." not in key}
    below: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if "." in key:
            head, rest = key.split(".", 1)
            below.setdefault(head, {})[rest] = value
    modules = {
        head: container({k: nested(v, "Block", {}, buffers) for k, v in split(rest).items()})
        if head in ("enc", "dec")
        else nested(rest, "Linear", {}, buffers)
        for head, rest in below.items()
    }
    held = {key: value for key, value in own.items() if key not in buffers}
    rest = {key: value for key, value in own.items() if key in buffers}
    return Persistent(name, held, modules, _buffers=rest, _init_args=(), _init_kwargs=EasyDict(kwargs))


def split(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """By the first part of their names."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        head, rest = key.split(".", 1)
        found.setdefault(head, {})[rest] = value
    return found
