"""Rules of the run itself: its name, its trainer, how a batch is shared, what W&B takes; no part sees them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from diffusion.experiment.process.ranks import listed, unshared

Plain = Mapping[str, Any]

NAME_BYTES = 255
"""The longest name of a file or folder on the usual file systems."""
FORBIDDEN = "/\\#?%:"
"""Characters that W&B takes in no project's name."""


def name(cfg: Plain) -> str | None:
    """Every folder of the name is short enough for a file system."""
    given = str(cfg.get("name", "train"))
    if any(len(part.encode()) > NAME_BYTES for part in PurePath(given).parts):
        return f"name is a folder, whose name has at most {NAME_BYTES} bytes, got {len(given.encode())}; shorten it"
    return None


def shared_batch(cfg: Plain) -> str | None:
    """Every device gets as many images, in as many parts."""
    trainer, size = cfg.get("trainer"), (cfg.get("data") or {}).get("batch_size")
    if not isinstance(trainer, Mapping) or not trains(cfg):
        return None
    devices = trainer.get("devices", 1)
    chosen = listed(devices)
    count = len(chosen) if chosen is not None else int(devices) if str(devices).isdigit() else None
    nodes = trainer.get("num_nodes", 1)
    if count is None or not isinstance(nodes, int) or not isinstance(size, int):
        return None  # all that the machine has: counted where the ranks start
    return unshared(size, count * nodes, cfg.get("micro_batch"))


def micro_batch(cfg: Plain) -> str | None:
    size, whole = cfg.get("micro_batch"), (cfg.get("data") or {}).get("batch_size")
    if size is None or size == "auto":
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        return f"micro_batch is a number of images from 1, auto or null, got {size!r}; set micro_batch=auto"
    if isinstance(whole, int) and whole % size:
        return f"micro_batch={size} does not divide data.batch_size={whole}; set micro_batch to a divisor of it"
    return None


def half_precision(cfg: Plain) -> str | None:
    trainer = cfg.get("trainer") or {}
    if trainer.get("accelerator") == "cpu" and str(trainer.get("precision")).startswith("16"):
        return (
            f"trainer.precision={trainer['precision']} is for GPUs: CPUs do not multiply in fp16; "
            "set trainer.precision=bf16-mixed or 32-true, or trainer=gpu"
        )
    if str(trainer.get("precision")) in ("16-true", "bf16-true"):
        kind = str(trainer["precision"]).removesuffix("-true")
        return (
            f"trainer.precision={kind}-true keeps the average of the weights in 16 bits, in which it does not move at "
            f"a decay of 0.9999; set trainer.precision={kind}-mixed"
        )
    return None


def intervals(cfg: Plain) -> str | None:
    """Of validation: counted in batches, unless epochs are counted too."""
    trainer = cfg.get("trainer") or {}
    every, epochs = trainer.get("val_check_interval"), trainer.get("check_val_every_n_epoch")
    if isinstance(every, float) and epochs is None:
        return (
            f"trainer.val_check_interval is a whole number of batches from 1, got {every}; "
            "a share of an epoch needs trainer.check_val_every_n_epoch=1"
        )
    return None


def wandb_names(cfg: Plain) -> str | None:
    """What the server would refuse, and the client before it."""
    for path, logger in (cfg.get("logger") or {}).items():
        if not str((logger or {}).get("_target_", "")).endswith("WandbRunLogger"):
            continue
        project = str(logger.get("project"))
        if not 0 < len(project) <= 128 or set(project) & set(FORBIDDEN):
            return (
                f"logger.{path}.project has 1 to 128 characters, none of them {' '.join(FORBIDDEN)}, got '{project}'; "
                f"set logger.{path}.project to such a name, and logger.{path}.entity to the team"
            )
        for tag in logger.get("tags") or ():
            if not 0 < len(str(tag)) <= 64:
                return f"a tag has 1 to 64 characters, got {len(str(tag))} in '{tag}'; shorten it in tags=[...]"
    return None


def trains(cfg: Plain) -> bool:
    """Is this a training's config, and not one of drawing or scoring, which deal batches in their own way?"""
    return "resume" in cfg and "weights" not in cfg


RUN_RULES = (name, micro_batch, shared_batch, half_precision, intervals, wandb_names)
