"""RePaint: inpainting that lets the hidden part and the known one agree."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.inpaint import InpaintGuidance
from diffusion.operator.mask import MaskOperator
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import Denoiser, RandnLike, combine


class RePaintGuidance(InpaintGuidance):
    """Inpainting by replacement in which stretches of ``jump_length`` steps are taken ``repeats`` times, noise being
    added back in between (Lugmayr et al. 2022, algorithm 1, and the schedule of their appendix B).

    With j = jump_length, the stretches end 1, 1 + j, 1 + 2 j, ... steps before clean data; one that would begin before
    the first step is left out. T steps cost T + (repeats - 1) j ((T - 1) // j) calls of a one-call sampler. List it in
    the last place of ``guidance=[...]``: what stands before it acts on every repeated step, what follows on the last.

    Args:
        repeats: the paper's r, 1 is plain replacement.
        jump_length: the paper's j; 1 repeats every single step.
        operator, measurement, simulate: see :class:`InpaintGuidance`.
    """

    key = "guidance.repaint"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: MaskOperator,
        measurement: Tensor | str,
        simulate: bool = True,
        repeats: int = 10,
        jump_length: int = 10,
    ) -> None:
        if repeats < 1 or jump_length < 1:
            raise ValueError(
                "stretches of 1 step or more are taken once or more, "
                f"got jump_length={jump_length} and repeats={repeats}; "
                f"set {self.key}.jump_length and {self.key}.repeats"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self.repeats = repeats
        self.jump_length = jump_length

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        def replaced(x: Tensor, cur: Level, nxt: Level) -> Tensor:
            return super(RePaintGuidance, self).after(x, cur, nxt, replay, randn_like)

        x = replaced(x, cur, nxt)
        if replay.left == 0 or (replay.left - 1) % self.jump_length or replay.taken < self.jump_length:
            return x
        start = replay.level(self.jump_length)
        std = math.sqrt(between(start, nxt).large)  # of jump_length steps of noise at once
        for _ in range(self.repeats - 1):
            x = replay(combine(start.alpha / nxt.alpha, x, std, randn_like(x)), self.jump_length, replaced)
        return x
