"""Fingerprints: the record of what a metric depends on, and the differences between two records."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch

from diffusion.describe import canonical

_PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "pillow", "alphabar")


def numerics(device: torch.device) -> dict[str, Any]:
    """The settings that determine the last bits of a result."""
    return {
        "device": device.type,
        "tf32_matmul": torch.get_float32_matmul_precision() != "highest",
        "tf32_convolution": device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: of the process, and allocated on its GPU."""
    out = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.type == "cuda":
        out["gpu"] = torch.cuda.max_memory_allocated(device)
    return out


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two fingerprints disagree, one line each; empty where their numbers may stand in one column.

    The cost of an evaluation is not compared.
    """
    a, b = (dict(_leaves({k: v for k, v in record.items() if k != "cost"})) for record in (one, other))
    return [
        f"{path}: {_said(a, path)} against {_said(b, path)}"
        for path in sorted(a.keys() | b.keys())
        if _said(a, path) != _said(b, path)
    ]


def _leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _said(record: Mapping[str, Any], path: str) -> str:
    return canonical(record[path]) if path in record else "nothing"
