"""Adaptive projected guidance: strong scales without over-saturation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion.guidance.base import with_x0
from diffusion.guidance.classifier_free import ClassifierFreeGuidance, Mode, needs_condition, without
from diffusion.guidance.strength import Scale
from diffusion.types import Cond, Denoiser, Prediction, expand


class APGGuidance(ClassifierFreeGuidance):
    """The difference cond - uncond of x_0, its length limited, its part along the conditional x_0 weakened
    (Sadat et al. 2024, algorithm 1).

    Args:
        scale, interval, mode: see :class:`ClassifierFreeGuidance`.
        parallel: the paper's eta, what is kept of the part along the conditional x_0; 1 keeps all.
        norm: the paper's r, the greatest length of a sample's difference; ``None`` sets no limit.
        momentum: the paper's beta, negative there: each level's difference gets this times the level's before. It is
            forgotten when sampling starts anew, which shows in a level noisier than the last.
    """

    key = "guidance.apg"

    def __init__(
        self,
        denoiser: Denoiser,
        scale: Scale = 4.0,
        interval: list[float] | None = None,
        mode: Mode = "auto",
        parallel: float = 0.0,
        norm: float | None = None,
        momentum: float = -0.5,
    ) -> None:
        if norm is not None and not norm > 0:
            raise ValueError(f"the limit of the difference's length is above 0, got {norm}; set {self.key}.norm")
        if not -1 < momentum < 1:
            raise ValueError(f"the momentum lies in (-1, 1), got {momentum}; set {self.key}.momentum")
        if isinstance(scale, Mapping):
            raise ValueError(
                f"{self.key}.scale is one scale for the whole condition, got one for each of {list(scale)}; "
                "use guidance=classifier_free for scales by part"
            )
        super().__init__(denoiser, scale, interval, mode)
        self.pointwise = self.pointwise and momentum == 0
        self.parallel = parallel
        self.norm = norm
        self.momentum = momentum
        self._last: tuple[float, Tensor | float, Tensor] | None = None  # t, the average before it, the average at it

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if self.scale != 1:
            needs_condition(cond, self.key)
        scale = self.strengths[None].at(self.schedule, x, t)
        if isinstance(scale, float) and scale == 1.0:
            return self.denoiser(x, t, cond)
        with_cond, null = self.predict(x, t, without(cond, [None]))
        difference = self._average(with_cond.x0 - null.x0, t)
        if self.norm is not None:
            difference = difference * (self.norm / _length(difference)).clamp(max=1)
        along = with_cond.x0 / _length(with_cond.x0)
        parallel = (difference * along).flatten(1).sum(1).reshape(-1, *[1] * (x.ndim - 1)) * along
        update = difference - (1 - self.parallel) * parallel
        more = expand((scale - 1).to(x), x) if isinstance(scale, Tensor) else scale - 1
        return with_x0(self.schedule, with_cond, with_cond.x0 + more * update, x, t)

    def _average(self, difference: Tensor, t: Tensor | float) -> Tensor:
        """The difference with momentum. A second call at one level takes the place of the first (Heun, restarts)."""
        if self.momentum == 0 or (isinstance(t, Tensor) and t.numel() > 1):
            return difference  # samples at levels of their own are no course of sampling
        at = float(t)
        before: Tensor | float = 0.0
        if self._last is not None and self._last[2].shape == difference.shape:
            if at == self._last[0]:
                before = self._last[1]
            elif at < self._last[0]:
                before = self._last[2]
        average = difference + self.momentum * before
        self._last = (at, before, average)
        return average


def _length(x: Tensor) -> Tensor:
    tiny = torch.finfo(x.dtype).tiny
    return x.flatten(1).norm(dim=1).clamp(min=tiny).reshape(-1, *[1] * (x.ndim - 1))
