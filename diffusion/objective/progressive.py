"""Progressive distillation: one step of the student is two of its teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.objective.base import Loss, Step, Weighting
from diffusion.objective.noising import squared_error
from diffusion.objective.pairs.neighbours import NeighbourPairs
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Spacing, combine


class ProgressiveObjective(TaughtObjective):
    r"""w(log-SNR) ||x_0(student) - X||^2, where DDIM's step from t to s by X is the teacher's two, t -> m -> s
    (Salimans & Ho 2022, algorithm 2). In n = sigma / alpha both are straight lines of x / alpha, and so

        X = (1 - w) X_1 + w X_2,   w = (1 - n_s / n_m) / (1 - n_s / n_t)

    of the teacher's x_0 at t and at m. The student starts from its teacher (``initial.run``) and is sampled with the
    same steps by sampler=ddim or flow_map; it is the teacher of the next halving.

    Args:
        teacher, scales: see :class:`TaughtObjective`.
        weighting: the paper's is truncated_snr.
        spacing: the times of the teacher's steps, which are the student's and one between each two of them.
        teacher_steps: an even number; the student takes half as many.

    Raises:
        ValueError: an odd number of steps.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        weighting: Weighting,
        spacing: Spacing,
        teacher_steps: int = 16,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__(teacher, scales)
        if isinstance(teacher_steps, bool) or not isinstance(teacher_steps, int) or teacher_steps < 2:
            raise ValueError(
                f"a teacher takes a whole number of steps, at least 2, got {teacher_steps!r}; "
                "set objective.teacher_steps"
            )
        if teacher_steps % 2:
            raise ValueError(
                f"the student takes half of its teacher's steps, and {teacher_steps} are odd; "
                "set objective.teacher_steps to an even number"
            )
        self.weighting = weighting
        self.spacing = spacing
        self.teacher_steps = teacher_steps
        self.pairs = NeighbourPairs(spacing, teacher_steps // 2, clean=True)

    def check(self, denoiser: NetworkDenoiser) -> None:
        super().check(denoiser)
        self.pairs.check(denoiser.schedule)
        self.between(denoiser.schedule)
        before = (self.teacher.config or {}).get("objective") or {}
        if str(before.get("_target_")).endswith(type(self).__name__):
            steps = int(before["teacher_steps"]) // 2
            if steps != self.teacher_steps:
                raise ValueError(
                    f"the teacher was distilled to {steps} steps, and objective.teacher_steps is "
                    f"{self.teacher_steps}; set objective.teacher_steps={steps}"
                )

    def between(self, schedule: Schedule) -> Tensor:
        """The times between neighbours of the student's grid, rising, float64.

        Raises:
            ValueError: a spacing whose times of half as many steps are not every second one of these.
        """
        fine = self.spacing(schedule, self.teacher_steps)[::-1]
        coarse = self.pairs.grid(schedule, self.teacher_steps // 2).tolist()
        if fine[::2] != coarse:
            raise ValueError(
                f"{type(self.spacing).__name__} with {self.teacher_steps // 2} steps does not visit every second time "
                f"of its {self.teacher_steps}, so that a step of the student is not two of the teacher; use "
                "objective/spacing=trailing, on a table with a number of steps that divides its length"
            )
        return torch.tensor(fine[1::2], dtype=torch.float64)

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
        schedule = denoiser.schedule
        t, s = (at.to(x0.device) for at in self.pairs(denoiser, randomness, step))
        eps, scale = randomness.randn_like(x0), self.scale(randomness, x0)
        (alpha, sigma), below = schedule.coefficients(t), schedule.coefficients(s)
        x = combine(alpha, x0, sigma, eps)
        grid = self.pairs.grid(schedule, self.teacher_steps // 2).to(x0.device)
        m = self.between(schedule).to(x0.device)[torch.searchsorted(grid, s)]
        middle = schedule.coefficients(m)
        teacher = TeacherDenoiser(self.teacher, schedule, scale)
        with torch.no_grad():
            first = teacher(x, t, cond)
            second = teacher(first.at(schedule, m), m, cond)
            n = below[1] / below[0]
            share = (1 - n * middle[0] / middle[1]) / (1 - n * alpha / sigma)
            wanted = combine(1 - share, first.x0, share, second.x0)
        said = denoiser(x, t, denoiser.towards(x, s, told(denoiser, cond, scale))).x0
        mse = squared_error(said, wanted)
        weight = self.weighting.on_x0(2 * (alpha.log() - sigma.log())).to(mse)
        return Loss(weight * mse, {"mse": mse}, t, mse)
