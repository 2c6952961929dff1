"""Uniform draws for a batch, and from them times: what every distribution starts from and ends with."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.schedule.base import Schedule
from diffusion.types import Randomness

Coupling = Literal["independent", "stratified", "antithetic"]


def check_coupling(coupling: str) -> None:
    """Raises:
    ValueError: an unknown coupling.
    """
    if coupling not in get_args(Coupling):
        raise ValueError(
            f"draws are independent, stratified or antithetic, got {coupling!r}; set objective.times.coupling"
        )


def uniforms(randomness: Randomness, coupling: Coupling) -> Tensor:
    """(B,) numbers in [0, 1), each uniform, float64.

    stratified: one offset for the batch, u_i = (u_0 + i / B) mod 1 (Kingma et al. 2021, appendix I.1); antithetic: the
    second half is 1 - u of the first (Song et al. 2021, DDIM's code). Both lower the variance of the batch's loss by
    tying its samples together, so that a sample's time depends on its place in the batch of its rank.
    """
    u = randomness.rand()
    if coupling == "stratified":
        return (u[0] + torch.arange(len(u), dtype=u.dtype, device=u.device) / len(u)) % 1
    if coupling == "antithetic":
        half = u[: (len(u) + 1) // 2]
        return torch.cat((half, (1 - half[: len(u) // 2]) % 1))
    return u


def on_knots(schedule: Schedule, t: Tensor) -> Tensor:
    """Times moved to the nearest knot of a table, not below the first; as they are, above 0, without a table."""
    if schedule.steps is None:
        return t.clamp(min=torch.finfo(torch.float32).tiny, max=1)
    return (t * schedule.steps).round().clamp(1, schedule.steps) / schedule.steps
