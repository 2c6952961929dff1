"""DPM-Solver (M): the multistep DPM-Solver on the noise."""

from __future__ import annotations

import math

from diffusion.sampler.exponential.base import lagrange, moments
from diffusion.sampler.multistep import MultistepSampler
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import Spacing


class DPMSolverMSampler(MultistepSampler):
    """Differences of earlier E[eps | x] in lam: DPM-Solver++ (2M) for the noise (Lu et al. 2022b, Algorithm 2), and the
    three-answer form behind the published "DPM-Solver (M)".

    Its authors halve what one difference is given, as in 2M, and the leading term of the quadratic through three
    answers, so that it is of order 2; ``sampler=deis`` integrates the same quadratic exactly, which is order 3.

    Args:
        answers: how many answers it remembers, 2 or 3.

    Raises:
        ValueError: another number.
    """

    order = 2
    spacing = LogSNRSpacing()
    invertible = True
    answer = "eps"

    def __init__(self, steps: int = 20, spacing: Spacing | None = None, answers: int = 3) -> None:
        super().__init__(steps, spacing)
        if answers not in (2, 3):
            raise ValueError(f"DPM-Solver (M) remembers 2 or 3 answers, got {answers}; set sampler.answers")
        self.answers = answers

    @property
    def keeps(self) -> int:
        return self.answers

    def differences(self, nxt: Level, past: list[Level]) -> list[float]:
        h = nxt.lam - past[0].lam
        if math.isinf(h):
            return [0.0] * (len(past) - 1)
        known = moments(-h, len(past))
        known[-1] = known[0] / 2 if len(past) == 2 else known[2] / 2
        bases = lagrange([(level.lam - past[0].lam) / h for level in past])
        return [nxt.sigma * sum(c * m for c, m in zip(basis, known, strict=True)) for basis in bases[1:]]
