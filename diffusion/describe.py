"""Built objects and weights as plain values, and hashes of both: what records and fingerprints hold."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def describe(value: Any, skip: Sequence[str] = ()) -> Any:
    """Numbers, strings and containers as they are; tensors by shape; objects, and partials,
    as {"class": name, argument: value}.

    A mapping is a list of pairs, as two orders of it may be two things (the scales of guidance by part). Arguments that
    the constructor does not keep under their own name are left out, and those in ``skip``.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Mapping):
        return [[str(key), describe(item)] for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset | range):
        return [describe(item) for item in value]
    if isinstance(value, partial):
        given = {str(name): describe(item) for name, item in value.keywords.items() if name not in skip}
        return {"class": value.func.__name__, **given}
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


def canonical(record: Any) -> str:
    """One spelling of a record of plain values, for hashing."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def key(record: Any) -> str:
    """sha256 of a record of plain values."""
    return hashlib.sha256(canonical(record).encode()).hexdigest()


def weights_sha256(*parts: nn.Module | None) -> str:
    """Of all tensors of these parts, buffers included: names, dtypes, shapes and values."""
    return tensors_sha256(*({} if part is None else part.state_dict() for part in parts))


def tensors_sha256(*states: Mapping[str, Tensor]) -> str:
    """Of named tensors, in their order: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for state in states:
        for name, value in state.items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
