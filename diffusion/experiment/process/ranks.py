"""Which rank this process is, and how many a config requests; torch is not needed to know."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion.errors import ConfigError


def joined() -> bool:
    """Was this process started as one rank of several, by torchrun, srun or our launcher?"""
    torchrun = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return torchrun or ("SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1)


def rank() -> int:
    """This process's rank among those that it joined, 0 where it is alone."""
    if not joined():
        return 0
    return int(os.environ["RANK"] if "RANK" in os.environ else os.environ["SLURM_PROCID"])


def shared_id() -> str | None:
    """What all ranks that were started together know without talking, ``None`` for a process alone.

    Raises:
        ConfigError: torchrun on several machines without ``--rdzv-id``.
    """
    if not joined():
        return None
    known = os.environ
    if "SLURM_STEP_ID" in known:
        return f"slurm-{known['SLURM_JOB_ID']}-{known['SLURM_STEP_ID']}"
    if known.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return f"torchrun-{known['TORCHELASTIC_RUN_ID'][:36]}"
    if int(known.get("GROUP_WORLD_SIZE", "1")) == 1:  # one machine: the agent is everybody's parent
        import psutil

        return f"torchrun-{os.getppid()}-{int(psutil.Process(os.getppid()).create_time())}"
    raise ConfigError(
        "ranks on several machines need one name for their run folder; start torchrun with --rdzv-id=<name>"
    )


def wanted_ranks(cfg: DictConfig) -> int:
    """How many ranks the trainer requests on this machine.

    Raises:
        ConfigError: several machines, and this process was not started once a rank on each of them.
    """
    trainer = cfg.get("trainer")
    if trainer is None:
        return 1
    if int(trainer.get("num_nodes", 1)) > 1 and not joined():
        raise ConfigError(
            f"trainer.num_nodes is {trainer.num_nodes}, but this process was started alone; start the same command on "
            "every machine with torchrun or srun, or set trainer.num_nodes=1"
        )
    devices: Any = trainer.get("devices", 1)
    if (chosen := listed(devices)) is not None:
        return len(chosen)
    if str(devices) in ("-1", "auto"):
        if trainer.get("accelerator") == "cpu":
            return 1
        import torch

        return max(1, torch.cuda.device_count())
    return int(devices)


def listed(devices: Any) -> list[int] | None:
    """The devices by number where they are named, as ``[2, 3]`` or ``2,3``; ``None`` for how many."""
    if isinstance(devices, str) and "," in devices:
        return [int(part) for part in devices.split(",") if part.strip()]
    return [int(number) for number in devices] if OmegaConf.is_list(devices) else None
