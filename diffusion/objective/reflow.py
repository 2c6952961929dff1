"""Reflow: straight paths between noise and what a teacher's ODE makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.condition import DROPPED
from diffusion.denoiser import NetworkDenoiser
from diffusion.files import replacing
from diffusion.model import DiffusionModel
from diffusion.objective.base import Loss, Step, TimeDistribution
from diffusion.objective.flow_map import velocity
from diffusion.objective.metric.base import Metric
from diffusion.objective.solve.base import Solve
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import COUPLED, GlobalRandomness, KeyedRandomness, Randomness
from diffusion.types import Cond, Denoiser, Spacing, combine, scale, to_device_async


class ReflowObjective(TaughtObjective):
    """d(v(x_t, t), eps - x_0) of pairs of noise and the x_0 that the teacher's ODE makes of it (Liu et al. 2023,
    rectified flow, algorithm 1), v = eps - x_0 of the student's prediction.

    Pairs do not cross, so that paths become straight and one step of Euler exact. The one-step student of InstaFlow's
    last stage (Liu et al. 2024) has ``time_distribution=listed``, t = 1 alone.

    Each sample of the data has one pair, a function of its number and of ``seed``, under its own condition; it is drawn
    the first time that it is met, and kept: in memory, and in a file of ``folder``. A new pair is drawn in every step
    without a folder, and in validation.

    Args:
        teacher, scales: see :class:`diffusion.objective.teaching.TaughtObjective`.
        solve, spacing, steps: of the teacher's ODE, from t = 1 to 0.
        metric: d.
        time_distribution: of t.
        folder: where pairs are kept, in a folder of the name of the teacher's sha256.
        seed: of the noise of the kept pairs.

    Raises:
        ValueError: less than one step.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        solve: Solve,
        spacing: Spacing,
        metric: Metric,
        time_distribution: TimeDistribution,
        steps: int = 25,
        scales: Sequence[float] | None = None,
        folder: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher, scales)
        check_steps(steps)
        self.solve, self.spacing, self.steps = solve, spacing, steps
        self.metric = metric
        self.time_distribution = time_distribution
        self.seed = seed
        self.kept = None if folder is None else Kept(_place(folder, teacher))

    def check(self, denoiser: NetworkDenoiser) -> None:
        super().check(denoiser)
        self.time_distribution.check(denoiser.schedule)
        self.spacing(denoiser.schedule, self.steps)

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
        t = to_device_async(self.time_distribution(denoiser, randomness)[0], x0.device)
        source, kept = randomness, self.kept if denoiser.training else None
        if kept is not None and randomness.index is not None:
            source = KeyedRandomness(torch.as_tensor(randomness.index), seed=self.seed, stream=COUPLED)
        eps, strength = source.randn_like(x0), self.scale(source, x0)

        def draw(rows: Tensor) -> Tensor:
            teacher = TeacherDenoiser(self.teacher, denoiser.schedule, None if strength is None else strength[rows])
            whole = undropped(cond).select(rows)
            return ode(teacher, eps[rows], self.spacing(denoiser.schedule, self.steps), self.solve, whole)

        if kept is None or randomness.index is None:
            end = draw(torch.arange(len(x0), device=x0.device))
        else:
            end = kept(randomness.index, draw, like=x0)
        alpha, sigma = denoiser.schedule.coefficients(t)
        x = combine(alpha, end, sigma, eps)
        distance = self.metric(velocity(denoiser(x, t, told(denoiser, cond, strength))), eps - end)
        return Loss(distance, {"distance": distance}, t)


class Kept:
    """The x_0 of each sample, by its number; also in files of ``folder``, one a call that drew any, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._rows: dict[int, Tensor] | None = None

    def __call__(self, index: np.ndarray, draw: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """x_0 (B, ...) of the samples ``index`` (B,), on the device of ``like``; ``draw`` makes those of the given rows
        of the batch (N,)."""
        if self._rows is None:
            self._rows = {}
            for file in sorted(self.folder.glob("*.pt")) if self.folder is not None else ():
                saved = torch.load(file, weights_only=True)
                self._rows.update(zip(saved["index"].tolist(), saved["x0"], strict=True))
        numbers = [int(i) for i in index]
        new = [at for at, number in enumerate(numbers) if number not in self._rows]
        if new:
            drawn = draw(torch.tensor(new, device=like.device)).cpu()
            found = torch.tensor([numbers[at] for at in new])
            self._rows.update(zip(found.tolist(), drawn, strict=True))
            if self.folder is not None:
                name = hashlib.sha256(found.numpy().tobytes()).hexdigest()[:16]
                with replacing(self.folder / f"{name}.pt") as beside:
                    torch.save({"index": found, "x0": drawn}, beside)
        return to_device_async(torch.stack([self._rows[number] for number in numbers]), like.device)


@torch.no_grad()
def ode(denoiser: Denoiser, eps: Tensor, times: Sequence[float], solve: Solve, cond: Cond) -> Tensor:
    """Where the ODE carries noise eps (B, ...) from the first of ``times`` to the last, (B, ...)."""
    x = scale(denoiser.schedule.prior_std(denoiser.schedule.level(times[0])), eps)
    for t, s in pairwise(times):
        start, end = (torch.full((len(x),), at, dtype=torch.float64, device=x.device) for at in (t, s))
        x = solve(denoiser, x, start, end, cond)
    return x


def undropped(cond: Cond) -> Cond:
    """The condition from which another model makes its own, with the parts that training dropped."""
    if cond.source is None:
        return cond
    return replace(cond, source={name: v for name, v in cond.source.items() if not name.startswith(DROPPED)})


def check_steps(steps: int) -> None:
    """Raises:
    ValueError: less than one step.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"the teacher's ODE takes at least 1 step, got {steps!r}; set objective.steps")


def _place(folder: str, teacher: DiffusionModel) -> Path | None:
    """Of a teacher's pairs; nowhere for one that is no run."""
    identity = getattr(teacher, "identity", None)
    return None if identity is None else Path(folder) / identity.sha256
