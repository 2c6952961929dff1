"""A model down to a noise level, and a second one from there."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion.pipeline.base import Request
from diffusion.pipeline.single import SinglePipeline
from diffusion.pipeline.staged import StagedPipeline


class RefinePipeline(StagedPipeline):
    """The base's sampler goes down to ``time``, the refiner's takes over at the same noise (Podell et al. 2023, SDXL,
    section 2.5, where the refiner was trained on the last 200 of 1000 levels).

    Args:
        base, refiner: of the same images or latents; their schedules may differ.
        time: of the base's schedule where the refiner takes over, in (0, 1).
        options: batch_size, labels, columns, identities, see :class:`StagedPipeline`.

    Raises:
        ValueError: a time outside (0, 1), or models of other latents.
    """

    def __init__(self, base: SinglePipeline, refiner: SinglePipeline, time: float = 0.2, **options: Any) -> None:
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 < time < 1:
            raise ValueError(f"pipeline.time is where the refiner takes over, between 0 and 1, got {time!r}")
        mine, theirs = base.model.autoencoder.sha256, refiner.model.autoencoder.sha256
        if base.shape != refiner.shape or mine != theirs:
            raise ValueError(
                f"pipeline.refiner goes on from {tuple(refiner.shape)} of the autoencoder {(theirs or 'none')[:12]}, "
                f"and pipeline.base draws {tuple(base.shape)} of {(mine or 'none')[:12]}; name runs on the same latents"
            )
        self.base, self.refiner, self.time = base, refiner, time
        super().__init__({"base": base, "refiner": refiner}, "base", **options)

    def through(self, index: Tensor, seed: int, request: Request) -> Tensor:
        x = self.base.state(index, seed, self.of(self.base, request), end=self.time)
        level, schedule = self.base.model.schedule.level(self.time), self.refiner.model.schedule
        there = schedule.level(schedule.time(level.noise))
        own, seed = self.of(self.refiner, request), self.seed_of("refiner", seed)
        x = x.to(self.refiner.model.dtype)
        return self.refiner.decoded(self.refiner.state(index, seed, own, start=(x / level.alpha, there.t)))
