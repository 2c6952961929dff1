"""What guidance needs of a measurement's operator."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Operator(ABC):
    """A linear map A of images (B, C, H, W), differentiable."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        """(spread A A^T + noise I)^-1 residual, for variances spread > 0 and noise >= 0."""
