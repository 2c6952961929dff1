"""Matching a teacher: the student's x_0 is held to that of another run's model."""

from __future__ import annotations

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.base import placed, to_other
from diffusion.model import DiffusionModel
from diffusion.objective.base import Loss, Step, TimeDistribution, Weighting
from diffusion.objective.noising import NoisingObjective, squared_error
from diffusion.randomness import Randomness
from diffusion.types import Cond


class MatchingObjective(NoisingObjective):
    """w(log-SNR) ||x_0(student) - x_0(teacher)||^2 at a random level (Hinton et al. 2015, of regressors).

    The teacher sees the same data in the same noise, whatever its own schedule and target, under its own condition of
    the same columns. A student that starts from its teacher (``initial.run``) has a loss of 0; a smaller network learns
    the teacher's conditional means, which are less noisy targets than data.

    Args:
        teacher: another run's model.
        weighting, time_distribution, offset_noise, input_perturbation: see
            :class:`diffusion.objective.regression.RegressionObjective`.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        offset_noise: float = 0.0,
        input_perturbation: float = 0.0,
    ) -> None:
        super().__init__(time_distribution, offset_noise, input_perturbation)
        self.teacher = teacher
        self.weighting = weighting

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        assert self.teacher is not None
        noised = self.noised(denoiser, x0, randomness)
        x, t = to_other(denoiser.schedule, self.teacher.schedule, noised.x, noised.t)
        wanted = placed(self.teacher, x)(x, t, cond).x0
        mse = squared_error(denoiser(noised.x, noised.t, cond).x0, wanted.detach())
        return self.finish(denoiser, self.weighting.on_x0(noised.log_snr).to(mse) * mse, {"mse": mse}, noised, mse)
