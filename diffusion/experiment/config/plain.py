"""A config as plain containers: its parts, and the classes that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Plain = Mapping[str, Any]


def section(cfg: Plain, room: str) -> Plain:
    """A part of a config by its room, empty where there is none."""
    part = cfg.get(room)
    return part if isinstance(part, Mapping) else {}


def class_name(part: Any) -> str:
    """What a part builds, "" where it builds nothing."""
    return str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def differ(one: Any, other: Any) -> bool:
    """Are these two whole numbers, and not the same?"""
    return isinstance(one, int) and isinstance(other, int) and one != other


def in_parts(cfg: Plain) -> bool:
    """Is a batch of an optimizer step computed in parts?"""
    return cfg.get("micro_batch") is not None or int(section(cfg, "trainer").get("accumulate_grad_batches", 1)) > 1
