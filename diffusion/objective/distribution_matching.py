"""Distribution matching: a generator of few steps, whose samples' scores a second network learns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.base import placed, to_other
from diffusion.model import DiffusionModel
from diffusion.objective.base import Adversary, Loss, Step, TimeDistribution, Weighting
from diffusion.objective.noising import squared_error
from diffusion.objective.reflow import check_steps, ode, undropped
from diffusion.objective.solve.base import Solve
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Denoiser, Prediction, Spacing, combine, scale, to_device_async


class DistributionMatchingObjective(Adversary, TaughtObjective):
    r"""1/2 ||x_0 - (x_0 - g)||^2 of a generated x_0, the bracket constant, g = (D_fake - D_teacher) / mean|x_0 -
    D_teacher|: its gradient is that of KL(generated || data) at a random noise level (Yin et al. 2024, DMD).

    D_teacher and D_fake are the x_0 of the teacher and of the rival, a copy of it that is trained on generated samples
    meanwhile, by the weighted squared error of a diffusion model (DMD2, Yin et al. 2024). Data are used by the
    adversarial loss alone.

    A sample is generated from noise at the first of ``times``. With several, the generator is trained at each: the
    state there is what it makes itself, x_0 and then fresh noise, as ``sampler=consistency`` with these times does.
    DMD2 draws one of them for each sample, and so matches the mixture of what the steps make: its gradient is 0 where
    that is the data's distribution, whatever the last step makes, which is what is sampled. ``joint`` matches the
    last step's x_0 alone, with the gradient through all steps.

    Args:
        teacher, scales: see :class:`diffusion.objective.teaching.TaughtObjective`.
        weighting, time_distribution: of the rival's loss.
        solve, spacing: of the teacher's ODE, for the regression.
        ratio: updates of the rival for one of the generator; 5 in DMD2.
        times: decreasing, where the generator starts.
        low, high: levels are drawn evenly between these times.
        floor: the least that g is divided by.
        regression: weight of ||x_0 - (the x_0 of the teacher's ODE from the same noise)||^2 (DMD); for one time.
        steps: of that ODE.
        adversarial: weight of softplus(-l(x_t)) in the generator's loss, l a linear map of the mean of what
            ``features`` gives, in the rival (DMD2; 0.003 there).
        rival_adversarial: weight of softplus(l(generated)) + softplus(-l(data)) in the rival's loss; 0.01 there.
        features: name of a module of the teacher's network, such as the one between encoder and decoder.
        rival_optimizer: parameters -> optimizer (a partial); of the generator's kind where ``None``.
        joint: match what all steps make together, with the gradient through them.

    Raises:
        ValueError: a ratio below 1, times that do not decrease in (0, 1], levels that are not 0 < low < high <= 1, a
            negative weight, a floor that is not above 0, a regression with several times, an adversarial loss without
            features.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        solve: Solve,
        spacing: Spacing,
        ratio: int = 5,
        times: Sequence[float] = (1.0,),
        low: float = 0.02,
        high: float = 0.98,
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
        TaughtObjective.__init__(self, teacher, scales)
        if not times or not 0 < times[-1] <= times[0] <= 1 or any(b >= a for a, b in pairwise(times)):
            raise ValueError(f"times decrease in (0, 1], at least one, got {list(times)}; set objective.times")
        if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 1:
            raise ValueError(f"the rival is updated once or more for each step, got {ratio!r}; set objective.ratio")
        if not 0 < low < high <= 1:
            raise ValueError(
                f"levels take 0 < low < high <= 1, got {low} and {high}; set objective.low and objective.high"
            )
        if not floor > 0:
            raise ValueError(f"the least divisor is above 0, got {floor}; set objective.floor")
        for name, weight in {
            "regression": regression,
            "adversarial": adversarial,
            "rival_adversarial": rival_adversarial,
        }.items():
            if not weight >= 0:
                raise ValueError(f"the weight of a loss is at least 0, got {weight}; set objective.{name}")
        check_steps(steps)
        if regression and len(times) > 1:
            raise ValueError(
                f"the regression is of one step from noise to data, and there are {len(times)} times; "
                "set objective.times=[1.0], or objective.regression=0"
            )
        if adversarial and features is None:
            raise ValueError(
                "an adversarial loss judges by features of the teacher's network; set objective.features to the name "
                "of one of its modules, or objective.adversarial=0"
            )
        self.weighting, self.time_distribution = weighting, time_distribution
        self.solve, self.spacing, self.steps = solve, spacing, steps
        self.ratio, self.times, self.low, self.high, self.floor = ratio, [float(t) for t in times], low, high, floor
        self.regression, self.adversarial, self.rival_adversarial = regression, adversarial, rival_adversarial
        self.rival_optimizer, self.joint = rival_optimizer, joint
        self.fake = FakeScore(teacher, features if adversarial else None)
        self.rival = self.fake

    def check(self, denoiser: NetworkDenoiser) -> None:
        TaughtObjective.check(self, denoiser)
        self.time_distribution.check(self.teacher.schedule)
        if self.regression:
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
        strength, schedule = self.scale(randomness, x0), denoiser.schedule
        eps = randomness.randn_like(x0)
        made = self.generated(denoiser, eps, told(denoiser, cond, strength), randomness)
        t = to_device_async(self.low + (self.high - self.low) * randomness.rand(), x0.device)
        alpha, sigma = schedule.coefficients(t)
        x = combine(alpha, made, sigma, randomness.randn_like(x0))
        teacher = TeacherDenoiser(self.teacher, schedule, strength)
        match, fake = self.match(teacher, made, x, t, cond, schedule)
        loss, logs = match, {"match": match}
        if self.adversarial:
            logs["adversarial"] = F.softplus(-fake)
            loss = loss + self.adversarial * logs["adversarial"]
        if self.regression:
            times = self.spacing(schedule, self.steps)
            logs["regression"] = squared_error(made, ode(teacher, eps, times, self.solve, undropped(cond)))
            loss = loss + self.regression * logs["regression"]
        return Loss(loss, logs, t)

    def match(
        self, teacher: Denoiser, made: Tensor, x: Tensor, t: Tensor, cond: Cond, schedule: Schedule
    ) -> tuple[Tensor, Tensor]:
        """(the loss (B,) of generated data with noise, x (B, ...) at t (B,), and the rival's judgement (B,) of x)."""
        with torch.set_grad_enabled(bool(self.adversarial) and torch.is_grad_enabled()):
            fake, judged = self.imitated(x, t, cond, schedule)
        with torch.no_grad():
            real = teacher(x, t, cond).x0
            push = scale(1 / self.distance(made, real), fake.x0 - real)
        return 0.5 * squared_error(made, (made - push).detach()), judged

    def distance(self, made: Tensor, real: Tensor) -> Tensor:
        """mean |x_0 - D_teacher| (B,), a constant."""
        return (made - real).detach().abs().flatten(1).mean(1).clamp(min=self.floor)

    def imitated(self, x: Tensor, t: Tensor, cond: Cond, schedule: Schedule) -> tuple[Prediction, Tensor]:
        """The rival's prediction for x (B, ...) at t (B,) of the student's schedule, and its judgement (B,)."""
        theirs: DiffusionModel = placed(self.teacher, x)
        own = theirs.own(x, cond)
        x, at = to_other(schedule, theirs.schedule, x, t)
        answer: tuple[Prediction, Tensor] = self.fake(x, at, own)
        return answer

    def rival_loss(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        randomness = randomness or GlobalRandomness(x0)
        eps, strength = randomness.randn_like(x0), self.scale(randomness, x0)
        with torch.no_grad():
            made = self.generated(denoiser, eps, told(denoiser, cond, strength), randomness)
        theirs: Any = self.teacher
        t = to_device_async(self.time_distribution(theirs, randomness)[0], x0.device)
        alpha, sigma = theirs.schedule.coefficients(t)
        noise = randomness.randn_like(x0)
        said, judged = self.imitated(combine(alpha, made, sigma, noise), t, cond, theirs.schedule)
        mse = squared_error(said.x0, made)
        loss = self.weighting.on_x0(2 * (alpha.log() - sigma.log())).to(mse) * mse
        if self.adversarial:
            _, genuine = self.imitated(combine(alpha, x0, sigma, noise), t, cond, theirs.schedule)
            loss = loss + self.rival_adversarial * (F.softplus(judged) + F.softplus(-genuine))
        return Loss(loss, {"mse": mse}, t)

    def generated(self, denoiser: NetworkDenoiser, eps: Tensor, cond: Cond, randomness: Randomness) -> Tensor:
        """x_0 (B, ...) from noise eps (B, ...), by all steps with a gradient where they are joint, and otherwise by as
        many as a draw says, the last with a gradient."""
        schedule = denoiser.schedule
        levels = [schedule.level(t) for t in self.times]
        states = [scale(schedule.prior_std(levels[0]), eps)]
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            for before, level in pairwise(levels):
                x0 = denoiser(states[-1], before.t, denoiser.towards(states[-1], 0.0, cond)).x0
                states.append(combine(level.alpha, x0, level.sigma, randomness.randn_like(x0)))
        x = states[-1]
        t: float | Tensor = levels[-1].t
        if len(levels) > 1 and not self.joint:
            chosen = to_device_async((randomness.rand() * len(levels)).long().clamp(max=len(levels) - 1), x.device)
            x = torch.stack(states)[chosen, torch.arange(len(eps), device=x.device)]
            t = torch.tensor(self.times, dtype=torch.float64, device=x.device)[chosen]
        return denoiser(x, t, denoiser.towards(x, 0.0, cond)).x0


class FakeScore(nn.Module):
    """A teacher's denoiser once more, to be trained, and a linear judgement of the features that one of its modules
    gives: their mean over all places, (B, C, ...) or tokens (B, N, C).

    Raises:
        ValueError: no module of that name in the teacher's network.
    """

    def __init__(self, teacher: DiffusionModel, features: str | None = None) -> None:
        super().__init__()
        self.denoiser = copy.deepcopy(teacher.denoiser).requires_grad_(True)
        self.head: nn.Linear | None = None
        self._seen: list[Tensor] = []
        if features is None:
            return
        network = dict(self.denoiser.network.named_modules())
        if features not in network:
            near = ", ".join(name for name in network if name and "." not in name)
            raise ValueError(f"the teacher's network has no module {features!r}, it has {near}; set objective.features")
        network[features].register_forward_hook(lambda module, inputs, output: self._seen.append(output))
        x = torch.zeros(1, *teacher.latent_shape)
        with torch.no_grad():
            self.denoiser(x, 0.5, teacher.own(x, Cond())).x0  # noqa: B018 - for what the module gives
        self.head = nn.Linear(self._pooled().shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        """x (B, ...) at t (B,) -> (its prediction, the judgement (B,), above 0 for data)."""
        prediction = self.denoiser(x, t, cond)
        judged = x.new_zeros(len(x)) if self.head is None else self.head(self._pooled()).flatten()
        return prediction, judged

    def _pooled(self) -> Tensor:
        seen = self._seen.pop()
        self._seen.clear()
        return seen.mean(1) if seen.ndim == 3 else seen.flatten(2).mean(2) if seen.ndim > 2 else seen
