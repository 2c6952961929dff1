"""One draw of the forward process for a batch: what every objective begins and ends with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, TimeDistribution
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.types import combine, to_device_async


@dataclass(frozen=True, slots=True)
class Noised:
    """x = alpha x_0 + sigma eps (B, ...) at times t (B,) float64; importance (B,) or ``None`` where all are 1.

    eps is what a target is made of; with input perturbation x holds more noise than it.
    """

    x: Tensor
    eps: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    importance: Tensor | None

    @property
    def log_snr(self) -> Tensor:
        """log(alpha^2 / sigma^2), (B,)."""
        return 2 * (self.alpha.log() - self.sigma.log())


class NoisingObjective(Objective):
    """An objective at one random level a sample.

    Args:
        time_distribution: the distribution of levels.
        offset_noise: adds this times a standard normal for each sample and channel to eps, so that the mean of a
            image is learned too (Guttenberg 2023); Lin et al. (2024) prefer zero terminal SNR.
        input_perturbation: adds this times fresh noise to the eps of the input and not of the target
            (Ning et al. 2023, algorithm 1; 0.1 there).
    """

    def __init__(
        self, time_distribution: TimeDistribution, offset_noise: float = 0.0, input_perturbation: float = 0.0
    ) -> None:
        if offset_noise < 0 or input_perturbation < 0:
            raise ValueError(
                f"offset_noise and input_perturbation are 0 or above, got {offset_noise} and {input_perturbation}; "
                "set objective.offset_noise and objective.input_perturbation"
            )
        self.time_distribution = time_distribution
        self.offset_noise = offset_noise
        self.input_perturbation = input_perturbation

    def check(self, denoiser: NetworkDenoiser) -> None:
        self.time_distribution.check(denoiser.schedule)

    def noised(self, denoiser: NetworkDenoiser, x0: Tensor, randomness: Randomness | None) -> Noised:
        """Times, then noise, from ``randomness``."""
        randomness = randomness or GlobalRandomness(x0)
        t, importance = self.time_distribution(denoiser, randomness)
        alpha, sigma = denoiser.schedule.coefficients(t)
        eps = randomness.randn_like(x0)  # on the host, as t: while a GPU is still at work
        if t.device != x0.device:  # a sample's numbers go there in one copy
            numbers = t, alpha, sigma, torch.ones_like(t) if importance is None else importance.to(t)
            t, alpha, sigma, weight = to_device_async(torch.stack(numbers), x0.device).unbind()
            importance = None if importance is None else weight
        if self.offset_noise:
            each = x0[:, :, *[slice(0, 1)] * (x0.ndim - 2)]
            eps = eps + self.offset_noise * randomness.randn_like(each)
        seen = eps
        if self.input_perturbation:
            seen = combine(1.0, eps, self.input_perturbation, randomness.randn_like(x0))
        x = combine(alpha, x0, sigma, seen)
        return Noised(x, eps, t, alpha, sigma, None if importance is None else importance.to(t))

    def finish(
        self,
        denoiser: NetworkDenoiser,
        loss: Tensor,
        logs: dict[str, Tensor],
        noised: Noised,
        unweighted: Tensor | None = None,
    ) -> Loss:
        """Times learn from the loss (B,) while training, and it gets its importance weight.

        unweighted: see :class:`Loss`.
        """
        if denoiser.training:
            self.time_distribution.update(noised.t, loss.detach())
        if noised.importance is not None:
            loss = noised.importance.to(loss) * loss
        return Loss(loss, logs, noised.t, unweighted)

    def state_dict(self) -> dict[str, Tensor]:
        return self.time_distribution.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.time_distribution.load_state_dict(state)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a - b)^2 over everything but the batch, (B,), in float32 at least."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) - b.to(dtype)).square().flatten(1).mean(1)
