"""Uniform draws for a batch, and from them times: what every distribution starts from and ends with."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule

Coupling = Literal["independent", "stratified", "antithetic"]


def check_coupling(coupling: str) -> None:
    """Raises:
    ValueError: an unknown coupling.
    """
    if coupling not in get_args(Coupling):
        raise ValueError(
            "draws are independent, stratified or antithetic, "
            f"got {coupling!r}; set objective.time_distribution.coupling"
        )


def uniforms(randomness: Randomness, coupling: Coupling) -> Tensor:
    """(B,) numbers in [0, 1), each uniform, float64.

    stratified: one offset for the batch, u_i = (u_0 + i / B) mod 1 (Kingma et al. 2021, appendix I.1); antithetic:
    neighbours are u and 1 - u (Song et al. 2021, DDIM's code, which pairs the two halves). Both lower the variance of
    the batch's loss by tying its samples together. The batch is that of the optimizer step, however it is split over
    ranks and accumulated parts.
    """
    place = randomness.place
    if coupling == "stratified":
        return (randomness.shared(torch.zeros_like(place)) + place.double() / randomness.size) % 1
    if coupling == "antithetic":
        u = randomness.shared(place // 2)
        return torch.where(place % 2 == 0, u, (1 - u) % 1)
    return randomness.rand()


def on_knots(schedule: Schedule, t: Tensor) -> Tensor:
    """Times moved to the nearest knot of a table, not below the first; as they are, above 0, without a table."""
    if schedule.steps is None:
        return t.clamp(min=torch.finfo(torch.float32).tiny, max=1)
    return (t * schedule.steps).round().clamp(1, schedule.steps) / schedule.steps
