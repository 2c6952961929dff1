"""Score identity distillation: distribution matching by Fisher's divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from diffusion.model import DiffusionModel
from diffusion.objective.base import TimeDistribution, Weighting
from diffusion.objective.distribution_matching import DistributionMatchingObjective
from diffusion.objective.solve.base import Solve
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Denoiser, Spacing, scale


class ScoreIdentityObjective(DistributionMatchingObjective):
    r"""(D_teacher - D_fake) . ((D_teacher - x_0) - a (D_teacher - D_fake)) / mean|x_0 - D_teacher|, a mean over the
    elements, with the gradient through both denoisers (Zhou et al. 2024, SiD).

    With an exact D_fake the mean of the numerator is (1 - a) E||D_teacher - D_fake||^2: it may be negative.

    Args:
        a: 1.2 in the paper.
        others: see :class:`diffusion.objective.distribution_matching.DistributionMatchingObjective`.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        solve: Solve,
        spacing: Spacing,
        a: float = 1.2,
        ratio: int = 1,
        times: Sequence[float] = (1.0,),
        low: float = 0.001,
        high: float = 0.8,
        floor: float = 1e-5,
        regression: float = 0.0,
        steps: int = 25,
        adversarial: float = 0.0,
        rival_adversarial: float = 0.01,
        features: str | None = None,
        scales: Sequence[float] | None = None,
        rival_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        joint: bool = False,
    ) -> None:
        super().__init__(
            teacher, weighting, time_distribution, solve, spacing, ratio, times, low, high, floor, regression, steps,
            adversarial, rival_adversarial, features, scales, rival_optimizer, joint,
        )  # fmt: skip
        if not a >= 0:
            raise ValueError(f"the share of Fisher's divergence is at least 0, got {a}; set objective.a")
        self.a = a

    def match(
        self, teacher: Denoiser, made: Tensor, x: Tensor, t: Tensor, cond: Cond, schedule: Schedule
    ) -> tuple[Tensor, Tensor]:
        fake, judged = self.imitated(x, t, cond, schedule)
        real = teacher(x, t, cond).x0
        apart = real - fake.x0
        product = apart * ((real - made) - self.a * apart)
        return scale(1 / self.distance(made, real), product).flatten(1).mean(1), judged
