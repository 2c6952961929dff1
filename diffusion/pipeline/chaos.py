"""More spread between the images of one prompt: the condition is noise while sampling begins."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance
from diffusion.types import Cond, Denoiser, Prediction, RandnLike

STRENGTH = 0.25
"""CADS' s: the standard deviation of the noise over that of the condition."""


class AnnealedCondition(Guidance):
    r"""Condition-annealed sampling (CADS, Sadat et al. 2024, section 4): in place of y, the condition's vector and
    tokens, the denoiser is given at time t

        y_t = mean(y) + std(y) (z - mean(z)) / std(z),
        z = sqrt(g) y + s std(y) sqrt(1 - g) n,   g(t) = (b - t) / (b - a), between 0 and 1,

    with a = 1 - chaos, b = 1 - chaos / 4 and s = 0.25: the paper's equation 3 with its rescaling in full (psi = 1), a
    and b its tau_1 and tau_2. Below a it is y to the bit. Mean and standard deviation are those of one sample, over its
    tokens that count; n is standard normal and drawn once for a sample (the paper draws it at each step), so that y_t
    is a function of t, the equation that a sampler solves is the same for any number of steps, and any sampler solves
    it. The null condition stays as it is, and so does an image.

    Args:
        denoiser: guided or not.
        cond: of the samples.
        chaos: in (0, 1].
        randn_like: the noise of these samples, which is no other's.
    """

    def __init__(self, denoiser: Denoiser, cond: Cond, chaos: float, randn_like: RandnLike) -> None:
        super().__init__(denoiser)
        self.chaos = chaos
        self.noise = [randn_like(values) for values in _values(cond)]

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        share = kept(self.chaos, float(t))
        return self.denoiser(x, t, cond if share == 1 else annealed(cond, share, iter(self.noise)))


def kept(chaos: float, t: float) -> float:
    """g(t), the share of the condition's variance that is not noise."""
    low, high = 1 - chaos, 1 - chaos / 4
    return 1.0 if t <= low else max(0.0, (high - t) / (high - low))


def check_chaos(chaos: float, widths: int, times: list[float]) -> None:
    """widths: of the condition's vector and tokens. times: at which a sampler begins its steps.

    Raises:
        ValueError: no number in [0, 1], a model without a condition, or steps of which none sees it.
    """
    if isinstance(chaos, bool) or not 0 <= chaos <= 1:
        raise ValueError(f"chaos is a number from 0 to 1, got {chaos!r}; set chaos to such a number")
    if not chaos:
        return
    if not widths:
        raise ValueError("chaos is noise on a condition's vector and tokens, and this model has none; leave chaos out")
    if kept(chaos, min(times)) == 0:
        raise ValueError(
            f"chaos={chaos} hides the condition above the time {1 - chaos / 4:g}, and this sampler has no step below; "
            "set chaos to 0, or sampler.steps to more"
        )


def annealed(cond: Cond, share: float, noise: Iterator[Tensor]) -> Cond:
    """The condition with the noise of :class:`AnnealedCondition` in its vectors and tokens, part by part; noise: in the
    order of the parts, a vector's before the tokens'."""
    if cond.parts:
        return cond.with_parts({name: annealed(part, share, noise) for name, part in cond.parts.items()})
    vector = None if cond.vector is None else _noised(cond.vector, share, next(noise), None)
    tokens = None if cond.tokens is None else _noised(cond.tokens, share, next(noise), cond.mask)
    return cond.with_values(vector, tokens)


def _values(cond: Cond) -> Iterator[Tensor]:
    for part in cond.parts.values():
        yield from _values(part)
    if not cond.parts:
        yield from (values for values in (cond.vector, cond.tokens) if values is not None)


def _noised(y: Tensor, share: float, noise: Tensor, mask: Tensor | None) -> Tensor:
    """(B, D) or (B, L, D) with a mask (B, L) of the tokens that count."""
    counts = torch.ones_like(y[..., :1]) if mask is None else mask[..., None].to(y)
    mean, std = _moments(y, counts)
    noised = share**0.5 * y + STRENGTH * (1 - share) ** 0.5 * std * noise
    middle, spread = _moments(noised, counts)
    tiny = torch.finfo(y.dtype).tiny
    return torch.where(counts > 0, mean + std / spread.clamp_min(tiny) * (noised - middle), y)


def _moments(y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each sample, (B, 1) or (B, 1, 1), over the values that count."""
    dims = tuple(range(1, y.ndim))
    n = (counts.expand_as(y)).sum(dims, keepdim=True).clamp_min(1)
    mean = (counts * y).sum(dims, keepdim=True) / n
    return mean, ((counts * (y - mean) ** 2).sum(dims, keepdim=True) / n).sqrt()
