"""Inpainting by replacement: what is known is put in its place after every step."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.mask import MaskOperator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, combine


class InpaintGuidance(MeasurementGuidance):
    """After each step the seen pixels become alpha y + sigma z, fresh noise each time (Song et al. 2021, score SDE,
    appendix I.2). Quick, and the hidden part follows only through the network; RePaint goes back and forth.

    Args:
        operator: what is hidden; a mask.
        measurement, simulate: see :class:`MeasurementGuidance`.

    Raises:
        ValueError: an operator that is no mask.
    """

    key = "guidance.inpaint"

    def __init__(
        self, denoiser: Denoiser, operator: MaskOperator, measurement: Tensor | str, simulate: bool = True
    ) -> None:
        if not isinstance(operator, MaskOperator):
            raise ValueError(
                f"pixels are replaced where a mask shows them, got the operator {type(operator).__name__}; "
                "use guidance=pigdm or dps for it"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self._mask = operator

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        return self.denoiser(x, t, cond)

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        return self.replaced(super().after(x, cur, nxt, replay, randn_like), nxt, randn_like)

    def replaced(self, x: Tensor, level: Level, randn_like: RandnLike) -> Tensor:
        """x at ``level`` with the seen pixels known."""
        y, seen = self.y(x).expand_as(x), self._mask.seen(x)
        return seen * self.known(y, level, randn_like) + (1 - seen) * x

    def known(self, y: Tensor, level: Level, randn_like: RandnLike) -> Tensor:
        """y (B, C, H, W) at ``level``; itself in the end, where a sampler's last level keeps some noise, too."""
        return y if level.t == 0 else combine(level.alpha, y, level.sigma, randn_like(y))
