"""``history.json``: with which settings a run was continued, and from which step on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import ConfigError
from diffusion.experiment.config.config_hash import MACHINE, below
from diffusion.files import write_atomic

HISTORY = "history.json"
NEUTRAL = ("trainer.max_steps", "evaluation", "sampler", "spacing", "guidance", *MACHINE)
"""Changes that leave the weights of a step what they are without them."""


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What the weights went through: ``[{"from_step": 500, "changes": {key: [before, after]}}]``, in that order; empty
    where a run never changed.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return list(json.loads((folder / HISTORY).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / HISTORY} is damaged or half-written ({' '.join(str(error).split())})") from None


def write_history(folder: Path, step: int, changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Adds the changes {key: (before, after)} from ``step`` on.

    What was to change at this step or later has not reached the weights: only what holds now counts.
    """
    past, merged = read_history(folder), dict[str, list[Any]]()
    for entry in [one for one in past if one["from_step"] >= step] + [{"changes": changes}]:
        for key, (before, after) in entry["changes"].items():
            merged[key] = [merged.get(key, [before])[0], after]
    now = {"from_step": step, "changes": {key: pair for key, pair in merged.items() if pair[0] != pair[1]}}
    entries = [one for one in past if one["from_step"] < step] + ([now] if now["changes"] else [])
    write_atomic(folder / HISTORY, json.dumps(entries, indent=2) + "\n")


def lasting(history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The history as far as it decides the weights."""
    kept = ((one, {k: v for k, v in one["changes"].items() if not below(k, NEUTRAL)}) for one in history)
    return [{**one, "changes": changes} for one, changes in kept if changes]
