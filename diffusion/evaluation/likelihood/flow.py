"""The density of the probability-flow ODE."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.evaluation.likelihood.base import Likelihood
from diffusion.randomness import KeyedRandomness
from diffusion.sampler.likelihood import FlowLogLikelihood, bits_per_dim
from diffusion.types import Cond, Denoiser

BIN = 1 / 127.5
"""Distance between two grey levels in [-1, 1]."""


class FlowLikelihood(Likelihood):
    """The density of the probability-flow ODE at images that are dequantised uniformly, one draw each (Song et al.
    2021, score SDE, section 4.3): on average a bound from above, too, of the mass of each image's bin.

    Args:
        num_samples, batch_size: see :class:`Likelihood`; a batch shares the solver's steps.
        rtol, atol, end, probes: see :class:`FlowLogLikelihood`.
    """

    name = "flow"

    def __init__(
        self,
        num_samples: int | None = None,
        batch_size: int = 128,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        end: float = 1e-5,
        probes: int = 1,
    ) -> None:
        super().__init__(num_samples, batch_size)
        self.rtol, self.atol, self.end, self.probes = rtol, atol, end, probes
        self.flow = FlowLogLikelihood(rtol, atol, end, probes)

    def check(self, denoiser: Denoiser) -> None:
        self.flow.check(denoiser)

    def bits(self, denoiser: Denoiser, x0: Tensor, cond: Cond, random: KeyedRandomness) -> Tensor:
        shift = torch.special.ndtr(random.randn_like(x0)) - 0.5
        log_density = self.flow(denoiser, x0 + BIN * shift, cond, randn_like=random.randn_like)
        return bits_per_dim(log_density, x0[0].numel(), BIN)
