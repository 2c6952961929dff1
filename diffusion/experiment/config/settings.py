"""The top-level keys of every script, and what each may be. A key means the same in every script that has it.

What lies in a part is the part's own to check; only seeds, and which weights of a run are meant, are alike everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

WEIGHTS = ("ema", "raw")
COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of torch.compile."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Kind:
    """What a value may be: in words, and as a question."""

    words: str
    fits: Callable[[Any], bool]

    def or_null(self) -> Kind:
        return Kind(f"{self.words}, or null", lambda value: value is None or self.fits(value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def count(least: int) -> Kind:
    return Kind(f"a whole number of at least {least}", lambda value: _whole(value) and value >= least)


def one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda value: value in names)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _adapters(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, Mapping)
        and {"path"} <= each.keys() <= {"path", "scale"}
        and isinstance(each["path"], str)
        and _number(each.get("scale", 1.0))
        for each in value
    )


def _numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _number(each) or (isinstance(each, list) and each != [] and all(map(_number, each))) for each in value.values()
    )


def _inside(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not PurePath(value).is_absolute() and ".." not in value.split("/")


TEXT = Kind("a text", lambda value: isinstance(value, str) and value != "")
BOOL = Kind("true or false", lambda value: isinstance(value, bool))
POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
SEED = Kind("a whole number from 0 to 2^63 - 1", lambda value: _whole(value) and 0 <= value <= MAX_SEED)
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
TEXT_OR_LIST = Kind("a text or a list of texts", lambda value: TEXT.fits(value) or (TEXTS.fits(value) and value != []))
RUN_WEIGHTS = Kind(
    "ema or raw (an average of another length is a checkpoint that scripts/ema.py writes: checkpoint=ema_0.100)",
    lambda value: value in WEIGHTS,
)
LABEL = Kind("", lambda value: (_whole(value) and value >= 0) or TEXT.fits(value))
NAME = Kind("", lambda value: TEXT.fits(value) or (isinstance(value, Mapping) and len(value) == 1))
NAMES = Kind(
    "a list of names or name:title, such as [fid_50k:FID]",
    lambda value: NAME.fits(value) or (isinstance(value, list) and all(map(NAME.fits, value))),
)
TOP: Mapping[str, Kind] = {
    "run": TEXT.or_null(),
    "checkpoint": TEXT.or_null(),
    "weights": RUN_WEIGHTS,
    "images": TEXT.or_null(),
    "runs": TEXT,
    "host": TEXT,
    "port": Kind("a port, a whole number from 1 to 65535", lambda value: _whole(value) and 1 <= value <= 65535),
    "token": TEXT.or_null(),
    "image": TEXT_OR_LIST,
    "mask": Kind(
        "a file or folder of masks, or a box [top, left, height, width] of whole numbers from 0, or null",
        lambda value: (
            value is None
            or TEXT.fits(value)
            or (isinstance(value, list) and len(value) == 4 and all(_whole(one) and one >= 0 for one in value))
        ),
    ),
    "background": TEXT,
    "feather": count(0).or_null(),
    "output": TEXT.or_null(),
    "low_resolution": TEXT.or_null(),
    "resume": TEXT.or_null(),
    "remarks": TEXT.or_null(),
    "card": TEXT.or_null(),
    "format": TEXT.or_null(),
    "path": TEXT.or_null(),
    "config": TEXT.or_null(),
    "revision": TEXT.or_null(),
    "sha256": TEXT.or_null(),
    "licence": TEXT.or_null(),
    "set": TEXTS,
    "dataset": TEXT,
    "lora": Kind("a list of adapters, such as [{path: style.safetensors, scale: 0.8}]", _adapters),
    "text_file": TEXT.or_null(),
    "name": Kind("a folder below paths.outputs", _inside),
    "seed": SEED,
    "seeds": Kind(
        "a list of whole numbers from 0 to 2^63 - 1, at least one",
        lambda value: isinstance(value, list) and value != [] and all(map(SEED.fits, value)),
    ).or_null(),
    "num_samples": count(1).or_null(),
    "per_class": count(1),
    "batch_size": count(1),
    "levels": count(2),
    "step": count(1).or_null(),
    "std": Kind("a number between 0 and 0.28", lambda value: _number(value) and 0 < value < 0.28),
    "noise_min": POSITIVE,
    "noise_max": POSITIVE,
    "tflops": POSITIVE,
    "plan": BOOL,
    "tile": BOOL,
    "image_size": Kind(
        "[height, width] in pixels, or null",
        lambda value: value is None or (isinstance(value, list) and len(value) == 2 and all(map(count(1).fits, value))),
    ),
    "keep_freed_memory": BOOL,
    "compile": Kind(
        f"true, false or a mode of torch.compile ({', '.join(COMPILE)})",
        lambda value: isinstance(value, bool) or value in COMPILE,
    ),
    "code": one_of("rerun", "keep"),
    "matmul_precision": one_of("highest", "high", "medium"),
    "labels": Kind(
        "balanced, drawn, a class (its number, or its name where the run has names), or a list of classes that samples "
        "have in turn, or null",
        lambda value: (
            value is None
            or LABEL.fits(value)
            or (isinstance(value, list) and value != [] and all(map(LABEL.fits, value)))
        ),
    ),
    "text": TEXT_OR_LIST.or_null(),
    "style_reference": TEXT_OR_LIST.or_null(),
    "style_weight": Kind("a number from 0", lambda value: _number(value) and value >= 0).or_null(),
    "stylize": Kind("a number from 0", lambda value: _number(value) and value >= 0).or_null(),
    "chaos": Kind("a number from 0 to 1", lambda value: _number(value) and 0 <= value <= 1),
    "negative": Kind("a text", lambda value: isinstance(value, str)).or_null(),
    "numbers": Kind("numbers by name, such as {size: [1024, 1024]}", _numbers).or_null(),
    "freeze": TEXTS,
    "pipelines": TEXTS,
    "tags": TEXTS,
    "cells": Kind("a text or a list of texts", lambda value: TEXT.fits(value) or TEXTS.fits(value)),
    "columns": NAMES,
    "plot": NAMES,
    "train": TEXTS,
    "evaluate": TEXTS,
}


def settings(cfg: Mapping[str, Any]) -> str | None:
    """The sentence for a setting that no script can take, ``None`` where there is none."""
    found = [(key, kind, cfg[key]) for key, kind in TOP.items() if key in cfg]
    if "cells" in cfg:  # of a table: what its cells sample
        found = [(key, TEXT.or_null() if key == "weights" else kind, value) for key, kind, value in found]
    found += list(_nested(cfg, ""))
    for path, kind, value in found:
        if not kind.fits(value):
            return f"{path} is {kind.words}, got {value!r}; set {path} to such a value"
    low, high = cfg.get("noise_min"), cfg.get("noise_max")
    if low is not None and high is not None and low >= high:
        return f"noise_min is below noise_max, got {low} and {high}; set noise_min below {high}"
    return None


def _nested(node: Any, path: str) -> Iterator[tuple[str, Kind, Any]]:
    """Seeds, and weights of runs, in the parts."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        if path and key == "seed":
            yield here, SEED, value
        elif path and key == "weights" and {"run", "checkpoint"} <= node.keys():
            yield here, RUN_WEIGHTS, value
        elif key not in ("module", "choices"):
            yield from _nested(value, here)
