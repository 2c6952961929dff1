"""A second average of the denoiser: what a loss takes its targets from."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser


class Twin:
    """twin <- rate twin + (1 - rate) denoiser, in eval mode and without gradients; a copy of the denoiser as it is when
    the twin is first asked for, or what a checkpoint holds."""

    def __init__(self) -> None:
        self._denoiser: NetworkDenoiser | None = None
        self._state: dict[str, Tensor] = {}

    def of(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The twin of the denoiser, where that is."""
        if self._denoiser is None:
            shared = {id(part): part for part in (denoiser.schedule, denoiser.parameterization)}
            self._denoiser = copy.deepcopy(denoiser, shared).requires_grad_(False).eval()
            if self._state:
                self._denoiser.load_state_dict(self._state)
                self._state = {}
        return self._denoiser

    @torch.no_grad()
    def follow(self, denoiser: NetworkDenoiser, rate: float) -> None:
        """One update."""
        twin = self.of(denoiser)
        torch._foreach_lerp_(list(twin.parameters()), list(denoiser.parameters()), 1.0 - rate)
        for mine, theirs in zip(twin.buffers(), denoiser.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights and buffers; empty before there are any."""
        if self._denoiser is None:
            return dict(self._state)
        return {name: value.detach().clone() for name, value in self._denoiser.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from a :meth:`state_dict`."""
        if self._denoiser is None:
            self._state = dict(state)
        elif state:
            self._denoiser.load_state_dict(state)
