r"""Objectives: (denoiser, x_0, condition) -> one loss for each sample.

Every squared error can be stated on x_0: an error D of the target a x_0 + b eps is an error -(sigma / d) D of x_0,
d = alpha b - sigma a. A weighting is a function of the log-SNR on that x_0 error, and so works with any target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Denoiser


@dataclass(frozen=True, slots=True)
class Loss:
    """total: (B,), what is averaged and minimised. logs: named (B,) parts of it. t: (B,), the times that were drawn,
    ``None`` where there are none.

    unweighted: (B,), the squared error of what the network predicts, before a weighting and importance weights: the
    same quantity under two weightings of one target. ``None`` where the loss has none.
    """

    total: Tensor
    logs: dict[str, Tensor]
    t: Tensor | None
    unweighted: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a loss may use beyond its batch.

    number: the model's own optimizer steps so far, in validation too. total: of the training, ``None`` where unlimited.
    average: the averaged twin of the denoiser, frozen. replay: a context in which the global generators draw the
    dropout of this batch's first pass again.
    """

    number: int
    total: int | None
    average: Denoiser | None
    replay: Callable[[], AbstractContextManager[Any]]


class Criterion:
    """What any training minimises: what it holds beside the model, and what it learns from losses.

    teacher: a model of another run that the loss uses; frozen, not in the checkpoint, named by its identity.
    extra: modules that are trained with the model, such as a weighting that adapts.
    rival: a second player's network, with an optimizer of its own; ``None`` without one.
    ratio: updates of the rival for one of the model.
    rival_optimizer: parameters -> optimizer; the model's own kind where ``None``.
    """

    teacher: nn.Module | None = None
    extra: Mapping[str, nn.Module] = MappingProxyType({})
    rival: nn.Module | None = None
    ratio: int = 1
    rival_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None

    def rival_plays(self, step: Step) -> bool:
        """Is the rival updated at this step?"""
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from losses, for a checkpoint: a resumed training draws as an undisturbed one."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from a :meth:`state_dict`."""


class Objective(Criterion, ABC):
    """What the training of a denoiser minimises."""

    teacher: DiffusionModel | None = None

    conditioned: bool = True
    """Does the network read the condition? A conditioner that nothing reads is not trained."""
    sampled: bool = True
    """Does it train a denoiser, from which samples can be drawn?"""

    @abstractmethod
    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        """x0 (B, ...), the data or its latents -> the loss of each sample.

        randomness: where times and noise are drawn from; torch's global generator where ``None``.
        step: how far the training is; ``None`` outside of one.
        """

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Raises:
        ValueError: this objective cannot train that model; called before training starts.
        """

    def after_step(self, denoiser: NetworkDenoiser, step: Step) -> None:
        """Called after each optimizer step: for a twin of the denoiser with a rate of its own."""


class Adversary(Objective):
    """An objective with a second player: a discriminator, or a network that learns the scores of generated samples."""

    rival: nn.Module

    @abstractmethod
    def rival_loss(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        """x0 (B, ...) -> what the rival minimises, for each sample; the model is frozen meanwhile."""


class TimeDistribution(ABC):
    """A distribution of training times."""

    @abstractmethod
    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        """((B,) float64 times in (0, 1], (B,) importance weights 1 / (density) or ``None`` where all are 1)."""

    def check(self, schedule: Schedule) -> None:  # noqa: B027 - most distributions serve any schedule
        """Raises:
        ValueError: this distribution is not defined on that schedule; called before training starts.
        """

    def update(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027 - most distributions do not learn
        """Called with the losses (B,) that the times (B,) gave in training; for distributions that adapt to them."""

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned from losses, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - most distributions have none
        """Continues from a :meth:`state_dict`."""


class Weighting(ABC):
    """A weight on the squared x_0 error, as a function of the log-SNR."""

    @abstractmethod
    def on_x0(self, log_snr: Tensor) -> Tensor:
        """(B,) log-SNR -> (B,) weights, float64."""

    def on_target(self, log_snr: Tensor, gain: Tensor) -> Tensor:
        """The same weight on the target's squared error; ``gain`` (B,) is (sigma / d)^2."""
        return self.on_x0(log_snr) * gain
