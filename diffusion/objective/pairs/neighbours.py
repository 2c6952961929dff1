"""Neighbours on a fixed grid."""

from __future__ import annotations

from diffusion.objective.base import Step
from diffusion.objective.pairs.base import GridPairs
from diffusion.types import Spacing


class NeighbourPairs(GridPairs):
    """Neighbours on a grid, each pair alike: consistency distillation on Karras's times (Song et al. 2023, algorithm 2;
    18 points on CIFAR-10, 40 on ImageNet 64), or steps of DDIM (Luo et al. 2023).

    Args:
        spacing, clean: see :class:`GridPairs`.
        count: points of the grid above t = 0.

    Raises:
        ValueError: too few points for a pair.
    """

    def __init__(self, spacing: Spacing, count: int = 18, clean: bool = False) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 2 - clean:
            raise ValueError(f"a grid has at least {2 - clean} points, got {count!r}; set objective.pairs.count")
        super().__init__(spacing, clean)
        self.count = count

    def points(self, step: Step | None = None) -> int:
        return self.count
