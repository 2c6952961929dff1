"""Values of the parts whose import takes seconds (Lightning's, and evaluation's), checked before any of it is imported.

Their kind is that of the value which the config files give: a number stays a number, true or false stays that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

SLOW = ("trainer", "data", "callbacks", "evaluation", "logger", "module")
"""Rooms whose import takes seconds."""
COUNTED = ("trainer", "data", "callbacks", "evaluation", "text_encoder", "autoencoder", "logger")
"""Rooms that are not built before a run, or late."""
ONE = (
    "batch_size num_samples every_n_train_steps keep_every_n_steps repeats is_splits kid_subsets kid_subset_size "
    "neighbours bins steps traced operations probes log_every_n_steps accumulate_grad_batches channels resolution "
    "length dim num_nodes val_check_interval check_val_every_n_epoch factor image_channels"
)
ZERO = "num_workers num_classes warmup gradient_clip_val pooled_dim reload_dataloaders_every_n_epochs "
ZERO += "min_steps min_epochs seed timeout"
ENDLESS = ("max_steps", "max_epochs")
"""-1 is no end; a training of nothing would leave no checkpoint."""
LEAST = dict.fromkeys(ONE.split(), 1) | dict.fromkeys(ZERO.split(), 0) | dict.fromkeys(ENDLESS, -1)
LEAST["num_sanity_val_steps"] = -1
OFF = "overfit_batches"
PARTS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", OFF)
"""A number of batches, or a share of them as a fraction; 0 turns the last of them off."""
MANY_KINDS = ("trainer.devices", "trainer.deterministic")
"""Also words or lists, which Lightning's annotations name."""


def counts(cfg: Mapping[str, Any]) -> str | None:
    """The sentence for a number that is out of its range, ``None`` where there is none."""
    for path, key, value in (found for room in COUNTED for found in _numbers(cfg.get(room), room)):
        if (expected := _expected(path.partition(".")[0], key, value)) is not None:
            return f"{path}.{key} is {expected}, got {value}; set {path}.{key} to such a number"
    return _devices((cfg.get("trainer") or {}).get("devices", 1))


def _devices(given: Any) -> str | None:
    """A number of devices, their numbers, or all of them."""
    if isinstance(given, list):
        right = bool(given) and all(isinstance(n, int) and n >= 0 for n in given) and len({*given}) == len(given)
    else:
        right = (
            not isinstance(given, bool) and re.fullmatch(r"auto|-1|[1-9]\d*|\d+,|\d+(,\d+)+", str(given)) is not None
        )
    if right:
        return None
    return (
        f"trainer.devices is a number of devices from 1, a list of their numbers such as [0,1], or -1 for all, got "
        f"{given!r}; set trainer.devices=1"
    )


def kind(key: str, value: Any, before: Any) -> str | None:
    """The sentence for a scalar of another kind than the one that the config files give.

    value, before: of ``key``, resolved.
    """
    if value is None or isinstance(value, list | dict) or type(value) is type(before) or key in MANY_KINDS:
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


def _expected(room: str, key: str, value: float) -> str | None:
    """What a number of this name must be, ``None`` where it is."""
    lightning, whole = room == "trainer", isinstance(value, int)
    if lightning and key in PARTS:
        right = 0 < value <= 1 or (whole and value >= (key != OFF))
        return None if right else "a number of batches from 1, or a share of them up to 1.0"
    if lightning and key in ENDLESS and value == 0:
        return "at least 1, or -1 for no end"
    if room in ("trainer", "logger") and not math.isfinite(value):
        return "a finite number"
    if lightning and not whole and key in LEAST and key != "gradient_clip_val":
        return f"a whole number from {LEAST[key]}"
    return f"at least {LEAST[key]}" if value < LEAST.get(key, value) else None


def _numbers(node: Any, path: str) -> Iterator[tuple[str, str, float]]:
    """Every number below a node: (path of its mapping, its key, the number)."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, str(key), value
        yield from _numbers(value, f"{path}.{key}")
