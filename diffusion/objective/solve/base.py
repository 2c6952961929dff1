"""Solves: one step of the probability-flow ODE from a time to another, a time of its own for each sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion.types import Cond, Denoiser


class Solve(ABC):
    """x_t -> x_s by one step of a solver; y = x / alpha and n = sigma / alpha obey dy/dn = E[eps | x]."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """x (B, ...) at t (B,), s (B,) at most t, both float64 -> x at s."""
