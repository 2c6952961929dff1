r"""The integrals of DPM-Solver-v3's exact solution over a stretch of log-SNR (Zheng et al. 2023, section 3).

From lam_s to lam_t, with L = int l, S = int s and B = int e^-S b from lam_s on,

    x_t / alpha_t = e^-L(t) (x_s / alpha_s - int e^(L + S) (g + B) dlam),     g = e^-S f - B,

is exact, and g is constant to first order for the statistics that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.sampler.exponential.base import lagrange, pseudo_order
from diffusion.sampler.exponential.model_statistics import ModelStatistics

_NODES = (0.0, 0.5 - math.sqrt(3 / 7) / 2, 0.5, 0.5 + math.sqrt(3 / 7) / 2, 1.0)
"""Gauss-Lobatto on [0, 1]: integrals of polynomials up to degree 7 are exact."""
_LONGEST = 0.25
"""Of a panel, in log-SNR."""


class Integrals:
    """From one log-SNR to another, in panels that end where the statistics were measured.

    lam: (P, 5) nodes. L, S, B: their integrals from the start to each node, (P, 5, *shape), float64.
    """

    def __init__(self, statistics: ModelStatistics, start: float, end: float) -> None:
        stops = [start, *statistics.between(start, end), end]
        ends = [start]
        for left, right in pairwise(stops):
            parts = math.ceil(abs(right - left) / _LONGEST)
            ends += [left + (right - left) * (i + 1) / parts for i in range(parts)]
        edges = torch.tensor(ends, dtype=torch.float64)
        self.widths = edges.diff()
        self.lam = edges[:-1, None] + self.widths[:, None] * torch.tensor(_NODES, dtype=torch.float64)
        l, s, b = statistics.at(self.lam)  # noqa: E741 - the paper's symbol
        self.L, self.S = self.integral(l), self.integral(s)
        self.B = self.integral(torch.exp(-self.S) * b)

    def integral(self, values: Tensor) -> Tensor:
        """Of a function known at the nodes (P, 5, ...), from the start to each of them, (P, 5, ...)."""
        widths = self.widths.reshape(-1, *[1] * (values.ndim - 1))
        within = widths * torch.einsum("jk,pk...->pj...", _integration(), values)
        total = within[:, -1].cumsum(0)
        return within + torch.cat((torch.zeros_like(total[:1]), total[:-1]))[:, None]

    def weights(self, nodes: Sequence[float], pseudo: bool = False) -> tuple[list[Tensor], Tensor]:
        """w, c with e^-L(t) int e^(L + S) (g + B) dlam = sum_j w_j g(nodes_j) + c for the polynomial g through them.

        nodes: log-SNRs minus that of the start, which is the first. pseudo: the polynomial of the pseudo-order solver.
        """
        kernel = torch.exp(self.L + self.S - self.L[-1, -1])
        r = (self.lam - self.lam[0, 0]).reshape(*self.lam.shape, *[1] * (kernel.ndim - 2))
        found = []
        for basis in pseudo_order(nodes) if pseudo else lagrange(nodes):
            value = torch.zeros_like(r)
            for coefficient in reversed(basis):
                value = value * r + coefficient
            found.append(self.integral(kernel * value)[-1, -1])
        return found, self.integral(kernel * self.B)[-1, -1]


@cache
def _integration() -> Tensor:
    """(5, 5): row j integrates the polynomial through five values from 0 to node j."""
    bases = lagrange(_NODES)
    rows = [[sum(c * x ** (k + 1) / (k + 1) for k, c in enumerate(basis)) for basis in bases] for x in _NODES]
    return torch.tensor(rows, dtype=torch.float64)
