"""A cell of a sweep is what its config says, and nothing else: its identity is a hash of that.

Left out is where things lie and what they run on. Sample order, noise and batches do not depend on the number of
devices, so a cell that ran on one machine is finished on every other.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

MACHINE = (
    "code",
    "keep_freed_memory",
    "name",
    "paths",
    "plan",
    "resume",
    "tags",
    "logger",
    "micro_batch",
    "callbacks.progress",
    "callbacks.pruning",
    "data.cache",
    "data.download",
    "data.num_workers",
    "data.pin_memory",
    "data.real.cache",
    "data.real.download",
    "data.real.num_workers",
    "data.real.pin_memory",
    "data.synthetic.device",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.enable_checkpointing",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Keys that say where and on what a job runs."""
AUTO = "${precision:}"
"""The precision that the machine chooses (``trainer=auto``)."""


def identity(cfg: DictConfig, history: Sequence[Any] = ()) -> str:
    """Twelve hexadecimal digits of a config without Hydra's own node; equal for two that ask for the same numbers.

    history: the changes that a run's weights went through, where it was continued with other settings.
    """
    own = copy.deepcopy(cfg)
    OmegaConf.set_struct(own, False)
    paths = own.get("paths")
    for key in list(paths) if paths else []:
        paths[key] = f"<{key}>"  # whatever refers to a path refers to its name
    for role, need in (own.get("needs") or {}).items():
        own.needs[role] = need.identity  # what a need computes, wherever it lies
    precision = own.trainer._get_node("precision") if own.get("trainer") else None
    if precision is not None and precision._is_interpolation() and precision._value() == AUTO:
        own.trainer.precision = "auto"  # what the machine takes is the machine's, wherever the sweep is laid out
    plain: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
    for path in MACHINE:
        _remove(plain, path.split("."))
    rooms = {room: _ordered(node) for room, node in plain.items()}
    text = json.dumps([rooms, *history] if history else rooms, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ordered(node: Any) -> Any:
    """A node with every mapping in which order counts as a list of pairs: named parts, such as guidance and the scales
    inside it, are applied in their order; the arguments of a part have none."""
    if isinstance(node, list):
        return [_ordered(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {str(name): _ordered(value) for name, value in node.items()}
    return inner if "_target_" in inner else list(inner.items())


def below(key: str, heads: Iterable[str]) -> bool:
    """Is a dotted key one of these, or below one?"""
    return any(key == head or key.startswith(f"{head}.") for head in heads)


def _remove(node: Any, path: list[str]) -> None:
    for name in path[:-1]:
        node = node.get(name) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)
