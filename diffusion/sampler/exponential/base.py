r"""Exponential integrators: the coefficients that the solvers in lam = log(alpha / sigma) share.

With h = lam_s - lam_t and r the share of the way from lam_t to lam_s (Lu et al. 2022, eq. 3.4; Lu et al. 2022b, eq. 8):

    x_s = sigma_s / sigma_t x_t + alpha_s int_0^1 h e^{-(1-r) h} x_0(r) dr
    x_s = alpha_s / alpha_t x_t - sigma_s int_0^1 h e^{+(1-r) h} eps(r) dr

are exact. A solver replaces x_0(r) or eps(r) by the polynomial through what it knows; constant, both are the DDIM step
alpha_s x_0 + sigma_s eps, and what a solver adds is a sum of differences to the newest value. So written, alpha_t = 0
and sigma_s = 0, where h is infinite, are DDIM steps and nothing divides by zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def moments(h: float, count: int) -> list[float]:
    """int_0^1 h e^{-(1-r) h} r^k dr for k = 0 .. count - 1; h of either sign.

    The first is 1 - e^-h, each next one 1 - k / h times the last; below |h| = 1 that cancels, and the series is summed.
    """
    if abs(h) < 1:
        return [_series(h, k) for k in range(count)]
    values = [-math.expm1(-h)]
    for k in range(1, count):
        values.append(1 - k / h * values[-1])
    return values


def weights(h: float, nodes: Sequence[float]) -> list[float]:
    """w with sum_j w_j f(nodes_j) = int_0^1 h e^{-(1-r) h} f(r) dr for every polynomial below the number of nodes.

    For eps, -weights(-h, nodes) integrates the growing exponential of its equation.
    """
    known = moments(h, len(nodes))
    return [sum(c * m for c, m in zip(basis, known, strict=True)) for basis in lagrange(nodes)]


def lagrange(nodes: Sequence[float]) -> list[list[float]]:
    """Each node's Lagrange polynomial, 1 there and 0 at the others: its coefficients from r^0 upwards."""
    bases = []
    for j, own in enumerate(nodes):
        basis = [1.0]
        for i, other in enumerate(nodes):
            if i != j:
                gap = own - other
                raised, lowered = [0.0, *basis], [*basis, 0.0]
                basis = [(a - other * b) / gap for a, b in zip(raised, lowered, strict=True)]
        bases.append(basis)
    return bases


def pseudo_order(nodes: Sequence[float]) -> list[list[float]]:
    """:func:`lagrange` with the k-th derivative at ``nodes[0]`` = 0 from the first k + 1 values alone: sum_k D_k r^k,
    D_k their divided difference (Zheng et al. 2023, DPM-Solver-v3, theorem 3.4). Of two nodes the same polynomial, of
    more one whose integral is of order 2.
    """
    return [
        [0.0] * j + [1 / math.prod(own - nodes[i] for i in range(k + 1) if i != j) for k in range(j, len(nodes))]
        for j, own in enumerate(nodes)
    ]


def _series(h: float, k: int) -> float:
    """h sum_j (-h)^j k! / (k + j + 1)!"""
    term = total = h / (k + 1)
    for j in range(1, 24):
        term *= -h / (k + j + 1)
        total += term
    return total
