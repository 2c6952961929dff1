"""Fully sharded data parallelism: every rank keeps a share of weights, gradients, averages and optimizer state.

Blocks are gathered when they are called and let go of after it (Zhao et al. 2023; torch's ``fully_shard``), so that the
memory of a rank falls with the number of ranks. Weights and average are sharded alike: the average is updated in
place, share by share. A checkpoint is the same single file as of any other run.
"""

from __future__ import annotations

import warnings

import torch
from pytorch_lightning.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.torch_version import TorchVersion


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for it, over all ranks; the module chooses what is sharded (:func:`shard`)."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        if TorchVersion(torch.__version__) < "2.12":  # a condition's gradients would be lost without a word
            raise ValueError(f"trainer=fsdp needs torch 2.12, this is {torch.__version__}; use trainer=ddp")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(module: nn.Module, mesh: DeviceMesh, blocks: tuple[type[nn.Module], ...] = (), keep: bool = False) -> None:
    """In place: each of the ``blocks`` by itself, then what is left. No name of a weight changes.

    keep: leave the whole weights in place after a call, until :func:`release` or the end of the backward pass: for a
        module whose answer looks into its weights.
    """
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # none is changed in place
    for block in module.modules():
        if block is not module and isinstance(block, blocks):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    if next(module.parameters(), None) is not None:
        fully_shard(module, mesh=mesh, reshard_after_forward=not keep)


def release(module: nn.Module) -> None:
    """Lets go of weights that were kept whole."""
    if isinstance(module, FSDPModule):
        module.reshard()
