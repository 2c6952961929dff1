"""Lightning's view of the ranks, from what this project knows of them; it guesses nothing from an allocation."""

from __future__ import annotations

import os

from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from diffusion.experiment.process.ranks import joined


def cluster() -> ClusterEnvironment:
    """A process alone, or one rank of those that torchrun, srun or our launcher started.

    A SLURM allocation of several tasks says nothing of a process that was not started by srun; one that was, is told
    its place in torchrun's variables.
    """
    if not joined():
        return LightningEnvironment()
    if "RANK" not in os.environ:
        known = os.environ
        nodes = known.get("SLURM_STEP_NODELIST") or known.get("SLURM_NODELIST") or "127.0.0.1"
        told = {
            "RANK": known["SLURM_PROCID"],
            "LOCAL_RANK": known.get("SLURM_LOCALID", "0"),
            "GROUP_RANK": known.get("SLURM_NODEID", "0"),
            "WORLD_SIZE": known["SLURM_STEP_NUM_TASKS"],
            "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(nodes),
            "MASTER_PORT": str(15000 + int(known.get("SLURM_JOB_ID", "0")[-4:])),
        }
        os.environ |= {name: value for name, value in told.items() if name not in known}
    return TorchElasticEnvironment()
