"""Multistep solvers: one call a step, the polynomial through earlier answers for the rest."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike

Past = tuple[tuple[Level, Tensor], ...]
"""Levels and the network's answers there, the newest first."""


class MultistepSampler(Sampler):
    """The DDIM step and a sum of differences between earlier answers and the newest one.

    The first steps, which have no past, are of lower order: on evenly spaced times that bounds the order of the whole
    at 2, and the declared one is seen where the first steps are small.

    answer: which of E[x_0 | x] and E[eps | x] is extrapolated.
    """

    answer: Literal["x0", "eps"]

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Past | None, randn_like: RandnLike
    ) -> tuple[Tensor, Past]:
        prediction = denoise(x, cur.t)
        newest: Tensor = getattr(prediction, self.answer)
        past: Past = ((cur, newest), *(state or ()))[: self.keeps]
        out = prediction.mix(nxt.alpha, nxt.sigma)
        usable = [entry for entry in past if entry[0].alpha > 0]
        if len(usable) < 2 or cur.alpha == 0:
            return out, past
        extra = self.differences(nxt, [level for level, _ in usable])
        if any(extra):
            out = out.sub(newest, alpha=sum(extra))
            for c, (_, value) in zip(extra, usable[1:], strict=True):
                out.add_(value, alpha=c)
        return out, past

    @property
    def keeps(self) -> int:
        """Answers that are remembered, the newest among them."""
        return self.order

    @abstractmethod
    def differences(self, nxt: Level, past: list[Level]) -> list[float]:
        """What each older answer minus the newest is multiplied by, from ``past[0]`` to ``nxt``; alpha above 0."""
