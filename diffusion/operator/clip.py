"""High dynamic range: an image too bright for its sensor."""

from __future__ import annotations

from torch import Tensor

from diffusion.operator.base import NonlinearOperator


class ClipOperator(NonlinearOperator):
    """A x = factor x, cut to [-1, 1] (Zhang et al. 2024, DAPS: high dynamic range with factor 2)."""

    def __init__(self, factor: float = 2.0) -> None:
        if not factor > 1:
            raise ValueError(f"the factor is above 1, got {factor}; set operator.factor")
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        return (self.factor * x).clamp(-1, 1)
