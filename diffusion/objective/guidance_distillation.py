"""Guidance distillation: a student that is told the scale gives in one call what its guided teacher gives in two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.objective.base import Loss, Step, TimeDistribution, Weighting
from diffusion.objective.noising import NoisingObjective, squared_error
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.types import Cond


class GuidanceDistillationObjective(NoisingObjective, TaughtObjective):
    """w(log-SNR) ||x_0(student, scale) - x_0(guided teacher)||^2 at a random level (Meng et al. 2023, eq. 3).

    The student is sampled with guidance=distilled, and is the teacher of objective=progressive for fewer steps.

    Args:
        teacher, scales: see :class:`diffusion.objective.teaching.TaughtObjective`.
        weighting: the paper's is truncated_snr.
        time_distribution: the distribution of levels.

    Raises:
        ValueError: no scales.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        scales: Sequence[float] = (1.0, 5.0),
    ) -> None:
        if scales is None:
            raise ValueError(
                "guidance is distilled for scales between two numbers, got null; set objective.scales=[1,5]"
            )
        TaughtObjective.__init__(self, teacher, scales)
        NoisingObjective.__init__(self, time_distribution)
        self.weighting = weighting

    def check(self, denoiser: NetworkDenoiser) -> None:
        NoisingObjective.check(self, denoiser)
        TaughtObjective.check(self, denoiser)

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        randomness = randomness or GlobalRandomness(x0)
        noised, scale = self.noised(denoiser, x0, randomness), self.scale(randomness, x0)
        with torch.no_grad():
            wanted = TeacherDenoiser(self.teacher, denoiser.schedule, scale)(noised.x, noised.t, cond).x0
        mse = squared_error(denoiser(noised.x, noised.t, told(denoiser, cond, scale)).x0, wanted)
        return self.finish(denoiser, self.weighting.on_x0(noised.log_snr).to(mse) * mse, {"mse": mse}, noised, mse)
