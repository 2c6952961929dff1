"""Networks: f(x, c_noise, cond) -> tensor. They know neither schedule nor target.

``x`` (B, C, H, W) arrives scaled by the parameterization; ``c_noise`` (B,) float is the
schedule's encoding of the noise level (a DDPM index, log(sigma)/4, or t); ``cond`` carries the condition, one slot a
mechanism.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion.types import Cond


class Network(nn.Module, ABC):
    """The trainable function of an experiment.

    blocks: the repeated layers, by type; ``compile`` compiles these one by one. Empty: the network as a whole.
    augment_dim: width of ``Cond.augment_labels`` that it reads, 0 for a network without an input for augmentations.
    numbers: names of ``Cond.numbers`` that it embeds; others are refused.
    """

    blocks: ClassVar[tuple[type[nn.Module], ...]] = ()
    augment_dim: int = 0
    numbers: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        """x (B, C, H, W), c_noise (B,) float, cond -> (B, out_channels, H, W)."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """In place, as ``nn.Module.compile``, whose arguments it takes, but by region.

        Blocks of one type and shape share their code, so that a deep network compiles in the time of its distinct
        blocks. The modules stay what they are: no key of a checkpoint changes. A mode with CUDA graphs takes the
        network as a whole: a graph's output lives until it runs again, and blocks that share one would overwrite what
        others keep; the network's own output is copied out for the same reason.
        """
        if not self.blocks or kwargs.get("mode") in CUDA_GRAPHS:
            super().compile(*args, **kwargs)
            call = self._compiled_call_impl
            if kwargs.get("mode") in CUDA_GRAPHS and call is not None:
                self._compiled_call_impl = lambda *inputs, **more: call(*inputs, **more).clone()
            return
        if "recompile_limit" in inspect.signature(torch.compile).parameters:
            kwargs.setdefault("recompile_limit", _SHAPES)
        kwargs.setdefault("dynamic", False)
        for module in self.modules():
            if isinstance(module, self.blocks):
                module.compile(*args, **kwargs)


def zero_(*layers: nn.Linear | nn.Conv2d) -> None:
    """Weights and biases 0: a branch that ends so starts as if it were not there (Ho et al. 2020)."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of torch.compile that replay recorded graphs on a GPU."""
_SHAPES = 64
"""Distinct shapes that one block type may have before torch gives up compiling it; its own default of 8 is too few."""
