"""A built object said in plain values: its class and its constructor's arguments, as they stand on the object."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def describe(value: Any, skip: Sequence[str] = ()) -> Any:
    """Numbers, strings and containers as they are; tensors by shape; objects as {"class": name, argument: value}.

    Arguments that the constructor does not keep under their own name are left out. ``skip``: arguments not said.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [describe(item) for item in value]
    out: dict[str, Any] = {"class": type(value).__name__}
    for name in inspect.signature(type(value).__init__).parameters:
        if name == "self" or name in skip:
            continue
        if hasattr(value, name):
            out[name] = describe(getattr(value, name))
        elif hasattr(value, f"_{name}"):
            out[name] = describe(getattr(value, f"_{name}"))
    if isinstance(value, nn.Module):
        out["parameters"] = sum(p.numel() for p in value.parameters())
    return out
