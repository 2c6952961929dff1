"""Values of the parts whose import takes seconds (Lightning's, and evaluation's), checked before any of it is imported.

Their kind is that of the value which the config files give: a number stays a number, true or false stays that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SLOW = ("trainer", "data", "callbacks", "evaluation", "logger", "module")
"""Rooms whose import takes seconds."""
COUNTED = ("trainer", "data", "callbacks", "evaluation", "text_encoder")
"""Rooms that are not built before a run, or late."""
ONE = (
    "batch_size num_samples every_n_train_steps keep_every_n_steps repeats is_splits kid_subsets kid_subset_size "
    "neighbours bins steps traced operations probes log_every_n_steps accumulate_grad_batches channels resolution "
    "length dim num_nodes"
)
ZERO = "num_workers num_classes warmup num_sanity_val_steps gradient_clip_val pooled_dim"
LEAST = dict.fromkeys(ONE.split(), 1) | dict.fromkeys(ZERO.split(), 0) | dict.fromkeys(("max_steps", "max_epochs"), -1)


def counts(cfg: Mapping[str, Any]) -> str | None:
    """The sentence for a count that is too small, ``None`` where there is none."""
    for path, key, value in (found for room in COUNTED for found in _numbers(cfg.get(room), room)):
        if value < LEAST.get(key, value):
            return f"{path}.{key} is at least {LEAST[key]}, got {value}; set {path}.{key} to {LEAST[key]} or more"
    count = (cfg.get("trainer") or {}).get("devices")
    if count in (0, "0", []) or (isinstance(count, int) and count < -1):
        return f"trainer.devices is {count}, and a run needs at least 1; set trainer.devices to 1 or more"
    return None


def kind(key: str, value: Any, before: Any) -> str | None:
    """The sentence for a scalar of another kind than the one that the config files give.

    value, before: of ``key``, resolved.
    """
    if value is None or isinstance(value, list | dict) or type(value) is type(before) or key == "trainer.devices":
        return None
    if isinstance(before, bool):
        expected = "true or false (bool)"
    elif isinstance(before, int) and not isinstance(value, float):
        expected = "a whole number (int)"
    elif isinstance(before, float) and (isinstance(value, bool) or not isinstance(value, int)):
        expected = "a number (float)"
    else:
        return None
    return f"{key} is {expected}, got {value!r}; set {key} to such a value"


def _numbers(node: Any, path: str) -> Iterator[tuple[str, str, float]]:
    """Every number below a node: (path of its mapping, its key, the number)."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, str(key), value
        yield from _numbers(value, f"{path}.{key}")
