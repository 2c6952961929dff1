"""RePaint: inpainting that lets the hidden part and the known one agree."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.guidance.base import Again
from diffusion.guidance.inpaint import Inpaint
from diffusion.guidance.operator.mask import Mask
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import Denoiser, RandnLike, combine


class RePaint(Inpaint):
    """Inpainting by replacement in which each step is taken ``repeats`` times, noise being added back in between
    (Lugmayr et al. 2022, algorithm 1). Its network calls grow by that factor.

    Args:
        repeats: the paper's U; 1 is plain replacement. Its longer jumps are not offered.
        operator, measurement, simulate: see :class:`Inpaint`.
    """

    key = "guidance.repaint"

    def __init__(
        self, denoiser: Denoiser, operator: Mask, measurement: Tensor | str, simulate: bool = True, repeats: int = 10
    ) -> None:
        if repeats < 1:
            raise ValueError(f"a step is taken once or more, got repeats={repeats}; set {self.key}.repeats")
        super().__init__(denoiser, operator, measurement, simulate)
        self.repeats = repeats

    def after(self, x: Tensor, cur: Level, nxt: Level, again: Again, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, again, randn_like)
        if nxt.sigma == 0:
            return x
        std = math.sqrt(between(cur, nxt).large)
        for _ in range(self.repeats - 1):
            back = combine(cur.alpha / nxt.alpha, x, std, randn_like(x))
            x = super().after(again(back), cur, nxt, again, randn_like)
        return x
