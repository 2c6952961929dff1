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


def world_size() -> int:
    """How many processes joined, 1 for a process alone."""
    if not joined():
        return 1
    return int(os.environ["WORLD_SIZE"] if "RANK" in os.environ else os.environ["SLURM_STEP_NUM_TASKS"])


def forget_ranks() -> None:
    """A process alone is rank 0, whatever an allocation or an outer job left in its environment: libraries that find
    another number there log and save nothing."""
    if not joined():
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK"):
            os.environ.pop(name, None)


def wanted_ranks(cfg: DictConfig) -> int:
    """How many ranks the trainer requests on this machine.

    Raises:
        ConfigError: several machines, and this process was not started once a rank on each of them; other ranks were
            started than the trainer asks for; devices that this machine does not have.
    """
    trainer = cfg.get("trainer")
    if trainer is None:
        return 1
    nodes = int(trainer.get("num_nodes", 1))
    if nodes > 1 and not joined():
        raise ConfigError(
            f"trainer.num_nodes is {trainer.num_nodes}, but this process was started alone; start the same command on "
            "every machine with torchrun or srun, or set trainer.num_nodes=1"
        )
    devices: Any = trainer.get("devices", 1)
    chosen, every, kind = listed(devices), str(devices) in ("-1", "auto"), trainer.get("accelerator")
    found = _gpus() if kind in ("gpu", "cuda") or (kind == "auto" and str(devices) != "1") else 0
    if kind in ("gpu", "cuda") and found == 0:
        raise ConfigError(
            f"trainer.accelerator is {kind}, and torch finds no GPU on this machine; "
            "set trainer.accelerator=cpu, or trainer=auto for whatever there is"
        )
    count = len(chosen) if chosen is not None else max(1, found) if every else int(devices)
    if found and (count > found or any(number >= found for number in chosen or ())):
        raise ConfigError(f"trainer.devices is {devices}, and this machine has {found} GPUs; set trainer.devices=-1")
    if joined() and count * nodes != world_size():
        raise ConfigError(
            f"{world_size()} ranks were started, and trainer.devices={devices} with trainer.num_nodes={nodes} asks for "
            f"{count * nodes}; start as many tasks, or set trainer.devices and trainer.num_nodes to those that run"
        )
    return count


def unshared(batch_size: int, ranks: int, micro_batch: Any = None) -> str | None:
    """The sentence for a batch that this many ranks cannot share equally, each in parts of ``micro_batch`` images."""
    if batch_size % ranks:
        return (
            f"data.batch_size is {batch_size}, which {ranks} devices cannot share equally; "
            f"set data.batch_size to a multiple of {ranks}"
        )
    if isinstance(micro_batch, int) and batch_size // ranks % micro_batch:
        return (
            f"micro_batch={micro_batch} does not divide the {batch_size // ranks} images that each of {ranks} devices "
            f"gets of data.batch_size={batch_size}; set micro_batch to a divisor of them"
        )
    return None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def listed(devices: Any) -> list[int] | None:
    """The devices by number where they are named, as ``[2, 3]`` or ``2,3``; ``None`` for how many."""
    if isinstance(devices, str) and "," in devices:
        return [int(part) for part in devices.split(",") if part.strip()]
    return [int(number) for number in devices] if OmegaConf.is_list(devices) else None
