"""Shortcut models: jumps of any length, each held to two of half its length."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, Step
from diffusion.objective.flow_map import average_velocity, check_jumps, straightened
from diffusion.objective.noising import squared_error
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.types import Cond, Denoiser, combine, expand, scale, to_device_async


class ShortcutObjective(Objective):
    """||u(x_t, t, s) - target||^2 of the average velocity u from t to s (Frans et al. 2025, algorithm 1).

    Most samples make the shortest jump, 1 / steps, and their target is the velocity of their own path, eps - x_0. The
    others jump by 1, 1 / 2, 1 / 4, ... or 2 / steps, from a multiple of that length, and their target is what two jumps
    of half the length make, by the averaged weights. The paper tells the network the length; here it is told
    where the jump lands. ``sampler=flow_map`` draws with any power of two of steps.

    Args:
        steps: the number of shortest jumps, a power of two.
        bootstrap: share of the samples that make longer jumps.
        clip: bound of the states between and of targets, on the straight path; none where ``None``.
        scale: of classifier-free guidance in the targets of jumps of 2 / steps, from which longer ones learn it; 1 is
            off. A guided model is sampled without guidance.

    Raises:
        ValueError: steps that are no power of two from 2, a share outside of [0, 1], a bound or scale that is not above
            0.
    """

    def __init__(
        self, steps: int = 128, bootstrap: float = 0.125, clip: float | None = 4.0, scale: float = 1.0
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2 or steps & (steps - 1):
            raise ValueError(
                f"shortest jumps are halved from 1, a power of two from 2, got {steps}; set objective.steps"
            )
        if not 0 <= bootstrap <= 1:
            raise ValueError(f"the share of longer jumps lies in [0, 1], got {bootstrap}; set objective.bootstrap")
        if clip is not None and not clip > 0:
            raise ValueError(f"states are bounded by a number above 0, or by null, got {clip}; set objective.clip")
        if not scale >= 0:
            raise ValueError(f"the scale of guidance is at least 0, and 1 is off, got {scale}; set objective.scale")
        self.steps, self.bootstrap, self.clip, self.scale = steps, bootstrap, clip, scale

    def check(self, denoiser: NetworkDenoiser) -> None:
        check_jumps(denoiser, "a shortcut model")

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
        longer = self.longer(randomness.place)
        t, s = self.jumps(randomness, longer)
        schedule, device = denoiser.schedule, x0.device
        eps = randomness.randn_like(x0)
        t, s, longer = (to_device_async(value, device) for value in (t, s, longer))
        alpha, sigma = schedule.coefficients(t)
        x = combine(alpha, x0, sigma, eps)
        target = eps - x0
        if len(longer):
            teacher = denoiser if step is None or step.average is None else step.average
            halved = self.halved(teacher, x[longer], t[longer], s[longer], cond.select(longer))
            target = target.index_copy(0, longer, halved.to(target))
        mse = squared_error(average_velocity(denoiser, x, t, s, cond), target)
        return Loss(mse, {"mse": mse}, t, mse)

    def longer(self, place: Tensor) -> Tensor:
        """Which samples make a longer jump, by their place (B,) in the batch: the same share of every batch."""
        return (((place + 1) * self.bootstrap).floor() > (place * self.bootstrap).floor()).nonzero().flatten()

    def jumps(self, randomness: Randomness, longer: Tensor) -> tuple[Tensor, Tensor]:
        """((B,) t, (B,) s), float64, on the host; ``longer``: which samples make a jump of more than 1 / steps."""
        level, at = randomness.rand().cpu(), randomness.rand().cpu()
        count = torch.full_like(level, self.steps)
        levels = self.steps.bit_length() - 1
        count[longer] = 2.0 ** (level[longer] * levels).floor().clamp(max=levels - 1)
        t = ((at * count).floor().clamp(max=count - 1) + 1) / count
        return t, t - 1 / count

    @torch.no_grad()
    def halved(self, teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        """The average velocity (B, ...) of two jumps from t to s over the middle."""
        middle = (t + s) / 2
        (size, u), (between, v), (_, w) = (straightened(teacher.schedule, at) for at in (t, middle, s))
        shortest = t - s < 3 / self.steps
        first = self.guided(teacher, x, t, middle, cond, shortest)
        z = self.bounded(combine(1 / size, x, v - u, first))
        second = self.guided(teacher, scale(between, z), middle, s, cond, shortest)
        return self.bounded(combine((u - v) / (u - w), first, (v - w) / (u - w), second))

    def guided(self, teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond, shortest: Tensor) -> Tensor:
        """The average velocity from t to s, under guidance where ``shortest`` (B,)."""
        plain = average_velocity(teacher, x, t, s, cond)
        if self.scale == 1:
            return plain
        if cond.is_empty:
            raise ValueError("a guided target needs a condition; set conditioner=label, or objective.scale=1")
        without = average_velocity(teacher, x, t, s, cond.drop())
        return torch.where(expand(shortest, x), torch.lerp(without, plain, self.scale), plain)

    def bounded(self, z: Tensor) -> Tensor:
        return z if self.clip is None else z.clamp(-self.clip, self.clip)
