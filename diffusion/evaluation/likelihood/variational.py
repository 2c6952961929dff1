"""The variational bound of a discrete chain."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from diffusion.evaluation.likelihood.base import Likelihood
from diffusion.objective.variational import Variance, bits_per_dim, check_pointwise, table_of
from diffusion.randomness import KeyedRandomness
from diffusion.types import Cond, Denoiser


class VariationalLikelihood(Likelihood):
    """The bound over the full chain of the schedule's table, T calls an image (Ho et al. 2020, eq. 5; see
    :mod:`diffusion.objective.variational`).

    Args:
        num_samples, batch_size: see :class:`Likelihood`.
        variance: of the reverse steps, small, large or learned; ``None`` is learned where the network predicts it and
            large elsewhere, as in the paper's code for CIFAR-10.
    """

    name = "variational"

    def __init__(self, num_samples: int | None = None, batch_size: int = 128, variance: Variance | None = None) -> None:
        super().__init__(num_samples, batch_size)
        if variance is not None and variance not in get_args(Variance):
            raise ValueError(
                f"the variance is small, large, learned or null, got {variance!r}; set evaluation.likelihood.variance"
            )
        self.variance = variance

    def check(self, denoiser: Denoiser) -> None:
        table_of(denoiser.schedule)
        check_pointwise(denoiser)

    def bits(self, denoiser: Denoiser, x0: Tensor, cond: Cond, random: KeyedRandomness) -> Tensor:
        return bits_per_dim(denoiser, x0, cond, variance=self.variance, randomness=random).total
