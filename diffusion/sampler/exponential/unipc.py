"""UniPC: a predictor and a corrector that share one call."""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.base import weights
from diffusion.sampler.multistep import Past
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing, combine

Variant = Literal["bh1", "bh2"]
State = tuple[Tensor, Tensor, Past]
"""The corrected state at the newest level of the past, what was predicted from it, and the past."""


class UniPCSampler(Sampler):
    """Multistep predictor UniP-p, then corrector UniC-p with the next step's answer, on E[x_0 | x] (Zhao et al. 2023).

    Both integrate the polynomial through p (p + 1 for the corrector) answers in lam exactly, so that
    B(h) matters only where one difference is left, which takes half of B(h): -h in bh1, e^-h - 1 in bh2.

    Args:
        predictor: p, the answers that the predictor uses, 1 to 3. With its corrector it has order p + 1.
        variant: B(h).

    Raises:
        ValueError: another p or variant.
    """

    invertible = True
    spacing = LogSNRSpacing()

    def __init__(
        self, steps: int = 10, spacing: Spacing | None = None, predictor: int = 2, variant: Variant = "bh2"
    ) -> None:
        super().__init__(steps, spacing)
        if predictor not in (1, 2, 3):
            raise ValueError(f"UniPC's predictor uses 1 to 3 answers, got {predictor}; set sampler.predictor")
        if variant not in get_args(Variant):
            raise ValueError(f"variant is bh1 or bh2, got {variant!r}; set sampler.variant")
        self.predictor = predictor
        self.variant = variant
        self.order = predictor + 1

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State]:
        x0 = denoise(x, cur.t).x0
        past: Past = ()
        if state is not None:
            before, predicted, past = state
            corrected = self._move(before, past, cur, x0)
            x = corrected if x is predicted else x + (corrected - predicted)  # guidance has moved it since
        past = ((cur, x0), *past)[: self.predictor]
        predicted = self._move(x, past, nxt)
        return predicted, (x, predicted, past)

    def _move(self, x: Tensor, past: Past, nxt: Level, arrived: Tensor | None = None) -> Tensor:
        """x from the past's newest level to ``nxt``; ``arrived`` is the answer there, where it is known."""
        cur, newest = past[0]
        ratio = nxt.sigma / cur.sigma
        out = combine(ratio, x, nxt.alpha - cur.alpha * ratio, newest)
        if cur.alpha == 0 or nxt.sigma == 0:  # h is infinite: the DDIM step
            return out
        h = nxt.lam - cur.lam
        others = [((level.lam - cur.lam) / h, value) for level, value in past[1:] if level.alpha > 0]
        if arrived is not None:
            others.append((1.0, arrived))
        if len(others) == 1:
            scale = h if self.variant == "bh1" else -math.expm1(-h)
            found = [scale / 2 / others[0][0]]
        else:
            found = weights(h, [0.0, *(r for r, _ in others)])[1:]
        for w, (_, value) in zip(found, others, strict=True):
            out = out.add(value, alpha=nxt.alpha * w).sub_(newest, alpha=nxt.alpha * w)
        return out
