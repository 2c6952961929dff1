r"""Objectives: (denoiser, x_0, condition) -> one loss for each sample.

Every squared error can be stated on x_0: an error D of the target a x_0 + b eps is an error -(sigma / d) D of x_0,
d = alpha b - sigma a. A weighting is a function of the log-SNR on that x_0 error, and so works with any target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond


@dataclass(frozen=True, slots=True)
class Loss:
    """total: (B,), what is averaged and minimised. logs: named (B,) parts of it. t: (B,), the times that were drawn."""

    total: Tensor
    logs: dict[str, Tensor]
    t: Tensor


class Objective(ABC):
    """What training minimises."""

    conditioned: bool = True
    """Does the network read the condition? A conditioner that nothing reads is not trained."""
    sampled: bool = True
    """Does it train a denoiser, from which samples can be drawn?"""

    @abstractmethod
    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, *, randomness: Randomness | None = None
    ) -> Loss:
        """x0 (B, ...), the data or its latents -> the loss of each sample.

        randomness: where times and noise are drawn from; torch's global generator where ``None``.
        """

    def check(self, denoiser: NetworkDenoiser) -> None:  # noqa: B027 - most objectives train anything
        """Raises:
        ValueError: this objective cannot train that model; asked before training starts.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from losses, for a checkpoint: a resumed training draws as an undisturbed one."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - most objectives have none
        """Goes on from a :meth:`state_dict`."""


class TimeDistribution(ABC):
    """A distribution of training times."""

    @abstractmethod
    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        """((B,) float64 times in (0, 1], (B,) importance weights 1 / (density) or ``None`` where all are 1)."""

    def check(self, schedule: Schedule) -> None:  # noqa: B027 - most distributions serve any schedule
        """Raises:
        ValueError: this distribution is not defined on that schedule; asked before training starts.
        """

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027 - most distributions do not learn
        """Told of the losses (B,) that the times (B,) gave in training; for distributions that adapt to them."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from losses, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - most distributions have none
        """Goes on from a :meth:`state_dict`."""


class Weighting(ABC):
    """A weight on the squared x_0 error, as a function of the log-SNR."""

    @abstractmethod
    def on_x0(self, log_snr: Tensor) -> Tensor:
        """(B,) log-SNR -> (B,) weights, float64."""

    def on_target(self, log_snr: Tensor, gain: Tensor) -> Tensor:
        """The same weight on the target's squared error; ``gain`` (B,) is (sigma / d)^2."""
        return self.on_x0(log_snr) * gain
